# SPDX-License-Identifier: Apache-2.0
"""
One LSTM layer with a projected, clipped output over a packed batch: [`lstm`] chooses between three ways to compute it.

`lstm_reference` is the definition, differentiable to any order and in any mode, and the form for compilers and
exporters. `lstm_in_place` keeps nothing. [`LstmFunction`] keeps what its own backward pass needs. A kernel for an
accelerator, or an operator that compilers do not look into, would be a fourth way beside them.

Every tensor may have leading dimensions, such as one for the two directions, and then so has every weight. `N` is the
number of positions, time-major, longest sentence first; `running` the number of sentences that run at a step.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F

from .engine_elmo import (
    InputGates,
    PreparedProducts,
    Product,
    is_batch_of_gradients,
    multiply,
    needs_gradient,
    runs_plainly,
    step_product,
)

# Positions whose input products are computed at once in inference: enough for a full-speed product, little to hold.
INPUT_SLICE = 256


class LstmWeights(NamedTuple):
    """Weights of a layer, gates in the order i, f, g, o; `bias` with the forget gate's constant already added."""

    weight_ih: Tensor  # (..., 4 * cell_size, input_size)
    weight_hh: Tensor  # (..., 4 * cell_size, projection_dim)
    bias: Tensor  # (..., 4 * cell_size)
    weight_hr: Tensor  # (..., projection_dim, cell_size)


class Clips(NamedTuple):
    """Bounds of the memory cell and of the projected output; `None` for no bound."""

    cell: float | None
    projection: float | None


class LstmProducts(NamedTuple):
    """The three products of a layer."""

    inputs: Callable[[int, int], Tensor]  # gates of the positions from one to another, with the bias, to be kept
    add_recurrent: Callable[[Tensor, Tensor], object]  # (gates, hidden): adds to the gates in place
    projection: Product


def lstm(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    batch_sizes: list[int],
    weights: LstmWeights | Sequence[LstmWeights],
    clips: Clips,
    lengths: Tensor | None = None,
    prepared: PreparedProducts | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """
    Runs one layer, in the fastest way that is right here.

    Args:
        inputs: (..., N, input_size).
        hidden: (..., batch, projection_dim) initial state.
        cell: (..., batch, cell_size) initial state.
        batch_sizes: running sentences at each step.
        weights: of the layer, or of one layer for each item of the tensors' first dimension.
        lengths: (batch,) when sentences end before their steps do.
        prepared: products with the weights of the steps, where they were prepared.

    Returns:
        (..., N, projection_dim) outputs and both states of each sentence after its last word.
    """
    layers = [weights] if isinstance(weights, LstmWeights) else list(weights)
    tensors = [inputs, hidden, cell, *(weight for layer in layers for weight in layer)]
    if lengths is not None or not runs_plainly(*tensors):
        if len(layers) == 1:
            return lstm_reference(inputs, hidden, cell, batch_sizes, layers[0], clips, lengths)
        return _reference_of_each(inputs, hidden, cell, batch_sizes, layers, clips)
    device_type = inputs.device.type
    autocast = torch.is_autocast_enabled(device_type)
    # Autocast reaches neither into operations in place nor into a function with a backward pass of its own.
    dtype = torch.get_autocast_dtype(device_type) if autocast else layers[0].weight_ih.dtype
    inputs, hidden, cell = (tensor.to(dtype) for tensor in (inputs, hidden, cell))
    layers = [LstmWeights(*(weight.to(dtype) for weight in layer)) for layer in layers]
    with torch.autocast(device_type, enabled=False) if autocast else nullcontext():
        if needs_gradient(*tensors):
            return LstmFunction.apply(inputs, hidden, cell, *_stacked(layers), batch_sizes, clips)
        return lstm_in_place(inputs, hidden, cell, batch_sizes, _products(inputs, layers, prepared), clips)


def _stacked(layers: Sequence[LstmWeights]) -> LstmWeights:
    return layers[0] if len(layers) == 1 else LstmWeights(*map(torch.stack, zip(*layers, strict=True)))


def _products(inputs: Tensor, layers: Sequence[LstmWeights], prepared: PreparedProducts | None) -> LstmProducts:
    """The products of one layer, or of layers that run together."""
    if len(layers) == 1:
        (weights,) = layers
        input_gates = InputGates(inputs, weights.weight_ih, weights.bias, prepared)
        if prepared is not None:
            return LstmProducts(input_gates, lambda gates, x: gates.add_(prepared.recurrent(x)), prepared.projection)
        return LstmProducts(
            input_gates,
            lambda gates, x: gates.add_(multiply(x, weights.weight_hh)),
            partial(multiply, weight=weights.weight_hr),
        )
    recurrent, projection = (
        torch.stack(pair).transpose(1, 2)
        for pair in ([layer.weight_hh for layer in layers], [layer.weight_hr for layer in layers])
    )

    def input_gates_of_each(start: int, end: int) -> Tensor:
        # Once for many steps, so that it is not worth a copy of the weights.
        pairs = zip(inputs[:, start:end], layers, strict=True)
        return torch.stack([F.linear(part, layer.weight_ih, layer.bias) for part, layer in pairs])

    return LstmProducts(
        input_gates_of_each,
        lambda gates, x: gates.add_(torch.matmul(x, recurrent)),
        lambda x: torch.matmul(x, projection),
    )


def lstm_reference(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    batch_sizes: list[int],
    weights: LstmWeights,
    clips: Clips,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The layer in plain, differentiable PyTorch; arguments as for [`lstm`]."""
    input_gates = F.linear(inputs, weights.weight_ih, weights.bias)
    outputs, final_hidden, final_cell = [], [], []
    start = 0
    for step, running in enumerate(batch_sizes):
        if running < len(hidden):
            # Shorter sentences have ended.
            final_hidden.append(hidden[running:])
            final_cell.append(cell[running:])
            hidden, cell = hidden[:running], cell[:running]
        gates = input_gates[start : start + running] + F.linear(hidden, weights.weight_hh)
        start += running
        output, memory = _cell(gates, cell, weights.weight_hr, clips)
        outputs.append(output)
        if lengths is not None:
            still_running = (step < lengths)[:, None]
            output = torch.where(still_running, output, hidden)
            memory = torch.where(still_running, memory, cell)
        hidden, cell = output, memory
    final_hidden.append(hidden)
    final_cell.append(cell)
    packed = torch.cat(outputs) if outputs else inputs
    return packed, torch.cat(final_hidden[::-1]), torch.cat(final_cell[::-1])


def _reference_of_each(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    batch_sizes: list[int],
    layers: Sequence[LstmWeights],
    clips: Clips,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `lstm_reference`, for layers that run together."""
    results = [
        lstm_reference(inputs[index], hidden[index], cell[index], batch_sizes, layer, clips)
        for index, layer in enumerate(layers)
    ]
    outputs, final_hidden, final_cell = map(torch.stack, zip(*results, strict=True))
    return outputs, final_hidden, final_cell


def _cell(gates: Tensor, cell: Tensor, weight_hr: Tensor, clips: Clips) -> tuple[Tensor, Tensor]:
    """One step: (running, 4 * cell_size) gates before their non-linearities -> the output and the new cell."""
    input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=-1)
    memory = torch.sigmoid(forget_gate) * cell + torch.sigmoid(input_gate) * torch.tanh(candidate)
    if clips.cell is not None:
        memory = memory.clamp(-clips.cell, clips.cell)
    output = F.linear(torch.sigmoid(output_gate) * torch.tanh(memory), weight_hr)
    if clips.projection is not None:
        output = output.clamp(-clips.projection, clips.projection)
    return output, memory


def lstm_in_place(
    inputs: Tensor, hidden: Tensor, cell: Tensor, batch_sizes: list[int], products: LstmProducts, clips: Clips
) -> tuple[Tensor, Tensor, Tensor]:
    """
    Args:
        inputs: (..., N, input_size).
        hidden: (..., batch, projection_dim) initial state.
        cell: (..., batch, cell_size) initial state.

    Returns:
        (..., N, projection_dim) outputs and both states of each sentence after its last word.
    """
    # Written step by step: small tensors that are kept among large ones that are not would fragment the memory.
    outputs = inputs.new_empty(*inputs.shape[:-1], hidden.shape[-1])
    final_hidden, cell = hidden.clone(), cell.clone()
    size = cell.shape[-1]
    start, before = 0, hidden.shape[-2]
    for steps in _slices(batch_sizes):
        end = start + sum(steps)
        # One (..., running, 4 * cell_size) and one (..., running, projection_dim) tensor a step.
        slice_gates = products.inputs(start, end).split(steps, dim=-2)
        slice_outputs = outputs[..., start:end, :].split(steps, dim=-2)
        start = end
        for running, gates, output in zip(steps, slice_gates, slice_outputs, strict=True):
            if running < before:
                # Rows that have ended keep their last value.
                final_hidden[..., running:before, :] = hidden[..., running:, :]
                hidden, before = hidden[..., :running, :], running
            products.add_recurrent(gates, hidden)
            _activate(gates, size)
            input_gate, forget_gate, candidate, output_gate = gates.split(size, dim=-1)
            memory = cell[..., :running, :]
            memory.mul_(forget_gate).addcmul_(input_gate, candidate)
            if clips.cell is not None:
                memory.clamp_(-clips.cell, clips.cell)
            hidden = products.projection(torch.tanh(memory).mul_(output_gate))
            if clips.projection is not None:
                hidden.clamp_(-clips.projection, clips.projection)
            output.copy_(hidden)
    final_hidden[..., :before, :] = hidden
    return outputs, final_hidden, cell


def _slices(batch_sizes: list[int]) -> Iterator[list[int]]:
    """Consecutive steps whose positions fit one slice, at least one step each."""
    steps: list[int] = []
    for running in batch_sizes:
        if steps and sum(steps) + running > INPUT_SLICE:
            yield steps
            steps = []
        steps.append(running)
    if steps:
        yield steps


def _activate(gates: Tensor, size: int):
    """Applies the non-linearities of the four gates in place."""
    gates[..., : 2 * size].sigmoid_()
    gates[..., 2 * size : 3 * size].tanh_()
    gates[..., 3 * size :].sigmoid_()


class LstmFunction(torch.autograd.Function):
    """
    The layer with a backward pass by hand: weight gradients are one product over all positions instead of one a step,
    and of each step only the gates, the cell and the output are kept.
    """

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
        size = cell.shape[-1]
        recurrent, projection = step_product(weight_hh), step_product(weight_hr)
        # (..., N, 4 * cell_size) before, then after the non-linearities
        gates = torch.matmul(inputs, weight_ih.transpose(-1, -2)).add_(bias.unsqueeze(-2))
        cells = gates.new_empty(*gates.shape[:-1], size)
        outputs = gates.new_empty(*gates.shape[:-1], hidden.shape[-1])
        final_hidden, final_cell = hidden.clone(), cell.clone()
        last_hidden, last_cell = hidden, cell
        start = 0
        for running in batch_sizes:
            at = slice(start, start + running)
            step_gates = gates[..., at, :]
            step_gates += recurrent(last_hidden[..., :running, :])
            _activate(step_gates, size)
            input_gate, forget_gate, candidate, output_gate = step_gates.split(size, dim=-1)
            memory = torch.mul(forget_gate, last_cell[..., :running, :]).addcmul_(input_gate, candidate)
            if clips.cell is not None:
                memory.clamp_(-clips.cell, clips.cell)
            output = projection(torch.tanh(memory).mul_(output_gate))
            if clips.projection is not None:
                output.clamp_(-clips.projection, clips.projection)
            cells[..., at, :] = memory
            outputs[..., at, :] = output
            final_hidden[..., :running, :] = output
            final_cell[..., :running, :] = memory
            last_hidden, last_cell = output, memory
            start += running
        ctx.save_for_backward(inputs, hidden, cell, weight_ih, weight_hh, bias, weight_hr, gates, cells, outputs)
        ctx.batch_sizes, ctx.clips = batch_sizes, clips
        return outputs, final_hidden, final_cell

    @staticmethod
    def backward(ctx: Any, d_outputs: Tensor, d_final_hidden: Tensor, d_final_cell: Tensor) -> tuple:
        gradients = d_outputs, d_final_hidden, d_final_cell
        # With `create_graph=True` or in forward mode, the gradients themselves are differentiated; a batch of them
        # (`is_grads_batched`) does not fit into operations in place.
        differentiable = torch.is_grad_enabled() or forward_ad._current_level >= 0
        if differentiable or any(map(is_batch_of_gradients, gradients)):
            return LstmFunction._differentiable_backward(ctx, gradients)
        inputs, hidden, cell, weight_ih, weight_hh, _, weight_hr, gates, cells, outputs = ctx.saved_tensors
        clips: Clips = ctx.clips
        size = cell.shape[-1]
        back_recurrent = step_product(weight_hh.transpose(-1, -2))
        back_projection = step_product(weight_hr.transpose(-1, -2))
        # Gradients of the state that flows from step to step.
        d_hidden, d_cell = d_final_hidden.clone(), d_final_cell.clone()
        d_gates = torch.empty_like(gates)
        # (..., N, projection_dim) before the clip
        d_projected = d_outputs.clone()
        # (..., N, cell_size) what the projection read
        memories = torch.tanh(cells)
        previous_cells = _previous(cells, cell, ctx.batch_sizes)
        stop = outputs.shape[-2]
        for running in reversed(ctx.batch_sizes):
            at = slice(stop - running, stop)
            stop -= running
            d_output = d_projected[..., at, :]
            d_output += d_hidden[..., :running, :]
            if clips.projection is not None:
                d_output.masked_fill_(outputs[..., at, :].abs() >= clips.projection, 0.0)
            d_read = back_projection(d_output)
            input_gate, forget_gate, candidate, output_gate = gates[..., at, :].split(size, dim=-1)
            d_input, d_forget, d_candidate, d_out = d_gates[..., at, :].split(size, dim=-1)
            memory = memories[..., at, :]
            d_out.copy_(_d_sigmoid(d_read * memory, output_gate))
            d_memory = d_cell[..., :running, :]
            d_memory += _d_tanh(d_read.mul_(output_gate), memory)
            if clips.cell is not None:
                d_memory.masked_fill_(cells[..., at, :].abs() >= clips.cell, 0.0)
            d_input.copy_(_d_sigmoid(d_memory * candidate, input_gate))
            d_forget.copy_(_d_sigmoid(d_memory * previous_cells[..., at, :], forget_gate))
            d_candidate.copy_(_d_tanh(d_memory * input_gate, candidate))
            d_memory *= forget_gate
            d_hidden[..., :running, :] = back_recurrent(d_gates[..., at, :])

        needs = ctx.needs_input_grad
        gates_last = d_gates.transpose(-1, -2)
        return (
            torch.matmul(d_gates, weight_ih) if needs[0] else None,
            d_hidden if needs[1] else None,
            d_cell if needs[2] else None,
            torch.matmul(gates_last, inputs) if needs[3] else None,
            torch.matmul(gates_last, _previous(outputs, hidden, ctx.batch_sizes)) if needs[4] else None,
            d_gates.sum(-2) if needs[5] else None,
            torch.matmul(d_projected.transpose(-1, -2), memories.mul_(gates[..., 3 * size :])) if needs[6] else None,
            None,
            None,
        )

    @staticmethod
    def _differentiable_backward(ctx: Any, gradients: tuple[Tensor, ...]) -> tuple:
        """The same gradients, from the reference, which can be differentiated once more."""
        with torch.enable_grad():
            # Views, so that a tensor that was given twice gets two gradients.
            tensors = [tensor.view_as(tensor) for tensor in ctx.saved_tensors[:7]]
            inputs, hidden, cell, *weights = tensors
            if inputs.dim() > 2:
                layers = [LstmWeights(*layer) for layer in zip(*weights, strict=True)]
                outputs = _reference_of_each(inputs, hidden, cell, ctx.batch_sizes, layers, ctx.clips)
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


def _d_sigmoid(gradient: Tensor, output: Tensor) -> Tensor:
    return torch.ops.aten.sigmoid_backward(gradient, output)


def _d_tanh(gradient: Tensor, output: Tensor) -> Tensor:
    return torch.ops.aten.tanh_backward(gradient, output)


def _previous(packed: Tensor, initial: Tensor, batch_sizes: list[int]) -> Tensor:
    """(..., N, features) what each position's sentence held one step before."""
    if not batch_sizes:
        return packed
    pieces, start = [initial[..., : batch_sizes[0], :]], 0
    for before, running in pairwise(batch_sizes):
        pieces.append(packed[..., start : start + running, :])
        start += before
    return torch.cat(pieces, dim=-2)
