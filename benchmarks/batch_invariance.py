"""
Same bits in any batch: how many bits differ without and with `batch_invariant`, and what it costs.

    python -m benchmarks.batch_invariance --corpus sentences.txt [--size original]

Bits: every layer, the mix and both final states of each sentence, in batches drawn anew, on one thread and on two,
against the sentence by itself. Words per second come from turns about in one process.
"""

import argparse
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.inference_speed import SIZES, read_sentences
from benchmarks.machine import describe
from elmo_hf import ElmoConfig, ElmoModel, batch_to_ids

BATCH_SIZES = (1, 8, 32, 64)
Batches = list[list[int]]


def results(model: ElmoModel, sentences: list[list[str]], batches: Batches) -> Iterator[tuple[int, Tensor]]:
    """All numbers of each sentence, one after another."""
    for batch in batches:
        outputs = model(batch_to_ids([sentences[index] for index in batch]), output_hidden_states=True)
        for row, index in enumerate(batch):
            words = [layer[row, : len(sentences[index])].flatten() for layer in outputs.hidden_states]
            mix = outputs.last_hidden_state[row, : len(sentences[index])].flatten()
            yield index, torch.cat([*words, mix, *(state[row].flatten() for state in outputs.lstm_states)])


def drawn_batches(number: int, draw: random.Random) -> Batches:
    left, batches = draw.sample(range(number), number), []
    while left:
        size = draw.choice((1, 2, 3, 8, 20, 32, 64, 128, 200))
        batches.append(left[:size])
        left = left[size:]
    return batches


def count_differences(model: ElmoModel, sentences: list[list[str]], batchings: int) -> tuple[int, int, float]:
    """Numbers whose bits differ, of how many, and the largest difference."""
    expected = dict(results(model, sentences, [[index] for index in range(len(sentences))]))
    draw, different, compared, largest = random.Random(0), 0, 0, 0.0
    threads = torch.get_num_threads()
    for number in range(batchings):
        torch.set_num_threads(1 + number % 2)
        model.clear_cache()
        for index, found in results(model, sentences, drawn_batches(len(sentences), draw)):
            different += int((found != expected[index]).sum())
            compared += found.numel()
            largest = max(largest, float((found - expected[index]).abs().max()))
    torch.set_num_threads(threads)
    return different, compared, largest


def rates(models: dict[str, ElmoModel], sentences: list[list[str]], batch_size: int, turns: int) -> dict[str, float]:
    """Words per second of each model, which take turns; every turn reads sentences of its own."""
    seconds, words = dict.fromkeys(models, 0.0), 0
    each = max(1, min(256, 16 * batch_size) // batch_size) * batch_size
    for turn in range(turns + 1):
        piece = [sentences[(turn * each + place) % len(sentences)] for place in range(each)]
        batches = [batch_to_ids(piece[start : start + batch_size]) for start in range(0, each, batch_size)]
        names = list(models) if turn % 2 else list(models)[::-1]
        for name in names:
            start = time.perf_counter()
            for ids in batches:
                models[name](ids)
            # The first turn packs weights.
            seconds[name] += (time.perf_counter() - start) * (turn > 0)
        words += sum(map(len, piece)) * (turn > 0)
    return {name: words / spent for name, spent in seconds.items()}


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="a tokenised sentence per line; the reference's without")
    parser.add_argument("--size", choices=SIZES, default="elmo-english")
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--batchings", type=int, default=20)
    parser.add_argument("--turns", type=int, default=8)
    arguments = parser.parse_args()
    print(describe())
    sentences = read_sentences(arguments.corpus)
    torch.manual_seed(0)
    plain = ElmoModel(ElmoConfig(**SIZES[arguments.size])).eval()
    invariant = ElmoModel(ElmoConfig(**SIZES[arguments.size], batch_invariant=True)).eval()
    invariant.load_state_dict(plain.state_dict())
    models = {"default": plain, "batch_invariant": invariant}

    table = Table(title=f"{arguments.size} size, words per second")
    for column in ("batch", *models, "ratio"):
        table.add_column(column, justify="right")
    for batch_size in BATCH_SIZES:
        found = rates(models, sentences, batch_size, arguments.turns)
        ratio = found["batch_invariant"] / found["default"]
        table.add_row(str(batch_size), *(f"{rate:,.0f}" for rate in found.values()), f"{ratio:.2f}")
    Console().print(table)

    some = sentences[: arguments.sentences]
    for name, model in models.items():
        different, compared, largest = count_differences(model, some, arguments.batchings)
        print(
            f"{name}: {different:,} of {compared:,} numbers differ ({different / max(compared, 1):.1%}), by at most "
            f"{largest:.1e} ({len(some):,} sentences, {arguments.batchings} batchings, threads 1 and 2)",
            flush=True,
        )


if __name__ == "__main__":
    main()
