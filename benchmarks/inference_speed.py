"""
Words per second on a CPU: this library, AllenNLP 2.10.1 and `torch.nn.LSTM(proj_size=...)`, in one process, in turn.

    python -m benchmarks.inference_speed --quick
    python -m benchmarks.inference_speed --corpus sentences.txt --size original
    python -m benchmarks.inference_speed --against CHECKOUT --corpus sentences.txt     # pairs with another version

Weights are random, sentences real: the 30 news sentences of the reference fixture, or a file with one tokenised
sentence per line. Word vectors are forgotten before every timed pass, so nothing is remembered from an earlier one.
`--against` times this version and another one in turn instead, on sentences that no earlier call has read.
`torch.nn.LSTM` stands for the speed of PyTorch itself: it has no clips, and gets the word vectors for nothing. `bound`
is what the products of the LSTMs alone would allow, with the best kernel at hand for each number of rows and the
better of two arrangements of the directions, in the same run. `words` is the share of our time that the vectors of
words take, which no earlier pass has left.
"""

import argparse
import importlib.util
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.allennlp_modules import load_allennlp
from benchmarks.bound import BareProducts
from benchmarks.machine import best_times, describe, sgemm_rate
from elmo_hf import ElmoConfig, ElmoModel, batch_to_ids, default_model_path
from elmo_hf.checkpoints.bilm_hdf5 import write_weights
from elmo_hf.checkpoints.bilm_options import write_options
from elmo_hf.engine_elmo import encode_words
from tests.reference import reference_folder

_PACKAGED = ElmoConfig.from_pretrained(default_model_path())
SIZES = {
    "elmo-english": {
        name: getattr(_PACKAGED, name)
        for name in ("cell_size", "projection_dim", "num_highway_layers", "char_cnn_filters")
    },
    "small": {"cell_size": 1024, "projection_dim": 128, "num_highway_layers": 1},
    "medium": {"cell_size": 2048, "projection_dim": 256, "num_highway_layers": 1},
    "original": {},
}
BATCH_SIZES = (1, 8, 32, 64)
SORTED_BATCH_SIZES = (32, 64, 128)

# Arrangements of the bare products.
SIDE_BY_SIDE, IN_TURN = "side by side", "in turn"
# The vectors of words alone, by this library.
WORDS = "words"

Sentences = list[list[str]]


class PlainLstms(nn.Module):
    """The LSTMs of a biLM as PyTorch offers them: no clips, packed sequences, skip connections."""

    def __init__(self, config: ElmoConfig):
        super().__init__()
        self.width = config.projection_dim
        self.layers = nn.ModuleList(
            nn.LSTM(config.projection_dim, config.cell_size, proj_size=config.projection_dim)
            for _ in range(2 * config.num_hidden_layers)
        )

    def forward(self, lengths: list[int]) -> torch.Tensor:
        words = [torch.zeros(length + 2, self.width) for length in lengths]
        packed = nn.utils.rnn.pack_sequence(words, enforce_sorted=False)
        output = packed.data
        for layer in self.layers:
            output, _ = layer(nn.utils.rnn.PackedSequence(output, *packed[1:]))[0][0:2]
        return output


def model_pair(size: str, folder: Path) -> tuple[ElmoModel, nn.Module, PlainLstms]:
    """Ours and AllenNLP's with the same random weights, and PyTorch's LSTMs of that size."""
    torch.manual_seed(0)
    config = ElmoConfig(**SIZES[size])
    ours = ElmoModel(config).eval()
    options, weights = folder / f"{size}.json", folder / f"{size}.hdf5"
    write_options(config, options)
    write_weights(ours, config, weights)
    theirs = load_allennlp()._ElmoBiLm(str(options), str(weights)).eval()
    weights.unlink()
    return ours, theirs, PlainLstms(config).eval()


def passes(
    ours: ElmoModel, theirs: nn.Module, plain: PlainLstms, batches: list[Sentences]
) -> dict[str, Callable[[], object]]:
    """One pass over the batches by each, from tokenised sentences to vectors of all layers."""
    ids = [batch_to_ids(batch) for batch in batches]

    def run_ours():
        ours.character_encoder.word_vectors.forget_words()
        for batch in ids:
            ours(batch, output_hidden_states=True)

    def run_theirs():
        for batch in ids:
            theirs(batch)

    def run_plain():
        for batch in batches:
            plain([len(sentence) for sentence in batch])

    def run_words():
        ours.character_encoder.word_vectors.forget_words()
        for batch in ids:
            encode_words(ours.character_encoder, batch.flatten(0, 1), batch.any(-1))

    bare = BareProducts(ours, [[len(sentence) for sentence in batch] for batch in batches])
    bounds = {name: partial(bare.run, name == SIDE_BY_SIDE) for name in (SIDE_BY_SIDE, IN_TURN)}
    return {"elmo_hf": run_ours, "AllenNLP": run_theirs, "nn.LSTM": run_plain, WORDS: run_words, **bounds}


def rates_and_shares(
    tasks: dict[str, Callable[[], object]], words: int, rounds: int
) -> tuple[dict[str, float], tuple[str, str]]:
    """
    Words per second of the libraries and of the better of both arrangements of the bare products; how much of that the
    model reaches, and the share of its time that the vectors of words take.
    """
    rates = {name: words / seconds for name, seconds in best_times(tasks, rounds).items()}
    of_words = rates.pop(WORDS)
    rates["bound"] = max(rates.pop(SIDE_BY_SIDE), rates.pop(IN_TURN))
    return rates, (f"{rates['elmo_hf'] / rates['bound']:.2f}", f"{rates['elmo_hf'] / of_words:.2f}")


def split(sentences: Sentences, batch_size: int) -> list[Sentences]:
    return [sentences[start : start + batch_size] for start in range(0, len(sentences), batch_size)]


def num_words(sentences: Sentences) -> int:
    return sum(map(len, sentences))


def useful_work(config: ElmoConfig) -> float:
    """Floating-point operations of the LSTMs per position; the boundaries are positions, too."""
    one_layer = 4 * config.cell_size * 2 * config.projection_dim + config.cell_size * config.projection_dim
    return 2 * 2 * config.num_hidden_layers * one_layer


def unsorted_table(size: str, models: tuple, sentences: Sentences, limits: dict[int, int], rounds: int) -> Table:
    table = Table(title=f"{size} size, unsorted, words per second")
    columns = ("batch", "sentences", "elmo_hf", "AllenNLP", "nn.LSTM", "bound", "x AllenNLP", "of the bound", "words")
    for column in columns:
        table.add_column(column, justify="right")
    for batch_size in BATCH_SIZES:
        some = sentences[: limits[batch_size]]
        rates, shares = rates_and_shares(passes(*models, split(some, batch_size)), num_words(some), rounds)
        table.add_row(
            str(batch_size),
            str(len(some)),
            *(f"{rate:.0f}" for rate in rates.values()),
            f"{rates['elmo_hf'] / rates['AllenNLP']:.1f}",
            *shares,
        )
    return table


def sorted_table(size: str, models: tuple, sentences: Sentences, rounds: int, alone: int) -> Table:
    """A corpus sorted by length. AllenNLP's best batch size counts, and, beside it, one sentence at a time."""
    table = Table(title=f"{size} size, {len(sentences)} sentences sorted by length, words per second")
    for column in ("batch", "elmo_hf", "AllenNLP", "nn.LSTM", "bound", "of the bound", "words", "share of sgemm"):
        table.add_column(column, justify="right")
    ours, theirs, plain = models
    corpus = sorted(sentences, key=len, reverse=True)
    positions = num_words(corpus) + 2 * len(corpus)
    best: dict[str, float] = {}
    peak = sgemm_rate()
    # Words per second, if nothing but the products of the LSTMs took time.
    at_peak = peak * num_words(corpus) / (useful_work(ours.config) * positions)
    for batch_size in SORTED_BATCH_SIZES:
        rates, shares = rates_and_shares(passes(*models, split(corpus, batch_size)), num_words(corpus), rounds)
        columns = (f"{rate:.0f}" for rate in rates.values())
        table.add_row(str(batch_size), *columns, *shares, f"{rates['elmo_hf'] / at_peak:.0%}")
        best = {name: max(rate, best.get(name, 0)) for name, rate in rates.items()}
    step = max(1, len(corpus) // alone)
    some = corpus[::step]
    seconds = best_times({"AllenNLP": passes(ours, theirs, plain, split(some, 1))["AllenNLP"]}, 1)
    one_by_one = num_words(some) / seconds["AllenNLP"]
    table.caption = (
        f"best against best: {best['elmo_hf'] / best['AllenNLP']:.1f} x AllenNLP, "
        f"against AllenNLP one sentence at a time ({one_by_one:.0f}): {best['elmo_hf'] / one_by_one:.1f} x; "
        f"sgemm {peak / 1e9:.0f} GFLOP/s, LSTM work alone counted, which at that rate would be "
        f"{at_peak / best['AllenNLP']:.1f} x AllenNLP"
    )
    return table


def load_package(checkout: Path) -> ModuleType:
    """The package of another checkout, under a name of its own; it is not registered with the Auto classes."""
    folder = checkout / "elmo_hf"
    spec = importlib.util.spec_from_file_location(
        "other_elmo_hf", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    package = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = package
    with ExitStack() as stack:
        for name in ("_BaseAutoModelClass.register", "AutoConfig.register", "AutoTokenizer.register"):
            module = "tokenization_auto" if "Tokenizer" in name else "configuration_auto"
            module = "auto_factory" if name.startswith("_") else module
            stack.enter_context(mock.patch(f"transformers.models.auto.{module}.{name}"))
        spec.loader.exec_module(package)
    return package


def pairs_table(
    size: str, other: ModuleType, sentences: Iterator[list[str]], limits: dict[int, int], rounds: int
) -> Table:
    """This version and another one, in turn, on the same sentences; each round reads new ones."""
    table = Table(title=f"{size} size, unsorted, new sentences each round, words per second")
    for column in ("batch", "before", "now", "ratio", "lowest and highest round", "largest difference"):
        table.add_column(column, justify="right")
    torch.manual_seed(0)
    now = ElmoModel(ElmoConfig(**SIZES[size])).eval()
    before = other.ElmoModel(other.ElmoConfig(**SIZES[size])).eval()
    before.load_state_dict(now.state_dict())
    for batch_size in BATCH_SIZES:
        ratios, seconds, words, difference = [], {before: 0.0, now: 0.0}, 0, 0.0
        for turn in range(rounds + 1):
            some = list(islice(sentences, limits[batch_size]))
            if len(some) < limits[batch_size]:
                raise SystemExit("`--corpus` must have more sentences for so many rounds.")
            batches = [batch_to_ids(batch) for batch in split(some, batch_size)]
            found, spent = {}, {}
            for model in (before, now) if turn % 2 else (now, before):
                start = time.perf_counter()
                found[model] = [model(batch, output_hidden_states=True).hidden_states[-1] for batch in batches]
                spent[model] = time.perf_counter() - start
            pairs = zip(found[before], found[now], strict=True)
            difference = max(difference, *((one - two).abs().max().item() for one, two in pairs))
            # The first round prepares.
            if turn:
                ratios.append(spent[before] / spent[now])
                words += num_words(some)
                seconds = {model: seconds[model] + spent[model] for model in seconds}
        table.add_row(
            str(batch_size),
            f"{words / seconds[before]:.0f}",
            f"{words / seconds[now]:.0f}",
            f"{sorted(ratios)[len(ratios) // 2]:.2f}",
            f"{min(ratios):.2f} {max(ratios):.2f}",
            f"{difference:.1e}",
        )
    return table


def read_sentences(path: Path | None) -> Sentences:
    if path is None:
        rows = json.loads((reference_folder() / "sentences.json").read_text(encoding="utf-8"))
        return [sentence.split() for row in rows for sentence in row]
    with path.open(encoding="utf-8", errors="replace") as lines:
        return [words for line in lines if (words := line.split())]


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--corpus", type=Path, help="tokenised sentences, one per line; those of the reference if absent"
    )
    parser.add_argument("--sentences", type=int, default=2000, help="sentences of the sorted corpus")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="time pairs with the version in this folder")
    parser.add_argument("--size", choices=SIZES, action="append", help="all sizes without it")
    parser.add_argument("--rounds", type=int, default=3, help="the fastest counts")
    parser.add_argument("--quick", action="store_true", help="fewer sentences and rounds, under ten minutes")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sentences, arguments.rounds = min(arguments.sentences, 256), 2

    sentences = read_sentences(arguments.corpus)
    random.Random(0).shuffle(sentences)
    # The unsorted batches: each size gets enough words for a steady figure.
    limits = {1: 16, 8: 64, 32: 128, 64: 128}
    if arguments.quick:
        limits = {1: 8, 8: 32, 32: 64, 64: 64}
    few = (sentences * (max(limits.values()) // len(sentences) + 1))[: max(limits.values())]

    console = Console(width=110)
    console.print(describe())
    if arguments.against:
        other = load_package(arguments.against)
        for size in arguments.size or SIZES:
            few_sentences = limits if size == "original" else {batch: 4 * number for batch, number in limits.items()}
            unread = iter(sentences) if arguments.corpus else iter(sentences * 1000)
            console.print(pairs_table(size, other, unread, few_sentences, arguments.rounds))
        return
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.size or SIZES:
            models = model_pair(size, Path(folder))
            console.print(unsorted_table(size, models, few, limits, arguments.rounds))
            corpus = (sentences * (arguments.sentences // len(sentences) + 1))[: arguments.sentences]
            console.print(sorted_table(size, models, corpus, max(1, arguments.rounds - 1), alone=12))


if __name__ == "__main__":
    main()
