# SPDX-License-Identifier: Apache-2.0
"""
Products with one weight in several forms. The number of rows decides which is fastest (`benchmarks/products.py`), the
processor which give a row the same bits in any company.
"""

import platform
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.utils import logging

logger = logging.get_logger(__name__)

# (..., rows, in_features) -> (..., rows, out_features)
Product = Callable[[Tensor], Tensor]

# Elements of a weight from which on the form of a product matters; below it the calls cost more than the products.
LARGE_WEIGHT = 1 << 18

# Rows that a packed weight multiplies at once where their number must not matter; more were not tried.
MOST_ROWS = 512


def multiply(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """
    `inputs @ weight.T + bias`, from the weight as it is, in the form that is fastest; not differentiable.

    PyTorch multiplies float32 with MKL, which first packs all of the weight: for 2 to 64 rows oneDNN takes half to
    nine tenths of its time, with many rows and few inputs a little less, too (`benchmarks/products.py`).

    Args:
        inputs: (rows, in_features).
        weight: (out_features, in_features).
        bias: (out_features,).
    """
    if is_large(weight) and onednn_works():
        return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return F.linear(inputs, weight, bias)


def is_large(weight: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    """Whether the form of products with this weight matters, if it is of this `dtype`."""
    return weight.device.type == "cpu" and weight.dtype == dtype and weight.numel() > LARGE_WEIGHT


class PackedProduct:
    """
    `x @ weight.T + bias` for many `x`, from a copy of the weight in oneDNN's order; `onednn_works` must hold.

    Args:
        weight: (out_features, in_features).
        bias: (out_features,).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)
        self._bias = bias

    def __call__(self, inputs: Tensor) -> Tensor:
        """(rows, in_features) -> (rows, out_features)"""
        return torch.ops.mkldnn._linear_pointwise(inputs, self._packed, self._bias, "none", [], "")


class InvariantProduct:
    """
    `x @ weight.T + bias` of which a row is the same bits in any company, if this processor can (see
    `engine_elmo.rows_are_independent`): few rows, for which libraries have ways of their own, are filled up.

    Args:
        weight: (out_features, in_features).
        bias: (out_features,).
        packed: whether to pack the weight, as [`PackedProduct`]. oneDNN then compiles a program for each number of
            rows, which is no good for small products of many sizes.
        least: rows to fill up to.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, packed: bool = True, least: int | None = None):
        self._multiply = PackedProduct(weight, bias) if packed else partial(F.linear, weight=weight, bias=bias)
        self._least = least or (2 if packed else 16)
        self._most = MOST_ROWS if packed else 16 * MOST_ROWS

    def __call__(self, inputs: Tensor) -> Tensor:
        """(rows, in_features) -> (rows, out_features)"""
        rows = len(inputs)
        if rows > self._most:
            return torch.cat([self(part) for part in inputs.split(self._most)])
        if rows < self._least:
            return self._multiply(F.pad(inputs, (0, 0, 0, self._least - rows)))[:rows]
        return self._multiply(inputs)


class Bfloat16Product:
    """`x @ weight.T + bias` of float32, with `x`, the weight and their product rounded to bfloat16."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        self._multiply = PackedProduct(weight.detach().bfloat16())
        self._bias = bias

    def __call__(self, inputs: Tensor) -> Tensor:
        """(rows, in_features) -> (rows, out_features) float32"""
        products = self._multiply(inputs.bfloat16()).float()
        return products if self._bias is None else products.add_(self._bias)


def step_product(weight: Tensor, bias: Tensor | None = None) -> Product:
    """`x @ weight.T + bias` for the steps of one call."""
    if weight.dim() == 2 and is_large(weight, weight.dtype):
        works = {torch.float32: onednn_works, torch.bfloat16: bfloat16_products_work}.get(weight.dtype)
        if works is not None and works():
            return PackedProduct(weight, bias)
    transposed = weight.transpose(-1, -2)
    if bias is None:
        return lambda inputs: torch.matmul(inputs, transposed)
    return lambda inputs: torch.matmul(inputs, transposed).add_(bias.unsqueeze(-2))


def transposed_product(weight: Tensor) -> Product:
    """`x @ weight.T` for many `x` of one row: long rows of outputs are read twice as fast as short ones of inputs."""
    transposed = weight.detach().t().contiguous()
    return lambda inputs: torch.mm(inputs, transposed)


def is_emulated(dtype: torch.dtype) -> bool:
    """Whether products in 16 bits are slower than those in float32 on this CPU."""
    if dtype not in (torch.bfloat16, torch.float16) or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    # oneDNN says that it supports bfloat16 where it emulates it.
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported") if dtype == torch.bfloat16 else ()
    return not any(getattr(torch.cpu, name, bool)() for name in names)


@lru_cache(maxsize=1)
def bfloat16_products_work() -> bool:
    """Whether oneDNN's products with packed weights in bfloat16 are here and right; tried once per process."""
    if not onednn_works():
        return False
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.inference_mode(False), torch.no_grad():
            weight = torch.randn(64, 48, generator=generator).bfloat16()
            for rows in (1, 3, 40):
                inputs = torch.randn(rows, 48, generator=generator).bfloat16()
                expected = F.linear(inputs.float(), weight.float())
                if not torch.allclose(PackedProduct(weight)(inputs).float(), expected, rtol=0.01, atol=0.01):
                    return False
    except Exception as error:  # As above.
        logger.warning_once(f"oneDNN is not used for bfloat16, which makes it slower but changes nothing: {error}")
        return False
    return True


@lru_cache(maxsize=1)
def onednn_works() -> bool:
    """Whether oneDNN's products, which are private to PyTorch, are here and right; tried once per process."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.inference_mode(False), torch.no_grad():
            for out_features, in_features in ((7, 5), (64, 48)):
                weight = torch.randn(out_features, in_features, generator=generator)
                inputs = torch.randn(3, in_features, generator=generator)
                bias = torch.randn(out_features, generator=generator)
                product = torch.ops.mkldnn._linear_pointwise
                packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
                as_it_is = product(inputs, weight, bias, "none", [], "") - bias
                for found in (product(inputs, packed, None, "none", [], ""), as_it_is):
                    if not torch.allclose(found, F.linear(inputs, weight), rtol=1e-4, atol=1e-4):
                        raise ValueError("its products are wrong")
    except Exception as error:  # Whatever a private operator does on a build that nobody has tried.
        logger.warning_once(f"oneDNN is not used, which makes batches slower but changes nothing: {error}")
        return False
    return True
