"""What the products of the LSTMs alone would allow: the bound of a model's words per second on this machine, now."""

import time
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from elmo_hf import ElmoModel
from elmo_hf.engine_elmo import run_in_threads
from elmo_hf.lstm_kernels_elmo import INPUT_SLICE
from elmo_hf.products_elmo import PackedProduct, multiply, onednn_works, transposed_product

Product = Callable[[Tensor], Tensor]

# Rows at which the kernels are compared; between them, that of the next larger one is taken.
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def _forms(weight: Tensor) -> list[Product]:
    forms = [lambda x: F.linear(x, weight), transposed_product(weight)]
    return [*forms, lambda x: multiply(x, weight), PackedProduct(weight)] if onednn_works() else forms


class BareProducts:
    """
    The products of all layers of a model for the rows of some batches, each with the best of four kernels; no gates,
    no copies, no words to encode.

    Args:
        model: in float32 on a CPU.
        lengths: of the sentences of each batch, in words.
    """

    def __init__(self, model: ElmoModel, lengths: list[list[int]]):
        self._directions = [
            [self._products(layer) for layer in layers]
            for layers in (model.encoder.forward_layers, model.encoder.backward_layers)
        ]
        # Sentences that run at each step, boundaries included.
        self._running = [
            [sum(length + 2 > step for length in batch) for step in range(max(batch) + 2)] for batch in lengths
        ]

    @staticmethod
    def _products(layer: torch.nn.Module) -> list[tuple[int, Callable[[int], Product]]]:
        """Number of inputs, and the best product for a number of rows, of each weight."""
        found = []
        for weight in (layer.weight_ih, layer.weight_hh, layer.weight_hr):
            forms = _forms(weight.detach())

            @lru_cache
            def best(rows: int, forms=forms, size=weight.shape[1]) -> Product:
                inputs = torch.randn(rows, size)
                return min(forms, key=lambda form: _seconds(form, inputs))

            found.append((weight.shape[1], best))
        return found

    def _run_direction(self, layers: list, running: list[int]):
        for (inputs, input_product), (hidden, recurrent), (cells, projection) in layers:
            positions = sum(running)
            for start in range(0, positions, INPUT_SLICE):
                rows = min(INPUT_SLICE, positions - start)
                input_product(_at_least(rows))(torch.empty(rows, inputs))
            for rows in running:
                recurrent(_at_least(rows))(torch.empty(rows, hidden))
                projection(_at_least(rows))(torch.empty(rows, cells))

    def run(self, side_by_side: bool):
        """Both directions at the same time, each on half the threads, or in turn."""
        for running in self._running:
            tasks = [
                lambda layers=layers, rows=running: self._run_direction(layers, rows) for layers in self._directions
            ]
            if side_by_side:
                run_in_threads(tasks)
            else:
                for task in tasks:
                    task()


def _at_least(rows: int) -> int:
    return next((number for number in _ROWS if number >= rows), _ROWS[-1])


def _seconds(form: Product, inputs: Tensor) -> float:
    form(inputs)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        form(inputs)
        times.append(time.perf_counter() - start)
    return min(times)
