"""
Where one way through the layers overtakes another on this CPU: what the constants of `elmo_hf/engine_elmo.py` rest on.

    python -m benchmarks.thresholds --corpus SENTENCES

Words per second of a model by the number of sentences in a batch, with both directions in one batch of two and with
each on half the threads (`TOGETHER_LIMITS`); with bfloat16 instructions also those of the model in bfloat16, with
products in bfloat16 and in float32 (`BFLOAT16_SENTENCES`). Random weights, and vectors of words that are known.
"""

import argparse
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.inference_speed import SIZES, Sentences, num_words, read_sentences, split
from benchmarks.machine import best_times, describe
from benchmarks.quantization import run_all
from elmo_hf import ElmoConfig, ElmoModel, batch_to_ids, engine_elmo
from elmo_hf.products_elmo import is_emulated

# The packaged model before `elmo-english`, whose layers are the smallest that were released.
SMALLER = {"elmo-novels": {"cell_size": 384, "projection_dim": 160, "num_highway_layers": 1}}
BATCH_SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
SENTENCES = 96

Run = Callable[[torch.Tensor], object]


def with_constants(run: Run, **constants: object) -> Run:
    def patched(ids: torch.Tensor) -> object:
        with mock.patch.multiple(engine_elmo, **constants):
            return run(ids)

    return patched


def table(title: str, ways: dict[str, Run], sentences: Sentences, rounds: int) -> Table:
    """Words per second of two ways, and the second one's times the first's."""
    found = Table(title=title)
    for column in ("sentences", *ways, "ratio"):
        found.add_column(column, justify="right")
    for batch_size in BATCH_SIZES:
        some = sentences[: max(8, SENTENCES // 2 if batch_size < 8 else SENTENCES)]
        batches = [batch_to_ids(batch) for batch in split(some, batch_size)]
        tasks = {name: partial(run_all, run, batches) for name, run in ways.items()}
        rates = [num_words(some) / seconds for seconds in best_times(tasks, rounds).values()]
        found.add_row(str(batch_size), *(f"{rate:,.0f}" for rate in rates), f"{rates[1] / rates[0]:.2f}")
    return found


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="a tokenised sentence per line; those of the reference without it")
    parser.add_argument("--size", choices=[*SMALLER, *SIZES], action="append", help="all but the original without it")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    sentences = read_sentences(arguments.corpus)
    random.Random(0).shuffle(sentences)
    console = Console(width=100)
    console.print(describe())
    sizes = {**SMALLER, **SIZES}
    for size in arguments.size or [size for size in sizes if size != "original"]:
        torch.manual_seed(0)
        model = ElmoModel(ElmoConfig(**sizes[size])).eval()
        ways = {
            "apart": with_constants(model, TOGETHER_LIMITS=()),
            "together": with_constants(model, TOGETHER_LIMITS=((1 << 30, 1 << 30),)),
        }
        console.print(table(f"{size}, directions", ways, sentences, arguments.rounds))
        if not is_emulated(torch.bfloat16):
            model.bfloat16()
            ways = {
                "float32": with_constants(model, BFLOAT16_WEIGHT=1 << 30, BFLOAT16_SENTENCES=1 << 30),
                "bfloat16": with_constants(model, BFLOAT16_SENTENCES=0),
            }
            console.print(table(f"{size} in bfloat16, products", ways, sentences, arguments.rounds))


if __name__ == "__main__":
    main()
