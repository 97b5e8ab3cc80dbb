"""The forms of the LSTM layer for compilers and exporters give what the reference gives."""

from typing import Any

import pytest
import torch
from torch import Tensor

from elmo_hf import lstm_compiled_elmo
from elmo_hf.lstm_compiled_elmo import lstm_by_operator, lstm_by_scan
from elmo_hf.lstm_kernels_elmo import Clips, LstmWeights, lstm_reference

INPUT, CELL, BATCH, STEPS = 2, 3, 4, 5
# Wide enough bounds to leave some values alone, tight enough to catch others.
CLIPS = [Clips(None, None), Clips(0.5, 0.4)]
# Sentences of all lengths, none of the full one, and none at all.
LENGTHS = [[5, 1, 3, 4], [0, 2, 4, 2], [0, 0, 0, 0]]


def layer_tensors() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [
        (STEPS * BATCH, INPUT),
        (BATCH, INPUT),
        (BATCH, CELL),
        (4 * CELL, INPUT),
        (4 * CELL, INPUT),
        (4 * CELL,),
        (INPUT, CELL),
    ]
    return [torch.randn(*shape, dtype=torch.float64, generator=generator) * 0.9 for shape in shapes]


def run(form: Any, tensors: list[Tensor], lengths: Tensor, clips: Clips) -> tuple[Tensor, ...]:
    """Outputs with zeros at padding, and the final states."""
    inputs, hidden, cell, *weights = tensors
    if form is lstm_reference:
        outputs, *states = lstm_reference(inputs, hidden, cell, [], LstmWeights(*weights), clips, lengths)
        is_word = torch.arange(STEPS)[:, None] < lengths
        return torch.where(is_word.flatten()[:, None], outputs, 0.0), *states
    return form(inputs, hidden, cell, lengths, LstmWeights(*weights), clips)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("clips", CLIPS, ids=str)
@pytest.mark.parametrize("form", [lstm_by_operator, lstm_by_scan])
def test_each_form_gives_what_the_reference_gives(form: Any, clips: Clips, lengths: list[int]):
    tensors = layer_tensors()
    with torch.no_grad():
        found, expected = (run(one, tensors, torch.tensor(lengths), clips) for one in (form, lstm_reference))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("wanted", [range(7), [0], [4], [1, 6]], ids=str)
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("clips", CLIPS, ids=str)
def test_the_operator_has_the_gradients_of_the_reference(clips: Clips, lengths: list[int], wanted: list[int]):
    tensors = layer_tensors()
    some = [tensors[number].requires_grad_() for number in wanted]
    gradients = []
    for form in (lstm_by_operator, lstm_reference):
        results = run(form, tensors, torch.tensor(lengths), clips)
        loss = sum((one * torch.linspace(-1, 1, one.numel()).view_as(one)).sum() for one in results)
        gradients.append(
            torch.autograd.grad(loss, some, allow_unused=True, materialize_grads=True) if loss.requires_grad else None
        )
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("keep", [False, True])
def test_the_operators_are_what_they_tell_compilers(keep: bool):
    # Shapes and strides of results, which may share no memory with each other or with what was given.
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    tensors, lengths = layer_tensors(), torch.tensor(LENGTHS[0])
    torch.library.opcheck(lstm_compiled_elmo._forward, (*tensors, lengths, 0.5, None, keep), test_utils=checks)
    outputs, hidden, cell, *kept = lstm_compiled_elmo._forward(*tensors, lengths, 0.5, None, True)
    gradients = [torch.ones_like(one) for one in (outputs, hidden, cell)]
    arguments = (*gradients, *tensors, lengths, outputs, *kept, 0.5, None, [keep, True, keep, True, keep, True, keep])
    torch.library.opcheck(lstm_compiled_elmo._backward, arguments, test_utils=checks)


def test_a_second_derivative_of_the_operator_is_refused():
    inputs, *others = layer_tensors()
    inputs.requires_grad_()
    outputs, *_ = run(lstm_by_operator, [inputs, *others], torch.tensor(LENGTHS[0]), CLIPS[0])
    (gradient,) = torch.autograd.grad(outputs.square().sum(), inputs, create_graph=True)
    with pytest.raises(RuntimeError, match="lstm_backward"):
        torch.autograd.grad(gradient.sum(), inputs)
