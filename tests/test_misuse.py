"""Quiet misloads and misuses: each is right, or one clear error."""

import pytest
import torch
from torch import nn

from elmo_hf import (
    ElmoConfig,
    ElmoForMultipleChoice,
    ElmoForPreTraining,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
    quantize,
)
from tests.interpreter import Interpreter
from tests.tiny import character_ids, tiny_config, tiny_model

HEADS = [
    ElmoForTokenClassification,
    ElmoForSequenceClassification,
    ElmoForQuestionAnswering,
    ElmoForMultipleChoice,
    ElmoForPreTraining,
]
RENAMED = {ElmoForQuestionAnswering: "qa_outputs", ElmoForMultipleChoice: "choice_outputs"}


QUANTIZE_REMOTE_CODE = """
import sys
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
from elmo_hf import quantize
assert not any("weight_h" in name for name, _ in quantize(model).named_parameters())
"""


def inputs_for(model_class: type) -> dict[str, torch.Tensor]:
    ids = character_ids()
    return {"input_ids": torch.stack([ids, ids], dim=1) if model_class is ElmoForMultipleChoice else ids}


@pytest.mark.parametrize("model_class", [ElmoModel, *HEADS])
def test_a_misspelled_keyword_is_named(model_class: type):
    model = tiny_model(model_class=model_class, word_vocab_size=20)
    with pytest.raises(TypeError, match=r"keyword arguments that it does not know: atention_mask\.$"):
        model(**inputs_for(model_class), atention_mask=None)
    # Those that every model of transformers takes are taken.
    model(**inputs_for(model_class), output_attentions=False)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.complex64])
def test_ids_that_are_no_whole_numbers_are_refused(dtype: torch.dtype):
    with pytest.raises(TypeError, match=r"^`input_ids` must be whole numbers, torch.long for example, was: torch\."):
        tiny_model()(character_ids().to(dtype))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_ids_of_any_integer_type_are_read(dtype: torch.dtype):
    model, ids = tiny_model(), character_ids().clamp(max=255)
    with torch.no_grad():
        assert torch.equal(model(ids.to(dtype)).last_hidden_state, model(ids).last_hidden_state)


@pytest.mark.parametrize("model_class", RENAMED)
def test_a_token_classifier_does_not_load_as_another_head(model_class: type, tmp_path):
    tagger = tiny_model(model_class=ElmoForTokenClassification, num_labels=2)
    tagger.save_pretrained(tmp_path)
    loaded, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
    name = RENAMED[model_class]
    assert {key for key in report["missing_keys"] if "scalar_mixes" not in key} == {f"{name}.weight", f"{name}.bias"}
    assert not torch.equal(loaded.get_parameter(f"{name}.weight")[:1], tagger.classifier.weight[:1])


@pytest.mark.parametrize("model_class", RENAMED)
def test_folders_of_version_0_1_still_load_and_are_saved_with_the_new_name(model_class: type, tmp_path):
    from safetensors.torch import load_file, save_file

    name = RENAMED[model_class]
    model = tiny_model(model_class=model_class)
    model.save_pretrained(tmp_path / "old")
    file = tmp_path / "old" / "model.safetensors"
    old = {key.replace(f"{name}.", "classifier."): value for key, value in load_file(file).items()}
    assert "classifier.weight" in old
    save_file(old, file, metadata={"format": "pt"})
    loaded, report = model_class.from_pretrained(tmp_path / "old", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    loaded.save_pretrained(tmp_path / "new")
    assert f"{name}.weight" in load_file(tmp_path / "new" / "model.safetensors")
    for one in (loaded, model_class.from_pretrained(tmp_path / "new")):
        for key, value in model.state_dict().items():
            assert torch.equal(one.state_dict()[key], value), key


@pytest.mark.parametrize("model_class", HEADS)
def test_a_float64_model_has_float64_losses(model_class: type):
    model = tiny_model(model_class=model_class, word_vocab_size=20, num_labels=3).double()
    ids = character_ids()
    labels = {
        ElmoForTokenClassification: {"labels": torch.ones(ids.shape[:2], dtype=torch.long)},
        ElmoForSequenceClassification: {"labels": torch.tensor([0, 1, 2, 0])},
        ElmoForQuestionAnswering: {
            "start_positions": torch.zeros(4, dtype=torch.long),
            "end_positions": torch.zeros(4, dtype=torch.long),
        },
        ElmoForMultipleChoice: {"labels": torch.ones(4, dtype=torch.long)},
        ElmoForPreTraining: {"labels": torch.where((ids != 0).any(-1), 5, -100)},
    }[model_class]
    double = model(**inputs_for(model_class), **labels).loss
    assert double.dtype == torch.float64
    single = model.float()(**inputs_for(model_class), **labels).loss
    assert single.dtype == torch.float32
    torch.testing.assert_close(double.float(), single)
    # The sum of many small losses is not left to half precision.
    assert model.bfloat16()(**inputs_for(model_class), **labels).loss.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_quantized_copy_computes_in_float32(dtype: torch.dtype):
    model, ids = tiny_model().to(dtype), character_ids()
    with torch.no_grad():
        rounded = quantize(model)(ids).last_hidden_state
        exact = model.float()(ids)
    assert rounded.dtype == torch.float32
    cosine = torch.cosine_similarity(rounded[exact.mask], exact.last_hidden_state[exact.mask], dim=-1)
    assert cosine.min() > 0.98


def test_a_quantized_copy_shares_nothing_with_the_model():
    model, ids = tiny_model(), character_ids()
    quantized = quantize(model)
    with torch.no_grad():
        before = quantized(ids).last_hidden_state
        for parameter in model.parameters():
            parameter.fill_(0.1)
        assert torch.equal(quantized(ids).last_hidden_state, before)
    with pytest.raises(TypeError, match="not quantized yet"):
        quantize(quantized)


def test_a_model_of_remote_code_is_quantized_as_a_whole(interpreter: Interpreter, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    done = interpreter.run(QUANTIZE_REMOTE_CODE, tmp_path)
    assert done.returncode == 0, done.stderr


# What PyTorch says of its own quantization.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:UserWarning")
def test_pytorch_quantizes_the_linear_layers_of_the_character_encoder():
    model, ids = tiny_model(), character_ids()
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    assert type(quantized.character_encoder.projection) is not nn.Linear
    assert type(quantized.character_encoder.highways[0].carry_gate) is not nn.Linear
    with torch.no_grad():
        exact, rounded = model(ids), quantized(ids)
    assert not torch.equal(exact.last_hidden_state, rounded.last_hidden_state)
    one, other = (outputs.last_hidden_state[exact.mask] for outputs in (exact, rounded))
    cosine = torch.cosine_similarity(one, other, dim=-1)
    assert cosine.min() > 0.95


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_convolutions_take_an_adapter():
    from peft import LoraConfig, get_peft_model

    model, ids = tiny_model(), character_ids()
    with torch.no_grad():
        plain = model(ids).last_hidden_state
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=r".*convolutions\.\d+", init_lora_weights=False))
    adapted.eval()
    with torch.no_grad():
        found = adapted(input_ids=ids).last_hidden_state
        assert (found - plain).abs().max() > 0.01
        torch.testing.assert_close(adapted.merge_and_unload()(ids).last_hidden_state, found)


def test_the_convolution_is_that_of_pytorch():
    convolution = tiny_model().character_encoder.convolutions[1]
    inputs = torch.randn(5, 4, 9)
    torch.testing.assert_close(convolution(inputs), nn.Conv1d.forward(convolution, inputs))


def test_a_model_makes_as_many_mixes_as_it_is_asked_for():
    config = tiny_config(num_output_representations=3)
    assert [len(ElmoModel(config, number).scalar_mixes) for number in (None, 0, 2)] == [3, 0, 2]
    assert len(ElmoForPreTraining(ElmoConfig(**{**config.to_dict(), "word_vocab_size": 9})).elmo.scalar_mixes) == 0
