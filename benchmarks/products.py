"""
The forms in which a weight can be multiplied on a CPU, side by side on two threads as both directions run.

    python -m benchmarks.products

Milliseconds of one product of `rows` inputs with the recurrent weight of a layer: as PyTorch does it, as `elmo_hf`
multiplies with a weight as it is, packed and transposed as `elmo_hf` prepares it.
"""

from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from benchmarks.inference_speed import SIZES
from benchmarks.machine import best_times, describe
from elmo_hf import ElmoConfig
from elmo_hf.engine_elmo import run_in_threads
from elmo_hf.products_elmo import PackedProduct, multiply, transposed_product

ROUNDS = 7
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def milliseconds(weights: list[Tensor], rows: int) -> dict[str, float]:
    """One product of each form; `weights` are two for each of two threads, so that each pushes out the other."""
    inputs = torch.randn(rows, weights[0].shape[1])
    forms: dict[str, list[Callable[[Tensor], Tensor]]] = {
        "F.linear": [lambda x, weight=weight: F.linear(x, weight) for weight in weights],
        "as it is": [lambda x, weight=weight: multiply(x, weight) for weight in weights],
        "packed": [PackedProduct(weight) for weight in weights],
        "transposed": [transposed_product(weight) for weight in weights],
    }

    def both(products: list[Callable[[Tensor], Tensor]]) -> Callable[[], object]:
        return lambda: run_in_threads(
            [lambda half=half: [product(inputs) for product in half] for half in (products[:2], products[2:])]
        )

    seconds = best_times({name: both(products) for name, products in forms.items()}, ROUNDS)
    return {name: 1000 * second / 2 for name, second in seconds.items()}


@torch.no_grad()
def main():
    console = Console(width=100)
    console.print(describe())
    for size, options in SIZES.items():
        config = ElmoConfig(**options)
        table = Table(title=f"{size} size, ({4 * config.cell_size}, {config.projection_dim}), milliseconds")
        table.add_column("rows", justify="right")
        weights = [torch.randn(4 * config.cell_size, config.projection_dim) for _ in range(4)]
        results = {rows: milliseconds(weights, rows) for rows in ROWS}
        for name in results[1]:
            table.add_column(name, justify="right")
        for rows, forms in results.items():
            table.add_row(str(rows), *(f"{value:.2f}" for value in forms.values()))
        console.print(table)


if __name__ == "__main__":
    main()
