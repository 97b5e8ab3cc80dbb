# SPDX-License-Identifier: Apache-2.0
"""
The recurrence of one LSTM layer with a projected, clipped output, over a packed batch, in three ways.

Every tensor may have leading dimensions, such as one for the two directions, and then so has every weight. `N` is the
number of positions, time-major, longest sentence first; `running` the number of sentences that run at a step.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .engine_elmo import InputGates, PreparedProducts, StackedWeights, stack_weights
from .products_elmo import Product, multiply, step_product

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
    # Whether they round so much that a tanh to 2e-7 changes nothing: by PyTorch's sigmoid, which is the faster one
    # (`benchmarks/functions.py`).
    are_rounded: bool = False


def layer_products(
    inputs: Tensor, layers: Sequence[LstmWeights], prepared: Sequence[PreparedProducts] | StackedWeights | None
) -> LstmProducts:
    """The products of one layer, or of layers that run together."""
    if isinstance(prepared, StackedWeights):
        return _stacked_products(inputs, layers, prepared)
    if len(layers) > 1 and prepared is not None:
        return _products_of_each(inputs, layers, prepared)
    if len(layers) == 1:
        (weights,) = layers
        if prepared is not None:
            (products,) = prepared
            input_gates = InputGates(inputs, weights.weight_ih, weights.bias, products)
            return LstmProducts(
                input_gates,
                lambda gates, x: gates.add_(products.recurrent(x)),
                products.projection,
                products.are_rounded,
            )
        input_gates = InputGates(inputs, weights.weight_ih, weights.bias, None)
        return LstmProducts(
            input_gates,
            lambda gates, x: gates.add_(multiply(x, weights.weight_hh)),
            partial(multiply, weight=weights.weight_hr),
        )
    return _stacked_products(inputs, layers, stack_weights(*layers))


def _stacked_products(inputs: Tensor, layers: Sequence[LstmWeights], stacked: StackedWeights) -> LstmProducts:
    """Of layers that run together."""

    def input_gates_of_each(start: int, end: int) -> Tensor:
        # Once for many steps, so that it is not worth a copy of the weights.
        pairs = zip(inputs[:, start:end], layers, strict=True)
        return torch.stack([F.linear(part, layer.weight_ih, layer.bias) for part, layer in pairs])

    return LstmProducts(
        input_gates_of_each,
        lambda gates, x: gates.add_(torch.bmm(x, stacked.recurrent)),
        lambda x: torch.bmm(x, stacked.projection),
    )


def _products_of_each(
    inputs: Tensor, layers: Sequence[LstmWeights], prepared: Sequence[PreparedProducts]
) -> LstmProducts:
    """With the prepared products of each layer; the rest of a step is done for all together."""
    input_gates = [
        InputGates(of_layer, layer.weight_ih, layer.bias, products)
        for of_layer, layer, products in zip(inputs, layers, prepared, strict=True)
    ]

    def add_recurrent(gates: Tensor, x: Tensor):
        for index, products in enumerate(prepared):
            gates[index].add_(products.recurrent(x[index]))

    return LstmProducts(
        lambda start, end: torch.stack([gates(start, end) for gates in input_gates]),
        add_recurrent,
        lambda x: torch.stack([products.projection(part) for products, part in zip(prepared, x, strict=True)]),
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
    if lengths is not None and len(hidden):
        batch_sizes = [len(hidden)] * (len(inputs) // len(hidden))
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
        output, memory = lstm_cell(gates, cell, weights.weight_hr, clips)
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


def lstm_reference_of_each(
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


def lstm_cell(gates: Tensor, cell: Tensor, weight_hr: Tensor, clips: Clips) -> tuple[Tensor, Tensor]:
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
    for steps in slices(batch_sizes, INPUT_SLICE):
        end = start + sum(steps)
        # One (..., running, 4 * cell_size) and one (..., running, projection_dim) tensor per step.
        slice_gates = products.inputs(start, end).split(steps, dim=-2)
        slice_outputs = outputs[..., start:end, :].split(steps, dim=-2)
        start = end
        for running, gates, output in zip(steps, slice_gates, slice_outputs, strict=True):
            if running < before:
                # Rows that have ended keep their last value.
                final_hidden[..., running:before, :] = hidden[..., running:, :]
                hidden, before = hidden[..., :running, :], running
            products.add_recurrent(gates, hidden)
            if products.are_rounded:
                _activate_roughly(gates, size)
            else:
                _activate(gates, size)
            input_gate, forget_gate, candidate, output_gate = gates.split(size, dim=-1)
            memory = cell[..., :running, :]
            memory.mul_(forget_gate).addcmul_(input_gate, candidate)
            if clips.cell is not None:
                memory.clamp_(-clips.cell, clips.cell)
            read = (_rough_tanh if products.are_rounded else torch.tanh)(memory)
            hidden = products.projection(read.mul_(output_gate))
            if clips.projection is not None:
                hidden.clamp_(-clips.projection, clips.projection)
            output.copy_(hidden)
    final_hidden[..., :before, :] = hidden
    return outputs, final_hidden, cell


def slices(batch_sizes: list[int], most: int) -> Iterator[list[int]]:
    """Consecutive steps of at most `most` positions, at least one step each."""
    steps: list[int] = []
    for running in batch_sizes:
        if steps and sum(steps) + running > most:
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


def _activate_roughly(gates: Tensor, size: int):
    """As `_activate`, to 2e-7."""
    candidate = gates[..., 2 * size : 3 * size]
    candidate.mul_(2.0)
    gates.sigmoid_()
    candidate.mul_(2.0).sub_(1.0)


def _rough_tanh(values: Tensor) -> Tensor:
    return _tanh_by_sigmoid_(2.0 * values)


def _tanh_by_sigmoid_(doubled: Tensor) -> Tensor:
    """The tanh of half of each value, in place."""
    return doubled.sigmoid_().mul_(2.0).sub_(1.0)


class Kept(NamedTuple):
    """What the backward pass of a layer needs of its forward pass, besides what came in and what went out."""

    gates: Tensor  # (..., N, 4 * cell_size) after their non-linearities
    cells: Tensor  # (..., N, cell_size)


def lstm_keeping(
    inputs: Tensor, hidden: Tensor, cell: Tensor, batch_sizes: list[int], weights: LstmWeights, clips: Clips
) -> tuple[Tensor, Tensor, Tensor, Kept]:
    """
    As [`lstm`], with what [`lstm_gradients`] needs, of each step only the gates, the cell and the output. In 16 bits
    the memory cell and the non-linearities are computed in float32, and rounded where they are kept.
    """
    size, dtype = cell.shape[-1], inputs.dtype
    exact = torch.promote_types(dtype, torch.float32)
    projection = step_product(weights.weight_hr)
    activate, tanh = (_activate, torch.tanh) if dtype == exact else (_activate_roughly, _rough_tanh)
    # (..., N, 4 * cell_size) before, then after the non-linearities
    gates = _input_gates(inputs, weights)
    add_recurrent = _recurrent_gates(inputs, weights)
    cells = inputs.new_empty(*inputs.shape[:-1], size)
    outputs = inputs.new_empty(*inputs.shape[:-1], hidden.shape[-1])
    final_hidden, final_cell = hidden.clone(), cell.clone()
    last_hidden, last_cell = hidden, cell.to(exact)
    starts = [0, *accumulate(batch_sizes)]
    for start, (running, following) in zip(starts, pairwise([*batch_sizes, 0]), strict=False):
        at = slice(start, start + running)
        active = add_recurrent(gates[..., at, :], at, last_hidden[..., :running, :])
        activate(active, size)
        if dtype != exact:
            gates[..., at, :] = active
        input_gate, forget_gate, candidate, output_gate = active.split(size, dim=-1)
        memory = torch.mul(forget_gate, last_cell[..., :running, :]).addcmul_(input_gate, candidate)
        if clips.cell is not None:
            memory.clamp_(-clips.cell, clips.cell)
        output = projection(tanh(memory).mul_(output_gate).to(dtype))
        if clips.projection is not None:
            output.clamp_(-clips.projection, clips.projection)
        cells[..., at, :] = memory
        outputs[..., at, :] = output
        if following < running:
            final_hidden[..., following:running, :] = output[..., following:, :]
            final_cell[..., following:running, :] = memory[..., following:, :]
        last_hidden, last_cell = output, memory
    return outputs, final_hidden, final_cell, Kept(gates, cells)


def _input_gates(inputs: Tensor, weights: LstmWeights) -> Tensor:
    """(..., N, 4 * cell_size) what the inputs give to the gates; in 16 bits room for it."""
    if _is_half(inputs):
        return inputs.new_empty(*inputs.shape[:-1], weights.weight_ih.shape[-2])
    return torch.matmul(inputs, weights.weight_ih.transpose(-1, -2)).add_(weights.bias.unsqueeze(-2))


def _recurrent_gates(inputs: Tensor, weights: LstmWeights) -> Callable[[Tensor, slice, Tensor], Tensor]:
    """
    What gives the gates of a step, to be changed in place, by those of its inputs, its positions and the last hidden
    state. In 16 bits they are one product with inputs and hidden state, whose sum is rounded once, in float32.
    """
    if not _is_half(inputs):
        recurrent = step_product(weights.weight_hh)
        return lambda gates, at, hidden: gates.add_(recurrent(hidden))
    product = step_product(torch.cat([weights.weight_ih, weights.weight_hh], dim=-1), weights.bias)
    return lambda gates, at, hidden: product(torch.cat([inputs[..., at, :], hidden], dim=-1)).float()


def _is_half(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.bfloat16, torch.float16)


def lstm_gradients(
    gradients: Sequence[Tensor],
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    batch_sizes: list[int],
    weights: LstmWeights,
    clips: Clips,
    outputs: Tensor,
    kept: Kept,
    needs: Sequence[bool],
) -> tuple[Tensor | None, ...]:
    """
    Gradients by inputs, both initial states and the four weights, `None` for those that `needs` does not ask for. Of a
    weight it is one product over all positions instead of one for each step. In 16 bits all but the products and what
    is kept for them is computed in float32.

    Args:
        gradients: by the three results of [`lstm_keeping`], whose other arguments and results the rest are.
    """
    d_outputs, d_final_hidden, d_final_cell = gradients
    gates, cells = kept
    size, exact = cell.shape[-1], torch.promote_types(cell.dtype, torch.float32)
    clips = Clips(*(None if clip is None else torch.tensor(clip, dtype=cell.dtype).item() for clip in clips))
    back_recurrent = step_product(weights.weight_hh.transpose(-1, -2))
    back_projection = step_product(weights.weight_hr.transpose(-1, -2))
    tanh = torch.tanh if gates.dtype == exact else _rough_tanh
    # Gradients of the state that flows from step to step.
    d_hidden, d_cell = d_final_hidden.clone(), d_final_cell.to(exact, copy=True)
    d_gates = torch.empty_like(gates)
    # (..., N, projection_dim) before the clip
    d_projected = d_outputs.clone()
    # (..., N, cell_size) what the projection read
    reads = torch.empty_like(cells)
    starts = [0, *accumulate(batch_sizes)][:-1]
    for index in reversed(range(len(batch_sizes))):
        running, start = batch_sizes[index], starts[index]
        at = slice(start, start + running)
        d_output = d_projected[..., at, :]
        d_output += d_hidden[..., :running, :]
        if clips.projection is not None:
            _stop_at(clips.projection, outputs[..., at, :], d_output)
        previous = cell if index == 0 else cells[..., starts[index - 1] : start, :]
        values = gates[..., at, :], cells[..., at, :], previous[..., :running, :]
        active, after, previous = (value.to(exact) for value in values)
        d_active = d_gates[..., at, :] if d_gates.dtype == exact else torch.empty_like(active)
        d_memory = d_cell[..., :running, :]
        d_read = back_projection(d_output).to(exact)
        memory = tanh(after)
        reads[..., at, :] = torch.mul(memory, active[..., 3 * size :])
        _step_gradients(d_active, d_memory, d_read, active, memory, previous, after, clips.cell)
        if d_active.dtype != d_gates.dtype:
            d_gates[..., at, :] = d_active
        d_hidden[..., :running, :] = back_recurrent(d_gates[..., at, :])

    gates_last = d_gates.transpose(-1, -2)
    return (
        torch.matmul(d_gates, weights.weight_ih) if needs[0] else None,
        d_hidden if needs[1] else None,
        d_cell.to(cell.dtype) if needs[2] else None,
        torch.matmul(gates_last, inputs) if needs[3] else None,
        torch.matmul(gates_last, previous_of_each(outputs, hidden, batch_sizes)) if needs[4] else None,
        d_gates.sum(-2) if needs[5] else None,
        torch.matmul(d_projected.transpose(-1, -2), reads) if needs[6] else None,
    )


def _step_gradients(
    d_gates: Tensor,
    d_cell: Tensor,
    d_read: Tensor,
    gates: Tensor,
    tanh_cell: Tensor,
    previous: Tensor,
    cell: Tensor,
    clip: float | None,
):
    """
    Gradients of one step, in place: from those by what the projection read and by the cell, `d_gates` before the
    non-linearities, and `d_cell` by the cell before the step. `d_read` is used up.
    """
    input_gate, forget_gate, candidate, output_gate = gates.split(tanh_cell.shape[-1], dim=-1)
    d_input, d_forget, d_candidate, d_output = d_gates.split(tanh_cell.shape[-1], dim=-1)
    product = d_read * tanh_cell
    _d_sigmoid(product, output_gate, grad_input=d_output)
    d_cell += _d_tanh(d_read.mul_(output_gate), tanh_cell, grad_input=product)
    if clip is not None:
        _stop_at(clip, cell, d_cell)
    _d_sigmoid(torch.mul(d_cell, candidate, out=product), input_gate, grad_input=d_input)
    _d_sigmoid(torch.mul(d_cell, previous, out=product), forget_gate, grad_input=d_forget)
    _d_tanh(torch.mul(d_cell, input_gate, out=product), candidate, grad_input=d_candidate)
    d_cell *= forget_gate


_d_sigmoid = torch.ops.aten.sigmoid_backward.grad_input
_d_tanh = torch.ops.aten.tanh_backward.grad_input


def _stop_at(clip: float, clipped: Tensor, gradient: Tensor):
    """No gradient, in place, where a value has reached the clip, which is rounded as values are."""
    torch.ops.aten.hardtanh_backward.grad_input(gradient, clipped, -clip, clip, grad_input=gradient)


def previous_of_each(packed: Tensor, initial: Tensor, batch_sizes: list[int]) -> Tensor:
    """(..., N, features) what each position's sentence held one step before."""
    if not batch_sizes:
        return packed
    pieces, start = [initial[..., : batch_sizes[0], :]], 0
    for before, running in pairwise(batch_sizes):
        pieces.append(packed[..., start : start + running, :])
        start += before
    return torch.cat(pieces, dim=-2)
