"""PEFT: low-rank adapters (LoRA) on the LSTMs and on the linear layers of the character encoder."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import Tensor
from transformers import DataCollatorForTokenClassification, Trainer, TrainingArguments

from elmo_hf import ElmoForTokenClassification, ElmoTokenizer
from tests.tiny import SENTENCES, character_ids, tiny_config

WORDS = ["transform", "carry_gate", "projection"]
LSTMS = ["weight_ih", "weight_hh", "weight_hr"]
PLACES: dict[str, dict[str, Any]] = {
    "words": {"target_modules": WORDS},
    "lstms": {"target_parameters": LSTMS},
    "both": {"target_modules": WORDS, "target_parameters": LSTMS},
}

pytestmark = [
    # What peft asks a model has another name in transformers 5.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]
everywhere = pytest.mark.parametrize("place", PLACES)


def tagger(**sizes: int) -> Any:
    torch.manual_seed(0)
    return ElmoForTokenClassification(tiny_config(initializer_factor=2.0, dropout=0.0, **sizes)).eval()


def adapter(place: str, **options: Any) -> LoraConfig:
    """Not the usual start, at which an adapter changes nothing."""
    options = {"r": 2, "lora_alpha": 4, "init_lora_weights": False, **PLACES[place], **options}
    return LoraConfig(task_type="TOKEN_CLS", **options)


def adapted(place: str, base: Any = None, **options: Any) -> Any:
    return get_peft_model(tagger() if base is None else base, adapter(place, **options)).eval()


def scores(model: Any) -> Tensor:
    with torch.no_grad():
        return model(character_ids()).logits


def same(scores: Tensor, others: Tensor):
    """Equal but for rounding: layers with an adapter do not share their steps."""
    torch.testing.assert_close(scores, others, atol=1e-6, rtol=0)


def loss(model: Any) -> Tensor:
    return model(character_ids(), labels=torch.zeros(4, 11, dtype=torch.long)).loss


def merged(model: Any) -> Any:
    """A copy without adapter, and without anything that the model has prepared or remembered."""
    return copy.deepcopy(model).merge_and_unload()


@everywhere
def test_a_new_adapter_changes_nothing(place: str):
    same(scores(adapted(place, init_lora_weights=True)), scores(tagger()))


@everywhere
def test_the_merged_model_gives_what_the_adapted_one_gave(place: str):
    model = adapted(place)
    expected = scores(model)
    assert (expected - scores(tagger())).abs().max() > 0.01
    same(scores(merged(model)), expected)
    # With gradients, the layers run another way.
    torch.testing.assert_close(model(character_ids()).logits, expected)


@everywhere
def test_gradients_of_an_adapter_follow_from_those_of_the_merged_weights(place: str):
    base = tagger()
    names = {parameter: name for name, parameter in base.named_parameters()}
    model = get_peft_model(base, adapter(place))
    dense = merged(model).requires_grad_(True)
    for one in (model, dense):
        loss(one).backward()

    layers = [module for module in model.modules() if isinstance(module, LoraLayer) and module.lora_A]
    assert len(layers) == {"words": 5, "lstms": 12, "both": 17}[place]
    for layer in layers:
        weight = getattr(layer.get_base_layer(), getattr(layer, "parameter_name", "weight"))
        assert weight.grad is None
        # The weight is W + scaling * B A.
        gradient = layer.scaling["default"] * dense.get_parameter(names[weight]).grad
        first, second = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert gradient.abs().max() > 0
        torch.testing.assert_close(first.grad, second.T @ gradient)
        torch.testing.assert_close(second.grad, gradient @ first.T)


@everywhere
def test_inference_sees_the_adapter_as_it_is_now(place: str):
    plain = scores(tagger())
    model = adapted(place)
    scores(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.neg_()
    changed = scores(model)
    torch.testing.assert_close(changed, scores(merged(model)))

    with model.disable_adapter():
        same(scores(model), plain)
    assert torch.equal(scores(model), changed)

    model.add_adapter("other", adapter(place))
    model.set_adapter("other")
    other = scores(model)
    assert (other - changed).abs().max() > 0.01
    torch.testing.assert_close(other, scores(merged(model)))
    model.set_adapter("default")
    assert torch.equal(scores(model), changed)
    assert torch.equal(scores(model.unload()), plain)


def test_a_single_changed_weight_is_seen_each_time():
    # So many weights that a cache would compare samples, and one of them alone, so that its storage is used again.
    base = tagger(projection_dim=32, cell_size=64)
    model = adapted("lstms", base, r=1, target_parameters=["forward_layers.0.weight_hh"])
    layer = model.base_model.model.elmo.encoder.forward_layers[0]
    first, second = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        first.zero_()
        second.zero_()
        first[0, 1] = second[0, 0] = 1.0
        for _ in range(10):
            first.neg_()
            torch.testing.assert_close(scores(model), scores(merged(model)))


def test_a_layer_trained_in_full_is_exchanged_with_the_adapter():
    plain = scores(tagger())
    model = adapted("lstms", init_lora_weights=True, modules_to_save=["projection"])
    same(scores(model), plain)
    with torch.no_grad():
        model.get_parameter("base_model.model.elmo.character_encoder.projection.modules_to_save.default.weight").mul_(
            2.0
        )
    assert (scores(model) - plain).abs().max() > 0.01
    with model.disable_adapter():
        same(scores(model), plain)


def test_directions_with_adapters_run_side_by_side():
    model = adapted("both")
    alone = scores(model)
    torch.set_num_threads(2)
    try:
        assert torch.equal(scores(model), alone)
    finally:
        torch.set_num_threads(1)


@everywhere
def test_training_changes_the_adapter_and_what_is_saved_in_full_alone(place: str, tmp_path: Path):
    new = ["scalar_mixes.0", "context", "classifier"]
    model = adapted(place, tagger(head_lstm_size=5), init_lora_weights=True, modules_to_save=new)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            str(tmp_path),
            max_steps=12,
            learning_rate=0.05,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            dataloader_pin_memory=False,
        ),
        train_dataset=[
            {
                "input_ids": ElmoTokenizer()(words, is_split_into_words=True)["input_ids"],
                "labels": [int(word[0].isupper()) for word in words],
            }
            for words in SENTENCES
        ],
        data_collator=DataCollatorForTokenClassification(ElmoTokenizer()),
    )
    trainer.train()

    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {name for name in before if "lora_" in name or "modules_to_save" in name}
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.75 * losses[0]


@everywhere
def test_a_saved_adapter_gives_the_same_scores(place: str, reference_model_dir: Path, tmp_path: Path):
    def base() -> Any:
        torch.manual_seed(0)
        return ElmoForTokenClassification.from_pretrained(reference_model_dir, num_labels=3).eval()

    # Otherwise peft asks the Hub for the configuration of its base.
    model = get_peft_model(base(), adapter(place, modules_to_save=["scalar_mixes.0", "classifier"])).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(0.5)
    model.save_pretrained(tmp_path)

    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        saved = list(file.keys())
    assert all("lora_" in name or "scalar_mixes" in name or "classifier" in name for name in saved)
    loaded = PeftModel.from_pretrained(base(), tmp_path).eval()
    assert torch.equal(scores(loaded), scores(model))
    assert (scores(loaded) - scores(base())).abs().max() > 0.01


def test_gradient_checkpointing_of_adapted_lstms_is_refused():
    model = adapted("lstms").train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    with pytest.raises(ValueError, match="gradient checkpointing"):
        loss(model)
    # Words are computed before.
    model = adapted("words").train()
    expected = torch.autograd.grad(loss(model), [p for p in model.parameters() if p.requires_grad])
    model.gradient_checkpointing_enable({"use_reentrant": False})
    found = torch.autograd.grad(loss(model), [p for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
def test_the_recipe_learns_its_tags(run_recipe: Callable[[str], dict[str, Any]]):
    found = run_recipe("LoRA with PEFT")
    assert isinstance(found["model"], ElmoForTokenClassification)
    assert found["trainer"].state.log_history[-1]["train_loss"] < 0.6
    inputs = found["tokenizer"](found["sentences"], is_split_into_words=True, padding=True, return_tensors="pt")
    with torch.no_grad():
        best = found["model"].eval()(**inputs).logits.argmax(-1)
    assert [row[: len(tags)].tolist() for row, tags in zip(best, found["tags"], strict=True)] == found["tags"]
