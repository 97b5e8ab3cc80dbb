# SPDX-License-Identifier: Apache-2.0
"""
The LSTM layer for compilers and exporters, who would unroll a loop over the words and compile it anew for each number
of them.

Here all sentences are laid out as long as the longest one: `inputs` is (steps * batch, input_size), time-major, rows
in the order of the batch, and `lengths` (batch,) says where each sentence ends. At padding, outputs are 0.
"""

import re
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .engine_elmo import needs_gradient
from .lstm_kernels_elmo import (
    Clips,
    Kept,
    LstmWeights,
    layer_products,
    lstm_cell,
    lstm_gradients,
    lstm_in_place,
    lstm_keeping,
)
from .packing_elmo import longest_first

# A copy of this file in a Hub folder defines operators of its own.
_NAMESPACE = re.sub(r"\W", "_", __name__.rpartition(".")[0]) or "elmo_hf"


def lstm_by_operator(
    inputs: Tensor, hidden: Tensor, cell: Tensor, lengths: Tensor, weights: LstmWeights, clips: Clips
) -> tuple[Tensor, Tensor, Tensor]:
    """
    One operator that compilers do not look into, the same for all shapes: outputs and both states of each sentence
    after its last word. Differentiable once.
    """
    tensors = [tensor.contiguous() for tensor in (inputs, hidden, cell, *weights)]
    if needs_gradient(*tensors):
        return _CompiledLstm.apply(*tensors, lengths, *clips)
    return _forward(*tensors, lengths, *clips, False)[:3]


class _Order:
    """The positions of all sentences without padding, longest sentence first, as the kernels read them."""

    def __init__(self, lengths: Tensor):
        self.batch_sizes, self.sorted_rows = longest_first(lengths)
        self.rows = torch.argsort(self.sorted_rows)
        # (N,) where the padded layout has each position
        self.positions = torch.cat(
            [self.sorted_rows[:running] + step * len(lengths) for step, running in enumerate(self.batch_sizes)]
            or [self.rows[:0]]
        )

    def padded(self, packed: Tensor, like: Tensor) -> Tensor:
        """(N, features) -> (steps * batch, features), 0 at padding."""
        return packed.new_zeros(len(like), packed.shape[-1]).index_copy_(0, self.positions, packed)


@torch.library.custom_op(f"{_NAMESPACE}::lstm", mutates_args=())
def _forward(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    weight_hr: Tensor,
    lengths: Tensor,
    cell_clip: float | None,
    projection_clip: float | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """
    Returns:
        Outputs, final states and what the backward pass needs, as the first rows of (steps * batch, features) tensors;
        without `keep`, of empty ones.
    """
    weights, clips = LstmWeights(weight_ih, weight_hh, bias, weight_hr), Clips(cell_clip, projection_clip)
    order = _Order(lengths)
    arguments = inputs[order.positions], hidden[order.sorted_rows], cell[order.sorted_rows], order.batch_sizes
    if keep:
        outputs, last_hidden, last_cell, kept = lstm_keeping(*arguments, weights, clips)
        gates, cells = (F.pad(tensor, (0, 0, 0, len(inputs) - len(tensor))) for tensor in kept)
    else:
        products = layer_products(arguments[0], [weights], None)
        outputs, last_hidden, last_cell = lstm_in_place(*arguments, products, clips)
        gates, cells = inputs.new_empty(0), inputs.new_empty(0)
    return order.padded(outputs, inputs), last_hidden[order.rows], last_cell[order.rows], gates, cells


@_forward.register_fake
def _(inputs, hidden, cell, weight_ih, weight_hh, bias, weight_hr, lengths, cell_clip, projection_clip, keep):
    outputs = inputs.new_empty(inputs.shape[0], hidden.shape[-1])
    sizes = 4 * cell.shape[-1], cell.shape[-1]
    gates, cells = (inputs.new_empty(inputs.shape[0], size) if keep else inputs.new_empty(0) for size in sizes)
    return outputs, torch.empty_like(hidden), torch.empty_like(cell), gates, cells


@torch.library.custom_op(f"{_NAMESPACE}::lstm_backward", mutates_args=())
def _backward(
    d_outputs: Tensor,
    d_hidden: Tensor,
    d_cell: Tensor,
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    weight_hr: Tensor,
    lengths: Tensor,
    outputs: Tensor,
    gates: Tensor,
    cells: Tensor,
    cell_clip: float | None,
    projection_clip: float | None,
    needs: Sequence[bool],
) -> list[Tensor]:
    """The seven gradients of the operator, empty where `needs` does not ask for one."""
    weights, clips = LstmWeights(weight_ih, weight_hh, bias, weight_hr), Clips(cell_clip, projection_clip)
    order = _Order(lengths)
    at, number = order.positions, len(order.positions)
    d_inputs, d_first_hidden, d_first_cell, *d_weights = (
        inputs.new_empty(0) if gradient is None else gradient
        for gradient in lstm_gradients(
            (d_outputs[at], d_hidden[order.sorted_rows], d_cell[order.sorted_rows]),
            inputs[at],
            hidden[order.sorted_rows],
            cell[order.sorted_rows],
            order.batch_sizes,
            weights,
            clips,
            outputs[at],
            Kept(gates[:number], cells[:number]),
            needs,
        )
    )
    return [
        order.padded(d_inputs, inputs) if needs[0] else d_inputs,
        d_first_hidden[order.rows] if needs[1] else d_first_hidden,
        d_first_cell[order.rows] if needs[2] else d_first_cell,
        *d_weights,
    ]


@_backward.register_fake
def _(d_outputs, d_hidden, d_cell, *arguments):
    *tensors, needs = arguments
    return [
        torch.empty_like(tensor) if needed else tensor.new_empty(0)
        for tensor, needed in zip(tensors[:7], needs, strict=True)
    ]


class _CompiledLstm(torch.autograd.Function):
    """
    The operator with its gradient. `register_autograd` would be shorter, but gives forward-mode derivatives of 0
    without a word.
    """

    @staticmethod
    def forward(ctx, inputs, hidden, cell, weight_ih, weight_hh, bias, weight_hr, lengths, cell_clip, projection_clip):
        tensors = inputs, hidden, cell, weight_ih, weight_hh, bias, weight_hr, lengths
        outputs, last_hidden, last_cell, gates, cells = _forward(*tensors, cell_clip, projection_clip, True)
        ctx.save_for_backward(*tensors, outputs, gates, cells)
        ctx.clips = cell_clip, projection_clip
        return outputs, last_hidden, last_cell

    @staticmethod
    def backward(ctx, d_outputs, d_hidden, d_cell):
        needs = list(ctx.needs_input_grad[:7])
        gradients = (gradient.contiguous() for gradient in (d_outputs, d_hidden, d_cell))
        found = _backward(*gradients, *ctx.saved_tensors, *ctx.clips, needs)
        return *(gradient if needed else None for gradient, needed in zip(found, needs, strict=True)), None, None, None


def lstm_by_scan(
    inputs: Tensor, hidden: Tensor, cell: Tensor, lengths: Tensor, weights: LstmWeights, clips: Clips
) -> tuple[Tensor, Tensor, Tensor]:
    """
    The same as a loop of standard operators, which ONNX has (`Scan`). Its gradients are not to be trusted: PyTorch's
    compiler gets some of them wrong.
    """
    # Private to PyTorch and a prototype.
    from torch._higher_order_ops.scan import scan

    # Not `len`, which exporters take for a constant.
    batch = hidden.shape[0]
    # (steps, batch, 4 * cell_size)
    gates = F.linear(inputs, weights.weight_ih, weights.bias).unflatten(0, (-1, batch))
    steps = torch.arange(gates.shape[0], device=gates.device)

    def run_step(state: tuple[Tensor, Tensor], read: tuple[Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor], Tensor]:
        old_hidden, old_cell = state
        step_gates, step = read
        step_gates = step_gates + F.linear(old_hidden, weights.weight_hh)
        output, memory = lstm_cell(step_gates, old_cell, weights.weight_hr, clips)
        runs = (step < lengths)[:, None]
        new_hidden, new_cell = torch.where(runs, output, old_hidden), torch.where(runs, memory, old_cell)
        return (new_hidden, new_cell), torch.where(runs, output, 0.0)

    # Two tensors, also where both states are one.
    (hidden, cell), outputs = scan(run_step, (hidden.clone(), cell.clone()), (gates, steps))
    return outputs.flatten(0, 1), hidden, cell
