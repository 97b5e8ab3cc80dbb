"""
What fewer bits gain and cost: words per second and the cosine of every layer to float32.

    python -m benchmarks.quantization

`bfloat16` is a model loaded so, as it computes on this CPU; `plain bfloat16` is the same without the copy in float32
that is taken where the CPU would emulate products or is no faster with them; `int8` is `quantize(model)`. Speed with
random weights at the original size and with those of the packaged model; fidelity there, and on the trained weights of
the reference fixture.
"""

import argparse
import copy
import random
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from benchmarks.inference_speed import SIZES, Sentences, num_words, read_sentences, split
from benchmarks.machine import best_times, describe
from elmo_hf import ElmoConfig, ElmoModel, batch_to_ids, load_default, quantize
from elmo_hf.checkpoints.bilm_hdf5 import read_model
from elmo_hf.engine_elmo import Float32Bilm
from tests.reference import reference_folder

# Sentences for each batch size.
BATCHES = {1: 12, 8: 48, 32: 64, 64: 128}

Kinds = dict[str, Callable[[torch.Tensor], object]]


def kinds_of(model: ElmoModel) -> Kinds:
    """The same model in each precision: from character ids to outputs."""
    half, quantized = copy.deepcopy(model).bfloat16(), quantize(model)
    plain_half = copy.deepcopy(half)

    def plainly(ids: torch.Tensor) -> object:
        with mock.patch.object(
            Float32Bilm, "modules", lambda self, characters, encoder, num_sentences: (characters, encoder)
        ):
            return plain_half(ids, output_hidden_states=True)

    return {
        "float32": lambda ids: model(ids, output_hidden_states=True),
        "bfloat16": lambda ids: half(ids, output_hidden_states=True),
        "plain bfloat16": plainly,
        "int8": lambda ids: quantized(ids, output_hidden_states=True),
    }


def speed_table(name: str, kinds: Kinds, sentences: Sentences, rounds: int) -> Table:
    table = Table(title=f"{name}, words per second (times float32)")
    for column in ("batch", *kinds):
        table.add_column(column, justify="right")
    for batch_size, number in BATCHES.items():
        some = (sentences * (number // len(sentences) + 1))[:number]
        batches = [batch_to_ids(batch) for batch in split(some, batch_size)]
        tasks = {kind: partial(run_all, run, batches) for kind, run in kinds.items()}
        rates = {kind: num_words(some) / second for kind, second in best_times(tasks, rounds).items()}
        cells = [f"{rate:,.0f} ({rate / rates['float32']:.2f})" for rate in rates.values()]
        table.add_row(str(batch_size), *cells)
    return table


def run_all(run: Callable[[torch.Tensor], object], batches: Iterable[torch.Tensor]):
    for batch in batches:
        run(batch)


def fidelity_table(models: dict[str, Kinds], sentences: Sentences) -> Table:
    table = Table(title="cosine to float32, word by word; largest difference")
    for column in ("weights", "precision", "layer", "mean", "lowest", "difference"):
        table.add_column(column, justify="right")
    ids = batch_to_ids(sentences)
    for name, kinds in models.items():
        exact = kinds["float32"](ids)
        for kind in list(kinds)[1:]:
            rounded = kinds[kind](ids)
            for layer, (one, other) in enumerate(zip(exact.hidden_states, rounded.hidden_states, strict=True)):
                first, second = one[exact.mask], other[exact.mask].float()
                cosine = torch.cosine_similarity(first, second, dim=-1)
                numbers = [f"{cosine.mean():.5f}", f"{cosine.min():.5f}", f"{(first - second).abs().max():.1e}"]
                table.add_row(name, kind, str(layer), *numbers)
    return table


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--corpus", type=Path, help="a tokenised sentence per line; the reference sentences without it"
    )
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    sentences = read_sentences(arguments.corpus)
    random.Random(0).shuffle(sentences)

    torch.manual_seed(0)
    folder = reference_folder()
    models = {
        "random, original size": ElmoModel(ElmoConfig(**SIZES["original"])).eval(),
        "elmo-english": load_default()[0],
        "trained, tiny": read_model(folder / "options.json", folder / "lm_weights.hdf5").eval(),
    }
    kinds = {name: kinds_of(model) for name, model in models.items()}
    console = Console(width=110)
    console.print(describe())
    for name in ("random, original size", "elmo-english"):
        console.print(speed_table(name, kinds[name], sentences, arguments.rounds))
    console.print(fidelity_table(kinds, sentences[:64]))


if __name__ == "__main__":
    main()
