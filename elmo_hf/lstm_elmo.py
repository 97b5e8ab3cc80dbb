# SPDX-License-Identifier: Apache-2.0
"""
One LSTM layer with a projected, clipped output over a packed batch: [`lstm`] chooses how to compute it.

`lstm_reference` is the definition, differentiable to any order and in any mode. `lstm_in_place` keeps nothing.
[`LstmFunction`] keeps what its own backward pass needs; on a GPU both have kernels, see `lstm_fused_elmo`. Compilers
see one operator for the whole layer ([`lstm_by_operator`]), ONNX a loop of standard operators ([`lstm_by_scan`]): an
unrolled recurrence would be compiled for minutes, and again for each number of words.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .engine_elmo import PreparedProducts, StackedWeights, is_batch_of_gradients, needs_gradient, runs_plainly
from .lstm_compiled_elmo import lstm_by_operator, lstm_by_scan
from .lstm_fused_elmo import fused_lstm, fused_lstm_gradients, fused_lstm_keeping, has_fused_steps
from .lstm_kernels_elmo import (
    Clips,
    Kept,
    LstmWeights,
    layer_products,
    lstm_gradients,
    lstm_in_place,
    lstm_keeping,
    lstm_reference,
    lstm_reference_of_each,
)
from .products_elmo import is_emulated


def lstm(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    batch_sizes: list[int],
    weights: LstmWeights | Sequence[LstmWeights],
    clips: Clips,
    lengths: Tensor | None = None,
    prepared: Sequence[PreparedProducts] | StackedWeights | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """
    Runs one layer, in the fastest way that is right here.

    Args:
        inputs: (..., N, input_size).
        hidden: (..., batch, projection_dim) initial state.
        cell: (..., batch, cell_size) initial state.
        batch_sizes: running sentences at each step; empty with `lengths`.
        weights: of the layer, or of one layer for each item of the tensors' first dimension.
        lengths: (batch,) when all rows have a position at each step, padding included, see [`PackedWords`].
        prepared: products with the weights of each layer, where they were prepared, or the stacked weights of two.

    Returns:
        (..., N, projection_dim) outputs and both states of each sentence after its last word.
    """
    layers = [weights] if isinstance(weights, LstmWeights) else list(weights)
    tensors = [inputs, hidden, cell, *(weight for layer in layers for weight in layer)]
    compiled_lengths = lengths if torch.compiler.is_compiling() else None
    if compiled_lengths is None and (lengths is not None or not runs_plainly(*tensors)):
        layers = [layer._replace(bias=layer.bias.to(layer.weight_ih.dtype)) for layer in layers]
        if len(layers) == 1:
            return lstm_reference(inputs, hidden, cell, batch_sizes, layers[0], clips, lengths)
        return lstm_reference_of_each(inputs, hidden, cell, batch_sizes, layers, clips)
    device_type = inputs.device.type
    autocast = torch.is_autocast_enabled(device_type)
    # Autocast reaches neither into operations in place nor into functions with a backward pass of their own.
    dtype = torch.get_autocast_dtype(device_type) if autocast else layers[0].weight_ih.dtype
    if prepared is None or isinstance(prepared, StackedWeights):
        # Prepared products take inputs as they are.
        inputs, hidden, cell = (tensor.to(dtype) for tensor in (inputs, hidden, cell))
        layers = [LstmWeights(*(weight.to(dtype) for weight in layer)) for layer in layers]
    with torch.autocast(device_type, enabled=False) if autocast else nullcontext():
        if compiled_lengths is not None:
            form = lstm_by_scan if torch.onnx.is_in_onnx_export() else lstm_by_operator
            return form(inputs, hidden, cell, compiled_lengths, layers[0], clips)
        if needs_gradient(*tensors):
            if device_type == "cpu" and is_emulated(dtype):
                wide = [tensor.float() for tensor in (inputs, hidden, cell, *_stacked(layers))]
                return tuple(result.to(dtype) for result in LstmFunction.apply(*wide, batch_sizes, clips))
            return LstmFunction.apply(inputs, hidden, cell, *_stacked(layers), batch_sizes, clips)
        if batch_sizes and prepared is None and has_fused_steps(inputs):
            with torch.cuda.device_of(inputs):
                return fused_lstm(inputs, hidden, cell, batch_sizes, _stacked(layers), clips)
        return lstm_in_place(inputs, hidden, cell, batch_sizes, layer_products(inputs, layers, prepared), clips)


def _stacked(layers: Sequence[LstmWeights]) -> LstmWeights:
    return layers[0] if len(layers) == 1 else LstmWeights(*map(torch.stack, zip(*layers, strict=True)))


class LstmFunction(torch.autograd.Function):
    """The layer with a backward pass by hand, [`lstm_gradients`]."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        hidden: Tensor,
        cell: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias: Tensor,
        weight_hr: Tensor,
        batch_sizes: list[int],
        clips: Clips,
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights = LstmWeights(weight_ih, weight_hh, bias, weight_hr)
        ctx.is_fused = bool(batch_sizes) and has_fused_steps(inputs)
        with torch.cuda.device_of(inputs):
            run = fused_lstm_keeping if ctx.is_fused else lstm_keeping
            outputs, final_hidden, final_cell, kept = run(inputs, hidden, cell, batch_sizes, weights, clips)
        ctx.save_for_backward(inputs, hidden, cell, *weights, outputs, *kept)
        ctx.batch_sizes, ctx.clips = batch_sizes, clips
        return outputs, final_hidden, final_cell

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple:
        # With `create_graph=True` or in forward mode, the gradients themselves are differentiated; a batch of them
        # (`is_grads_batched`) does not fit into operations in place.
        differentiable = torch.is_grad_enabled() or forward_ad._current_level >= 0
        if differentiable or any(map(is_batch_of_gradients, gradients)):
            return LstmFunction._differentiable_backward(ctx, gradients)
        inputs, hidden, cell, *rest = ctx.saved_tensors
        weights, outputs, kept = LstmWeights(*rest[:4]), rest[4], Kept(*rest[5:])
        arguments = (inputs, hidden, cell, ctx.batch_sizes, weights, ctx.clips, outputs, kept, ctx.needs_input_grad)
        with torch.cuda.device_of(inputs):
            found = (fused_lstm_gradients if ctx.is_fused else lstm_gradients)(gradients, *arguments)
        return *found, None, None

    @staticmethod
    def _differentiable_backward(ctx: Any, gradients: tuple[Tensor, ...]) -> tuple:
        """The same gradients, from the reference, which can be differentiated once more."""
        with torch.enable_grad():
            # Views, so that a tensor that was given twice gets two gradients.
            tensors = [tensor.view_as(tensor) for tensor in ctx.saved_tensors[:7]]
            inputs, hidden, cell, *weights = tensors
            if inputs.dim() > 2:
                layers = [LstmWeights(*layer) for layer in zip(*weights, strict=True)]
                outputs = lstm_reference_of_each(inputs, hidden, cell, ctx.batch_sizes, layers, ctx.clips)
            else:
                outputs = lstm_reference(inputs, hidden, cell, ctx.batch_sizes, LstmWeights(*weights), ctx.clips)
            wanted = [tensor for tensor, needed in zip(tensors, ctx.needs_input_grad, strict=False) if needed]
            # The memory of the only step depends on no projection.
            pairs = [pair for pair in zip(outputs, gradients, strict=True) if pair[0].requires_grad]
            found = iter(
                torch.autograd.grad(
                    [output for output, _ in pairs],
                    wanted,
                    [gradient for _, gradient in pairs],
                    create_graph=True,
                    allow_unused=True,
                )
            )
        return (*(next(found) if needed else None for needed in ctx.needs_input_grad[:7]), None, None)
