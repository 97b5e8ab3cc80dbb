"""
One LSTM layer with a projected, clipped output over a packed batch: three ways to compute the same thing.

`lstm_inference` keeps nothing and works in place, `LstmFunction` keeps what its hand-written backward pass needs, and
`lstm_traced` is plain differentiable PyTorch for compilers and exporters (and the twin that tests compare with).

Every tensor may have leading dimensions, such as one for the two directions, and then so has every weight. `N` is the
number of positions, time-major, longest sentence first; `running` the number of sentences that run at a step.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Parameter
from torch.nn import functional as F

# Positions whose input products are computed at once in inference: enough for a full-speed product, little to hold.
INPUT_SLICE = 256

# Elements of a weight that are compared to notice edits which PyTorch does not count (`weight.data.mul_(2)`).
NUM_SAMPLES = 4096


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


# (..., rows, in_features) -> (..., rows, out_features)
Product = Callable[[Tensor], Tensor]


class LstmProducts(NamedTuple):
    """The three products of a layer; `inputs` adds the bias."""

    inputs: Product
    recurrent: Product
    projection: Product


def prepare_products(weights: LstmWeights, single_sentence: bool = False) -> LstmProducts:
    """Copies the weights into the order that the fastest kernel at hand reads, where there is one."""
    step_product = single_row_product if single_sentence else packed_product
    return LstmProducts(
        packed_product(weights.weight_ih, weights.bias),
        step_product(weights.weight_hh),
        step_product(weights.weight_hr),
    )


def packed_product(weight: Tensor, bias: Tensor | None = None) -> Product:
    """`x @ weight.T + bias` for one weight that multiplies many small `x`."""
    if weight.dim() > 2:
        transposed = weight.transpose(-1, -2)
        if bias is None:
            return lambda x: torch.matmul(x, transposed)
        return lambda x: torch.matmul(x, transposed) + bias.unsqueeze(-2)
    if not can_pack(weight):
        return lambda x: F.linear(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)
    linear = torch.ops.mkldnn._linear_pointwise
    return lambda x: linear(x, packed, bias, "none", [], "")


def single_row_product(weight: Tensor) -> Product:
    """`x @ weight.T` for a weight that multiplies one row at a time, in the time that reading the weight takes."""
    if weight.dim() > 2 or weight.device.type != "cpu":
        return packed_product(weight)
    if weight.shape[0] < weight.shape[1]:
        return lambda x: F.linear(x, weight)
    # Long rows of many outputs are read up to three times faster than many short rows of inputs.
    transposed = weight.detach().t().contiguous()
    return lambda x: torch.mm(x, transposed)


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN's operators, which are private to PyTorch, are here and serve this weight."""
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def needs_gradient(*tensors: Tensor) -> bool:
    """Whether a result of these tensors must remember how it came about."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


class WeightCache:
    """
    Something computed from weights, computed again when one of them has changed.

    Notices new storage, in-place changes that PyTorch counts (optimizers, `load_state_dict`, edits under `no_grad`)
    and, by samples, wholesale changes through `.data`, which it does not count. Of weights that are no `Parameter` it
    keeps nothing. Copies and pickles of it are empty.
    """

    def __init__(self):
        self._entry: tuple[list, list[Tensor], Any] | None = None

    def get(self, weights: Sequence[Tensor], compute: Callable[[], Any], variant: Any = None) -> Any:
        """What `compute` gave for these weights, and for this `variant` of it."""
        if not all(isinstance(weight, Parameter) for weight in weights):
            # Made for this call (an adapter's sum, say): the next one may have the same address and version.
            self._entry = None
            return compute()
        # Read once: another thread may replace it.
        entry = self._entry
        identities = [variant, *map(_identity, weights)]
        samples = [_samples(weight) for weight in weights]
        if entry is not None and entry[0] == identities and all(map(torch.equal, entry[1], samples)):
            return entry[2]
        self._entry = None
        value = compute()
        self._entry = (identities, samples, value)
        return value

    def clear(self):
        self._entry = None

    def __deepcopy__(self, memo: dict) -> "WeightCache":
        return WeightCache()

    def __reduce__(self):
        return WeightCache, ()


def _identity(weight: Tensor) -> tuple:
    # Weights that were made in inference mode have no version; they cannot be trained either.
    version = None if weight.is_inference() else weight._version
    return weight.data_ptr(), version, weight.shape, weight.stride(), weight.dtype, weight.device


def _samples(weight: Tensor) -> Tensor:
    flat = weight.detach().reshape(-1)
    # An odd step, so that the samples do not all stand in one column.
    return flat[:: flat.numel() // NUM_SAMPLES | 1].clone()


def lstm_inference(
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
        slice_gates = products.inputs(inputs[..., start:end, :]).split(steps, dim=-2)
        slice_outputs = outputs[..., start:end, :].split(steps, dim=-2)
        start = end
        for running, gates, output in zip(steps, slice_gates, slice_outputs, strict=True):
            if running < before:
                # Rows that have ended keep their last value.
                final_hidden[..., running:before, :] = hidden[..., running:, :]
                hidden, before = hidden[..., :running, :], running
            gates += products.recurrent(hidden)
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
        recurrent, projection = packed_product(weight_hh), packed_product(weight_hr)
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
        ctx.save_for_backward(inputs, hidden, cell, weight_ih, weight_hh, weight_hr, gates, cells, outputs)
        ctx.batch_sizes, ctx.clips = batch_sizes, clips
        return outputs, final_hidden, final_cell

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor, d_final_hidden: Tensor, d_final_cell: Tensor) -> tuple:
        inputs, hidden, cell, weight_ih, weight_hh, weight_hr, gates, cells, outputs = ctx.saved_tensors
        clips: Clips = ctx.clips
        size = cell.shape[-1]
        back_recurrent = packed_product(weight_hh.transpose(-1, -2))
        back_projection = packed_product(weight_hr.transpose(-1, -2))
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


def run_side_by_side(tasks: Sequence[Callable[[], Any]]) -> list[Any]:
    """Runs tasks that need no gradient at the same time, each on its share of PyTorch's threads."""
    workers = _workers(os.getpid(), len(tasks), torch.get_num_threads())
    inference_mode = torch.is_inference_mode_enabled()

    def run(task: Callable[[], Any]) -> Any:
        # Both modes belong to a thread.
        with torch.inference_mode(inference_mode), torch.no_grad():
            return task()

    return list(workers.map(run, tasks))


@lru_cache(maxsize=1)
def _workers(process: int, number: int, threads: int) -> ThreadPoolExecutor:
    """Workers of this process (a fork has the object, but not its threads), each with its share of `threads`."""
    started = threading.Barrier(number)

    def start(_: int):
        torch.set_num_threads(max(1, threads // number))
        started.wait()

    workers = ThreadPoolExecutor(number, thread_name_prefix="elmo")
    list(workers.map(start, range(number)))
    # The call holds for its own thread, but also sets what threads to come will start with.
    torch.set_num_threads(threads)
    return workers


def lstm_traced(
    inputs: Tensor,
    hidden: Tensor,
    cell: Tensor,
    batch_sizes: list[int],
    weights: LstmWeights,
    clips: Clips,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `lstm_inference`; `lengths` (batch,) ends sentences before their steps do."""
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
        input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=-1)
        memory = torch.sigmoid(forget_gate) * cell + torch.sigmoid(input_gate) * torch.tanh(candidate)
        if clips.cell is not None:
            memory = memory.clamp(-clips.cell, clips.cell)
        output = F.linear(torch.sigmoid(output_gate) * torch.tanh(memory), weights.weight_hr)
        if clips.projection is not None:
            output = output.clamp(-clips.projection, clips.projection)
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
