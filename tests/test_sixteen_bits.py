"""A model in 16 bits on a CPU that would emulate them: computed in float32 from its weights as they are now."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import elmo_hf.engine_elmo
from elmo_hf import ElmoModel
from tests.language_model import language_model
from tests.tiny import character_ids, tiny_model

HALVES = [torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elmo_hf.engine_elmo, "is_emulated", lambda dtype: dtype in HALVES)


def layers(model: ElmoModel, **options: Any) -> list[Tensor]:
    with torch.no_grad():
        outputs = model(character_ids(), output_hidden_states=True, **options)
    return [*outputs.hidden_states, *outputs.lstm_states]


def check(model: ElmoModel, dtype: torch.dtype, **options: Any) -> None:
    """The same bits as a float32 model with these weights, rounded once."""
    expected = layers(copy.deepcopy(model).float(), **options)
    for given, right in zip(layers(model, **options), expected, strict=True):
        assert given.dtype == dtype
        assert torch.equal(given, right.to(dtype))


@pytest.mark.parametrize("dtype", HALVES)
def test_it_is_float32_rounded_once(dtype: torch.dtype):
    model = tiny_model().to(dtype)
    check(model, dtype)
    hidden, cell = layers(model)[-2:]
    check(model, dtype, lstm_states=(hidden, cell))
    assert model.encoder.forward_layers[0].weight_ih.dtype == dtype


CHANGES: dict[str, Callable[[ElmoModel], object]] = {
    "in place": lambda m: m.encoder.forward_layers[0].weight_hh.detach().mul_(1.5),
    "data": lambda m: m.encoder.backward_layers[1].weight_hr.data.mul_(1.5),
    "new parameter": lambda m: setattr(
        m.encoder.forward_layers[1], "bias", torch.nn.Parameter(m.encoder.forward_layers[1].bias.detach() + 1)
    ),
    "NumPy": lambda m: m.character_encoder.projection.weight.data.view(torch.int16).numpy().fill(0),
    "load_state_dict": lambda m: m.load_state_dict({n: v * 1.25 for n, v in m.state_dict().items()}),
    "clip": lambda m: setattr(
        m.encoder.forward_layers[0], "clips", m.encoder.forward_layers[0].clips._replace(cell=0.01)
    ),
    "no skip": lambda m: setattr(m.encoder.backward_layers[1], "add_skip", False),
    "another activation": lambda m: setattr(m.character_encoder, "activation", torch.tanh),
    "float16": lambda m: m.half(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen_at_once(change: str):
    model = tiny_model().bfloat16()
    before = layers(model)
    CHANGES[change](model)
    after = layers(model)
    assert not all(torch.equal(one.float(), other.float()) for one, other in zip(before, after, strict=True))
    check(model, model.dtype)


def test_hooks_and_gradients_see_the_modules_themselves():
    model = tiny_model().bfloat16()
    layers(model)
    seen = []
    handle = model.encoder.forward_layers[0].register_forward_hook(lambda module, args, output: seen.append(args[0]))
    layers(model)
    handle.remove()
    assert [tensor.dtype for tensor in seen] == [torch.bfloat16]
    model.train()
    model(character_ids()).last_hidden_state.float().sum().backward()
    assert model.encoder.forward_layers[0].weight_hh.grad.dtype == torch.bfloat16


def test_copies_and_saved_models_are_without_it():
    model = tiny_model().bfloat16()
    names = set(model.state_dict())
    layers(model)
    assert model.float32_bilm._entry is not None
    assert set(model.state_dict()) == names
    assert copy.deepcopy(model).float32_bilm._entry is None
    model.clear_cache()
    assert model.float32_bilm._entry is None
    model.float()
    layers(model)
    assert model.float32_bilm._entry is None


def test_a_language_model_scores_nearly_as_in_float32():
    model = language_model().eval()
    with torch.no_grad():
        ids, labels = character_ids(), torch.ones(4, 11, dtype=torch.long)
        expected = model(ids, labels=labels).loss
        found = copy.deepcopy(model).bfloat16()(ids, labels=labels).loss
    assert found.item() == pytest.approx(expected.item(), rel=0.02)


def test_inputs_embeds_are_read_as_well():
    model = tiny_model().bfloat16()
    with torch.no_grad():
        embeds = model.get_input_embeddings()(character_ids())
        given = model(inputs_embeds=embeds, attention_mask=character_ids().ne(0).any(-1)).last_hidden_state
        right = model.float()(inputs_embeds=embeds.float(), attention_mask=character_ids().ne(0).any(-1))
    torch.testing.assert_close(given.float(), right.last_hidden_state, rtol=0, atol=0.02)
