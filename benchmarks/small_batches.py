"""
What bounds the speed of small batches: how fast this machine reads memory, and how much of that each library reaches.

    python -m benchmarks.small_batches

A word of a batch of one takes one look at every recurrent weight of its layer, and nothing but the largest caches
could keep them until the next word. So the bytes of weights a second, beside what the machine reads at most, tell how
far a library is from the end. From a few rows on, the products themselves are the limit; their rate is printed beside.
"""

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.inference_speed import model_pair, num_words, passes, read_sentences, split
from benchmarks.machine import best_times, describe
from elmo_hf import ElmoConfig
from elmo_hf.lstm_elmo import packed_product, single_row_product

ROUNDS = 5
# More than the caches of today's machines hold.
LARGE = 64 * 1024 * 1024


def recurrent_bytes(config: ElmoConfig) -> int:
    """Bytes of float32 weights that one step of all layers in both directions reads."""
    one_layer = 4 * config.cell_size * config.projection_dim + config.cell_size * config.projection_dim
    return 4 * 2 * config.num_hidden_layers * one_layer


def in_two_threads(tasks: list[Callable[[], object]]) -> float:
    """Seconds until both tasks are done, each on a thread of its own, the best of several rounds."""

    def run(task: Callable[[], object]):
        torch.set_num_threads(1)
        with torch.inference_mode():
            task()

    best = float("inf")
    for _ in range(ROUNDS):
        threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        best = min(best, time.perf_counter() - start)
    return best


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

        seconds = in_two_threads([task(products[:2]), task(products[2:])])
        elements = repeats * sum(weight.numel() for weight in weights)
        table.add_row(str(rows), f"{4 * elements / seconds / 1e9:.0f}", f"{2 * rows * elements / seconds / 1e9:.0f}")
    return table


@torch.inference_mode()
def main():
    console = Console(width=110)
    console.print(describe())
    numbers = torch.ones(LARGE)
    reading = 4 * LARGE / best_times({"sum": numbers.sum}, ROUNDS)["sum"]
    console.print(f"Reading memory, both threads: {reading / 1e9:.0f} GB/s (sum of {4 * LARGE / 1e6:.0f} MB).")

    config = ElmoConfig()
    console.print(product_table(config))

    sentences = read_sentences(None)[:6]
    steps = num_words(sentences) + 2 * len(sentences)
    table = Table(title="original size, one sentence at a time", caption="of what reading memory gives")
    for column in ("", "words/s", "GB/s of recurrent weights", "share"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        models = model_pair("original", Path(folder))
    for name, seconds in best_times(passes(*models, split(sentences, 1)), ROUNDS).items():
        rate = steps * recurrent_bytes(config) / seconds
        table.add_row(name, f"{num_words(sentences) / seconds:.0f}", f"{rate / 1e9:.1f}", f"{rate / reading:.0%}")
    console.print(table)


if __name__ == "__main__":
    main()
