"""A model in 16 bits on a CPU: in float32 from its weights as they are now, or by bfloat16 instructions."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import elmo_hf.engine_elmo
from elmo_hf import ElmoModel, lstm_elmo, products_elmo
from elmo_hf.lstm_elmo import lstm
from elmo_hf.lstm_kernels_elmo import Clips, LstmWeights
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
    assert not model.float32_bilm.is_empty()
    assert set(model.state_dict()) == names
    assert copy.deepcopy(model).float32_bilm.is_empty()
    model.clear_cache()
    assert model.float32_bilm.is_empty()
    model.float()
    layers(model)
    assert model.float32_bilm.is_empty()


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


def test_only_weights_that_others_can_write_to_are_looked_at():
    model = tiny_model().bfloat16()
    layers(model)
    for copied, name in (
        (model.float32_bilm._character_encoder, "word_vectors"),
        (model.float32_bilm._encoder, "recurrent_weights"),
    ):
        record, _, twin = copied._entry
        assert record._watched
        assert not getattr(twin, name)._entry[0]._watched


@pytest.fixture
def with_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU that multiplies bfloat16 and finds the layers large."""
    if not products_elmo.bfloat16_products_work():
        pytest.skip("this CPU has no products in bfloat16")
    monkeypatch.setattr(elmo_hf.engine_elmo, "is_emulated", lambda dtype: False)
    monkeypatch.setattr(products_elmo, "LARGE_WEIGHT", 0)
    monkeypatch.setattr(elmo_hf.engine_elmo, "BFLOAT16_SENTENCES", 0)


def in_bfloat16(model: ElmoModel) -> None:
    """It multiplied in bfloat16, with the weights that it has now, and is near to float32."""
    entry = model.encoder.recurrent_weights._entry
    assert entry is not None
    assert entry[1] == "bfloat16"
    found = layers(model)
    assert all(map(torch.equal, found, layers(copy.deepcopy(model))))
    for given, right in zip(found, layers(copy.deepcopy(model).float()), strict=True):
        assert given.dtype == torch.bfloat16
        is_word = right.norm(dim=-1) > 0
        cosine = torch.nn.functional.cosine_similarity(given.float(), right, dim=-1)[is_word]
        assert cosine.min() > 0.999


@pytest.mark.usefixtures("with_instructions")
@pytest.mark.parametrize("options", [{}, {"cell_clip": None, "proj_clip": None}, {"use_skip_connections": False}])
def test_large_layers_multiply_in_bfloat16_and_keep_their_state_in_float32(options: dict[str, Any]):
    model = tiny_model(**options).bfloat16()
    layers(model)
    in_bfloat16(model)
    assert model.float32_bilm._encoder.is_empty()
    batch = layers(model)
    with torch.no_grad():
        alone = model(character_ids()[1:2, :7], output_hidden_states=True)
    for one, of_batch in zip(alone.hidden_states, batch, strict=False):
        torch.testing.assert_close(one[0].float(), of_batch[1, :7].float(), rtol=0, atol=0.03)
    hidden, cell = batch[-2:]
    carried = layers(model, lstm_states=(hidden, cell))
    right = layers(copy.deepcopy(model).float(), lstm_states=(hidden.float(), cell.float()))
    for given, expected in zip(carried, right, strict=True):
        torch.testing.assert_close(given.float(), expected, rtol=0, atol=0.03)


@pytest.mark.usefixtures("with_instructions")
@pytest.mark.parametrize("change", [name for name in CHANGES if name != "float16"])
def test_few_sentences_are_read_in_float32_where_layers_are_of_medium_size(change: str, monkeypatch):
    monkeypatch.setattr(elmo_hf.engine_elmo, "BFLOAT16_SENTENCES", len(character_ids()))

    @torch.no_grad()
    def few(one: ElmoModel) -> list[Tensor]:
        return list(one(character_ids()[:2], output_hidden_states=True).hidden_states)

    model = tiny_model().bfloat16()
    layers(model)
    few(model)
    CHANGES[change](model)
    in_bfloat16(model)
    fresh = copy.deepcopy(model)
    assert all(map(torch.equal, few(model), few(fresh)))
    assert fresh.encoder.recurrent_weights.is_empty()
    for found, expected in zip(few(fresh), few(copy.deepcopy(model).float()), strict=True):
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.03)
    monkeypatch.setattr(elmo_hf.engine_elmo, "BFLOAT16_WEIGHT", 0)
    few(fresh)
    assert not fresh.encoder.recurrent_weights.is_empty()


@pytest.mark.usefixtures("with_instructions")
@pytest.mark.parametrize("change", [name for name in CHANGES if name != "float16"])
def test_a_change_is_seen_in_bfloat16_as_well(change: str):
    model = tiny_model().bfloat16()
    before = layers(model)
    CHANGES[change](model)
    after = layers(model)
    assert not all(map(torch.equal, before, after))
    in_bfloat16(model)


@pytest.mark.usefixtures("with_instructions")
def test_in_bfloat16_hooks_and_training_see_the_modules_themselves():
    model = tiny_model().bfloat16()
    expected = layers(model)
    seen = []
    handle = model.encoder.forward_layers[0].register_forward_hook(lambda module, args, output: seen.append(args[0]))
    found = layers(model)
    handle.remove()
    assert [tensor.dtype for tensor in seen] == [torch.bfloat16]
    for given, right in zip(found, expected, strict=True):
        torch.testing.assert_close(given.float(), right.float(), rtol=0, atol=0.1)
    model.train()
    model(character_ids()).last_hidden_state.float().sum().backward()
    assert model.encoder.forward_layers[0].weight_hh.grad.dtype == torch.bfloat16


@pytest.mark.usefixtures("with_instructions")
def test_small_layers_are_copied_where_bfloat16_is_no_faster(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(products_elmo, "LARGE_WEIGHT", 1 << 18)
    check(tiny_model().bfloat16(), torch.bfloat16)


def test_a_processor_whose_bfloat16_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch):
    multiply = products_elmo.PackedProduct.__call__
    products_elmo.bfloat16_products_work.cache_clear()
    monkeypatch.setattr(products_elmo.PackedProduct, "__call__", lambda self, x: 2 * multiply(self, x))
    assert not products_elmo.bfloat16_products_work()
    products_elmo.bfloat16_products_work.cache_clear()


@pytest.mark.parametrize("dtype", HALVES)
def test_where_products_are_emulated_training_has_those_of_float32(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lstm_elmo, "is_emulated", lambda given: given in HALVES)
    torch.manual_seed(0)
    shapes = (9, 5), (3, 5), (3, 8), (32, 5), (32, 5), (32,), (5, 8)
    results = []
    tensors = [torch.randn(shape).to(dtype) for shape in shapes]
    for given in (tensors, [tensor.float() for tensor in tensors]):
        for tensor in given:
            tensor.requires_grad_()
        outputs = lstm(*given[:3], [3, 3, 2, 1], LstmWeights(*given[3:]), Clips(1.0, 1.0))
        results.append([*outputs, *torch.autograd.grad(sum(output.float().sum() for output in outputs), given)])
    for rounded, exact in zip(*results, strict=True):
        assert torch.equal(rounded, exact.to(dtype))
