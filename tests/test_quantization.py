"""8-bit weights: close to the model they come from, and nothing but that."""

import pytest
import torch

from elmo_hf import quantize
from elmo_hf.checkpoints.bilm_hdf5 import read_model
from elmo_hf.quantization import Int8Linear
from tests.tiny import character_ids, tiny_model


def test_layers_of_trained_weights_keep_their_direction(reference_dir):
    model = read_model(reference_dir / "options.json", reference_dir / "lm_weights.hdf5").eval()
    quantized, ids = quantize(model), character_ids()
    with torch.no_grad():
        exact, rounded = (m(ids, output_hidden_states=True) for m in (model, quantized))
    for one, other in zip(exact.hidden_states, rounded.hidden_states, strict=True):
        cosine = torch.cosine_similarity(one[exact.mask], other[exact.mask], dim=-1)
        assert 0.999 <= cosine.mean() < 1.0


def test_the_model_it_comes_from_stays_as_it_is():
    model, ids = tiny_model(), character_ids()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        expected = model(ids).last_hidden_state
        quantize(model)(ids)
        assert torch.equal(model(ids).last_hidden_state, expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_its_float32_weights_are_gone_and_nothing_is_trained():
    model = tiny_model()
    quantized = quantize(model)
    kept = {name for name, _ in quantized.named_parameters()}
    assert {name for name, _ in model.named_parameters()} - kept >= {
        "encoder.forward_layers.0.weight_hh",
        "encoder.backward_layers.1.weight_hr",
        "character_encoder.highways.0.transform.weight",
        "character_encoder.projection.weight",
    }
    assert not any(parameter.requires_grad for parameter in quantized.parameters())


def test_a_sentence_without_words_and_an_empty_batch_work():
    quantized = quantize(tiny_model())
    assert quantized(torch.zeros(1, 0, 50, dtype=torch.long)).last_hidden_state.shape == (1, 0, 12)
    assert quantized(torch.zeros(0, 3, 50, dtype=torch.long)).last_hidden_state.shape == (0, 3, 12)


def test_an_output_whose_weights_are_zero_is_its_bias():
    linear = Int8Linear(torch.zeros(2, 3), torch.tensor([0.5, -1.0]))
    torch.testing.assert_close(linear(torch.randn(4, 3)), torch.tensor([[0.5, -1.0]]).expand(4, 2))


def test_it_cannot_be_saved(tmp_path):
    with pytest.raises(ValueError, match="Save the model it was made from"):
        quantize(tiny_model()).save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_machine_without_the_kernels_is_told(monkeypatch):
    class Backends:
        supported_engines = ["none"]

    monkeypatch.setattr("torch.backends.quantized", Backends())
    with pytest.raises(ValueError, match="fbgemm"):
        quantize(tiny_model())


def test_the_engine_that_was_chosen_before_is_chosen_after():
    before = torch.backends.quantized.engine
    quantize(tiny_model())
    assert torch.backends.quantized.engine == before
