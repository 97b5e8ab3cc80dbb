# SPDX-License-Identifier: Apache-2.0
"""
The recurrence of one LSTM layer on a GPU, each step's element-wise work in one kernel of Triton instead of a dozen.

Results are those of `lstm_kernels_elmo`, whose conventions hold here, to a few units in the last place of float32: in
half precision, gates and the step's new cell are computed in float32 and rounded once.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .lstm_kernels_elmo import Clips, Kept, LstmWeights, previous_of_each, slices

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

# Positions whose input products are computed at once in inference.
POSITIONS_AT_ONCE = 2048
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def has_fused_steps(tensor: Tensor) -> bool:
    """Whether the kernels are there for tensors like this one."""
    return triton is not None and tensor.is_cuda and tensor.dtype in _DTYPES and torch.version.hip is None


if triton is not None:

    @triton.jit
    def _tanh(x):
        # By the exponential of what is never positive; to 1e-7, and nan stays nan.
        small = tl.exp(-2.0 * tl.abs(x))
        size = (1.0 - small) / (1.0 + small)
        return tl.where(x < 0, -size, size)

    @triton.jit
    def _step_kernel(
        gates,
        previous,
        cells,
        reads,
        size,
        gates_direction,
        gates_row,
        previous_direction,
        previous_row,
        cells_direction,
        cells_row,
        reads_direction,
        reads_row,
        clip,
        CLIPS: tl.constexpr,
        KEEPS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        row, direction = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = column < size
        gate = gates + direction * gates_direction + row * gates_row + column
        input_gate = 1.0 / (1.0 + tl.exp(-tl.load(gate, mask=inside, other=0.0).to(tl.float32)))
        forget_gate = 1.0 / (1.0 + tl.exp(-tl.load(gate + size, mask=inside, other=0.0).to(tl.float32)))
        candidate = _tanh(tl.load(gate + 2 * size, mask=inside, other=0.0).to(tl.float32))
        output_gate = 1.0 / (1.0 + tl.exp(-tl.load(gate + 3 * size, mask=inside, other=0.0).to(tl.float32)))
        before = tl.load(
            previous + direction * previous_direction + row * previous_row + column, mask=inside, other=0.0
        ).to(tl.float32)
        cell = forget_gate * before + input_gate * candidate
        if CLIPS:
            cell = tl.where(cell > clip, clip, tl.where(cell < -clip, -clip, cell))
        dtype = gates.dtype.element_ty
        tl.store(cells + direction * cells_direction + row * cells_row + column, cell.to(dtype), mask=inside)
        read = output_gate * _tanh(cell)
        tl.store(reads + direction * reads_direction + row * reads_row + column, read.to(dtype), mask=inside)
        if KEEPS:
            tl.store(gate, input_gate.to(dtype), mask=inside)
            tl.store(gate + size, forget_gate.to(dtype), mask=inside)
            tl.store(gate + 2 * size, candidate.to(dtype), mask=inside)
            tl.store(gate + 3 * size, output_gate.to(dtype), mask=inside)

    @triton.jit
    def _step_gradient_kernel(
        gates,
        previous,
        cells,
        d_reads,
        d_cells,
        d_gates,
        reads,
        size,
        gates_direction,
        gates_row,
        previous_direction,
        previous_row,
        cells_direction,
        cells_row,
        d_reads_direction,
        d_reads_row,
        d_cells_direction,
        d_cells_row,
        d_gates_direction,
        d_gates_row,
        reads_direction,
        reads_row,
        clip,
        CLIPS: tl.constexpr,
        BLOCK: tl.constexpr,
    ):
        row, direction = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = column < size
        gate = gates + direction * gates_direction + row * gates_row + column
        input_gate = tl.load(gate, mask=inside, other=0.0).to(tl.float32)
        forget_gate = tl.load(gate + size, mask=inside, other=0.0).to(tl.float32)
        candidate = tl.load(gate + 2 * size, mask=inside, other=0.0).to(tl.float32)
        output_gate = tl.load(gate + 3 * size, mask=inside, other=0.0).to(tl.float32)
        before = tl.load(
            previous + direction * previous_direction + row * previous_row + column, mask=inside, other=0.0
        ).to(tl.float32)
        cell = tl.load(cells + direction * cells_direction + row * cells_row + column, mask=inside, other=0.0).to(
            tl.float32
        )
        d_read = tl.load(
            d_reads + direction * d_reads_direction + row * d_reads_row + column, mask=inside, other=0.0
        ).to(tl.float32)
        d_cell_at = d_cells + direction * d_cells_direction + row * d_cells_row + column
        d_cell = tl.load(d_cell_at, mask=inside, other=0.0).to(tl.float32)
        shown = _tanh(cell)
        d_cell += d_read * output_gate * (1.0 - shown * shown)
        if CLIPS:
            d_cell = tl.where(tl.abs(cell) >= clip, 0.0, d_cell)
        dtype = gates.dtype.element_ty
        d_gate = d_gates + direction * d_gates_direction + row * d_gates_row + column
        d_input = d_cell * candidate * input_gate * (1.0 - input_gate)
        d_forget = d_cell * before * forget_gate * (1.0 - forget_gate)
        d_candidate = d_cell * input_gate * (1.0 - candidate * candidate)
        d_output = d_read * shown * output_gate * (1.0 - output_gate)
        tl.store(d_gate, d_input.to(dtype), mask=inside)
        tl.store(d_gate + size, d_forget.to(dtype), mask=inside)
        tl.store(d_gate + 2 * size, d_candidate.to(dtype), mask=inside)
        tl.store(d_gate + 3 * size, d_output.to(dtype), mask=inside)
        tl.store(d_cell_at, (d_cell * forget_gate).to(dtype), mask=inside)
        read = output_gate * shown
        tl.store(reads + direction * reads_direction + row * reads_row + column, read.to(dtype), mask=inside)


def _launch(kernel: Any, tensors: Sequence[Tensor], clip: float | None, **switches: bool) -> None:
    """Runs a kernel over (..., running, size) tensors, the first one with four gates; the last dimension is dense."""
    size = tensors[1].shape[-1]
    strides = []
    for tensor in tensors:
        strides += [tensor.stride(0) if tensor.dim() > 2 else 0, tensor.stride(-2)]
    block = min(1024, triton.next_power_of_2(size))
    directions = tensors[0].shape[0] if tensors[0].dim() > 2 else 1
    grid = (tensors[0].shape[-2], triton.cdiv(size, block), directions)
    bound = 0.0 if clip is None else clip
    kernel[grid](*tensors, size, *strides, bound, CLIPS=clip is not None, BLOCK=block, **switches)


def _add_product(total: Tensor, x: Tensor, weight: Tensor) -> None:
    """`total` += `x` @ `weight`^T"""
    (total.baddbmm_ if total.dim() > 2 else total.addmm_)(x, weight.transpose(-1, -2))


def _product(x: Tensor, weight: Tensor, out: Tensor) -> None:
    """`out` = `x` @ `weight`^T"""
    (torch.bmm if x.dim() > 2 else torch.mm)(x, weight.transpose(-1, -2), out=out)


def fused_lstm(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    batch_sizes: list[int],
    weights: LstmWeights,
    clips: Clips,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `lstm_kernels_elmo.lstm_in_place`."""
    outputs = inputs.new_empty(*inputs.shape[:-1], hidden.shape[-1])
    cell, final_hidden = cell.clone(memory_format=torch.contiguous_format), hidden.clone()
    reads = torch.empty_like(cell)
    last_hidden, before = hidden, hidden.shape[-2]
    start = 0
    for steps in slices(batch_sizes, POSITIONS_AT_ONCE):
        end = start + sum(steps)
        part_gates = _input_gates(inputs[..., start:end, :], weights).split(steps, dim=-2)
        part_outputs = outputs[..., start:end, :].split(steps, dim=-2)
        start = end
        for running, gates, output in zip(steps, part_gates, part_outputs, strict=True):
            if running < before:
                final_hidden[..., running:before, :] = last_hidden[..., running:, :]
                last_hidden, before = last_hidden[..., :running, :], running
            memory, read = cell[..., :running, :], reads[..., :running, :]
            _add_product(gates, last_hidden, weights.weight_hh)
            _launch(_step_kernel, [gates, memory, memory, read], clips.cell, KEEPS=False)
            _product(read, weights.weight_hr, output)
            if clips.projection is not None:
                output.clamp_(-clips.projection, clips.projection)
            last_hidden = output
    final_hidden[..., :before, :] = last_hidden
    return outputs, final_hidden, cell


def _input_gates(inputs: Tensor, weights: LstmWeights) -> Tensor:
    """(..., N, 4 * cell_size), to be added to."""
    if inputs.dim() > 2:
        return torch.baddbmm(weights.bias.unsqueeze(-2), inputs, weights.weight_ih.transpose(-1, -2))
    return F.linear(inputs, weights.weight_ih, weights.bias)


def fused_lstm_keeping(
    inputs: Tensor, hidden: Tensor, cell: Tensor, batch_sizes: list[int], weights: LstmWeights, clips: Clips
) -> tuple[Tensor, Tensor, Tensor, Kept]:
    """As `lstm_kernels_elmo.lstm_keeping`."""
    cell = cell.contiguous()
    gates = _input_gates(inputs, weights)
    cells = gates.new_empty(*gates.shape[:-1], cell.shape[-1])
    outputs = gates.new_empty(*gates.shape[:-1], hidden.shape[-1])
    reads = torch.empty_like(cell)
    final_hidden, final_cell = hidden.clone(), cell.clone()
    last_hidden, last_cell = hidden, cell
    ends = [0, *accumulate(batch_sizes)]
    for index, (start, running) in enumerate(zip(ends[:-1], batch_sizes, strict=True)):
        at = slice(start, start + running)
        step_gates, memory, output = gates[..., at, :], cells[..., at, :], outputs[..., at, :]
        read = reads[..., :running, :]
        _add_product(step_gates, last_hidden[..., :running, :], weights.weight_hh)
        tensors = [step_gates, last_cell[..., :running, :], memory, read]
        _launch(_step_kernel, tensors, clips.cell, KEEPS=True)
        _product(read, weights.weight_hr, output)
        if clips.projection is not None:
            output.clamp_(-clips.projection, clips.projection)
        following = batch_sizes[index + 1] if index + 1 < len(batch_sizes) else 0
        if following < running:
            final_hidden[..., following:running, :] = output[..., following:, :]
            final_cell[..., following:running, :] = memory[..., following:, :]
        last_hidden, last_cell = output, memory
    return outputs, final_hidden, final_cell, Kept(gates, cells)


def fused_lstm_gradients(
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
    """As `lstm_kernels_elmo.lstm_gradients`."""
    gates, cells = kept
    cell = cell.contiguous()
    d_hidden, d_cell = (state.clone(memory_format=torch.contiguous_format) for state in gradients[1:])
    d_gates, reads = torch.empty_like(gates), torch.empty_like(cells)
    d_projected = gradients[0].clone(memory_format=torch.contiguous_format)
    d_reads = torch.empty_like(cell, memory_format=torch.contiguous_format)
    # What a clip let through.
    passes = None if clips.projection is None else (outputs.abs() < clips.projection).to(outputs.dtype)
    back_recurrent, back_projection = weights.weight_hh.transpose(-1, -2), weights.weight_hr.transpose(-1, -2)
    starts = [0, *accumulate(batch_sizes)][:-1]
    for index in reversed(range(len(batch_sizes))):
        running, start = batch_sizes[index], starts[index]
        at = slice(start, start + running)
        d_output, d_read, d_memory = d_projected[..., at, :], d_reads[..., :running, :], d_cell[..., :running, :]
        d_output += d_hidden[..., :running, :]
        if passes is not None:
            d_output *= passes[..., at, :]
        _product(d_output, back_projection, d_read)
        previous = cell[..., :running, :]
        if index:
            previous = cells[..., starts[index - 1] : starts[index - 1] + running, :]
        tensors = [gates[..., at, :], previous, cells[..., at, :], d_read, d_memory, d_gates[..., at, :]]
        _launch(_step_gradient_kernel, [*tensors, reads[..., at, :]], clips.cell)
        _product(d_gates[..., at, :], back_recurrent, d_hidden[..., :running, :])
    gates_last = d_gates.transpose(-1, -2)
    return (
        torch.matmul(d_gates, weights.weight_ih) if needs[0] else None,
        d_hidden if needs[1] else None,
        d_cell if needs[2] else None,
        torch.matmul(gates_last, inputs) if needs[3] else None,
        torch.matmul(gates_last, previous_of_each(outputs, hidden, batch_sizes)) if needs[4] else None,
        d_gates.sum(-2) if needs[5] else None,
        torch.matmul(d_projected.transpose(-1, -2), reads) if needs[6] else None,
    )
