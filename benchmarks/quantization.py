"""
What 8-bit weights gain and cost: words a second and the cosine of every layer to float32.

    python -m benchmarks.quantization

Speed at the original size with random weights; fidelity there, and on the trained weights of the reference fixture.
"""

import argparse
import random
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.inference_speed import SIZES, Sentences, num_words, read_sentences, split
from benchmarks.machine import best_times, describe
from elmo_hf import ElmoConfig, ElmoModel, batch_to_ids, quantize
from elmo_hf.checkpoints.bilm_hdf5 import read_model
from tests.reference import reference_folder

# Sentences for each batch size.
BATCHES = {1: 12, 8: 48, 32: 64}


def speed_table(model: ElmoModel, quantized: ElmoModel, sentences: Sentences, rounds: int) -> Table:
    table = Table(title="original size, words a second")
    for column in ("batch", "float32", "int8", "ratio"):
        table.add_column(column, justify="right")
    for batch_size, number in BATCHES.items():
        some = sentences[:number]
        batches = [batch_to_ids(batch) for batch in split(some, batch_size)]

        def run(chosen: ElmoModel, batches=batches):
            chosen.character_encoder.word_vectors.clear()
            for batch in batches:
                chosen(batch)

        seconds = best_times({"float32": lambda run=run: run(model), "int8": lambda run=run: run(quantized)}, rounds)
        rates = [num_words(some) / second for second in seconds.values()]
        table.add_row(str(batch_size), *(f"{rate:.0f}" for rate in rates), f"{rates[1] / rates[0]:.1f}")
    return table


def fidelity_table(models: dict[str, tuple[ElmoModel, ElmoModel]], sentences: Sentences) -> Table:
    table = Table(title="cosine of int8 to float32, word by word")
    for column in ("weights", "layer", "mean", "lowest"):
        table.add_column(column, justify="right")
    ids = batch_to_ids(sentences)
    for name, pair in models.items():
        exact, rounded = (model(ids, output_hidden_states=True) for model in pair)
        for layer, (one, other) in enumerate(zip(exact.hidden_states, rounded.hidden_states, strict=True)):
            cosine = torch.cosine_similarity(one[exact.mask], other[exact.mask], dim=-1)
            table.add_row(name, str(layer), f"{cosine.mean():.5f}", f"{cosine.min():.5f}")
    return table


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="a tokenised sentence a line; the reference sentences without it")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    sentences = read_sentences(arguments.corpus)
    random.Random(0).shuffle(sentences)
    few = (sentences * (64 // len(sentences) + 1))[:64]

    torch.manual_seed(0)
    model = ElmoModel(ElmoConfig(**SIZES["original"])).eval()
    quantized = quantize(model)
    folder = reference_folder()
    trained = read_model(folder / "options.json", folder / "lm_weights.hdf5").eval()
    console = Console(width=100)
    console.print(describe())
    console.print(speed_table(model, quantized, few, arguments.rounds))
    pairs = {"random, original size": (model, quantized), "trained, tiny": (trained, quantize(trained))}
    console.print(fidelity_table(pairs, few[:16]))


if __name__ == "__main__":
    main()
