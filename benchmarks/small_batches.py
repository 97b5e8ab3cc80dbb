"""
What bounds the speed of small batches: how fast this machine reads memory, and how much of that each library reaches.

    python -m benchmarks.small_batches

A word of a batch of one takes one look at every recurrent weight of its layer, and nothing but the largest caches
could keep them until the next word. So the bytes of weights a second, beside what the machine reads at most, tell how
far a library is from the end. From a few rows on, the products themselves are the limit: the same products are timed
with nothing else around them.
"""

import random
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.inference_speed import Sentences, model_pair, num_words, passes, read_sentences, split
from benchmarks.machine import best_times, describe
from elmo_hf import ElmoConfig, ElmoModel
from elmo_hf.lstm_elmo import packed_product, prepare_products, run_side_by_side, single_row_product

ROUNDS = 5
# More than the caches of today's machines hold.
LARGE = 64 * 1024 * 1024


def recurrent_bytes(config: ElmoConfig) -> int:
    """Bytes of float32 weights that one step of all layers in both directions reads."""
    one_layer = 4 * config.cell_size * config.projection_dim + config.cell_size * config.projection_dim
    return 4 * 2 * config.num_hidden_layers * one_layer


def product_table(config: ElmoConfig) -> Table:
    """The recurrent product of one layer in each direction, side by side, as the inference path calls it."""
    table = Table(title="recurrent products, both directions side by side")
    for column in ("rows", "GB/s of weights", "GFLOP/s"):
        table.add_column(column, justify="right")
    # Two layers in turn, so that the weights of one push out those of the other, as in the model.
    weights = [torch.randn(4 * config.cell_size, config.projection_dim) for _ in range(4)]
    repeats = 4
    for rows in (1, 2, 4, 8, 16, 32):
        products = [(single_row_product if rows == 1 else packed_product)(weight) for weight in weights]
        inputs = torch.randn(rows, config.projection_dim)

        def task(pair: list, inputs: torch.Tensor = inputs) -> Callable[[], object]:
            return lambda: [product(inputs) for _ in range(repeats) for product in pair]

        tasks = [task(products[:2]), task(products[2:])]
        seconds = best_times({"products": partial(run_side_by_side, tasks)}, ROUNDS)["products"]
        elements = repeats * sum(weight.numel() for weight in weights)
        table.add_row(str(rows), f"{4 * elements / seconds / 1e9:.0f}", f"{2 * rows * elements / seconds / 1e9:.0f}")
    return table


def products_alone(model: ElmoModel, batches: list[Sentences]) -> Callable[[], object]:
    """The matrix products of a pass over the batches, of the same shapes and on the same threads, and nothing else."""
    directions = [model.encoder.forward_layers, model.encoder.backward_layers]
    config = model.config

    def task(direction: nn.ModuleList, sentences: Sentences) -> Callable[[], object]:
        lengths = [len(sentence) + 2 for sentence in sentences]
        running = [sum(length > step for length in lengths) for step in range(max(lengths))]
        hidden, cells = torch.randn(len(lengths), config.projection_dim), torch.randn(len(lengths), config.cell_size)
        words = torch.randn(sum(lengths), config.projection_dim)
        products = [prepared[layer, len(lengths) == 1] for layer in direction]

        def run():
            for inputs, recurrent, projection in products:
                inputs(words)
                for rows in running:
                    recurrent(hidden[:rows])
                    projection(cells[:rows])

        return run

    prepared = {
        (layer, single): prepare_products(layer.weights(), single)
        for direction in directions
        for layer in direction
        for single in {len(sentences) == 1 for sentences in batches}
    }
    pairs = [[task(direction, sentences) for direction in directions] for sentences in batches]
    return lambda: [run_side_by_side(pair) for pair in pairs]


def batch_table(models: tuple, sentences: Sentences, batch_size: int, reading: float) -> Table:
    """Each library's words a second, and what the products alone would give."""
    config = models[0].config
    batches = split(sentences, batch_size)
    steps = sum(2 + max(map(len, batch)) for batch in batches)
    table = Table(title=f"original size, batches of {batch_size}")
    for column in ("", "words/s", "x AllenNLP", "GB/s of recurrent weights", "of what reading gives"):
        table.add_column(column, justify="right")
    tasks = passes(*models, batches) | {"elmo_hf, products alone": products_alone(models[0], batches)}
    all_seconds = best_times(tasks, ROUNDS)
    for name, seconds in all_seconds.items():
        rate = steps * recurrent_bytes(config) / seconds
        table.add_row(
            name,
            f"{num_words(sentences) / seconds:.0f}",
            f"{all_seconds['AllenNLP'] / seconds:.1f}",
            f"{rate / 1e9:.1f}",
            f"{rate / reading:.0%}",
        )
    return table


@torch.inference_mode()
def main():
    console = Console(width=110)
    console.print(describe())
    numbers = torch.ones(LARGE)
    reading = 4 * LARGE / best_times({"sum": numbers.sum}, ROUNDS)["sum"]
    console.print(f"Reading memory, both threads: {reading / 1e9:.0f} GB/s (sum of {4 * LARGE / 1e6:.0f} MB).")
    console.print(product_table(ElmoConfig()))

    sentences = read_sentences(None)
    random.Random(0).shuffle(sentences)
    with tempfile.TemporaryDirectory() as folder:
        models = model_pair("original", Path(folder))
    console.print(batch_table(models, sentences[:6], 1, reading))
    console.print(batch_table(models, sentences[:24], 8, reading))


if __name__ == "__main__":
    main()
