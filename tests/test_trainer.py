"""`Trainer` over the heads: collators, memory savers, accumulation, resuming, choosing the best, and frozen biLMs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from elmo_hf import (
    ElmoForMultipleChoice,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoTokenizer,
)
from tests.tiny import SENTENCES, tiny_config

# The latest transformers has other names for the same.
GROUP_BY_LENGTH: dict[str, Any] = {"train_sampling_strategy": "group_by_length"}
CHECKPOINTING: dict[str, Any] = {
    "activation_checkpointing": True,
    "activation_checkpointing_kwargs": {"use_reentrant": False},
}
if "train_sampling_strategy" not in TrainingArguments.__dataclass_fields__:
    GROUP_BY_LENGTH = {"group_by_length": True}
if "activation_checkpointing" not in TrainingArguments.__dataclass_fields__:
    CHECKPOINTING = {name.replace("activation", "gradient"): value for name, value in CHECKPOINTING.items()}

# Words in capitals are names.
NAME = 1


@pytest.fixture(autouse=True)
def no_state_of_accelerate_is_left_from_other_tests() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


def arguments(folder: Path, **overrides: Any) -> TrainingArguments:
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "max_steps": 4,
        "learning_rate": 0.01,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(output_dir=str(folder), **{**defaults, **overrides})


def tagged(sentences: Sequence[Sequence[str]] = SENTENCES) -> list[dict[str, Any]]:
    tokenizer = ElmoTokenizer()
    return [
        {
            "input_ids": tokenizer(list(words), is_split_into_words=True)["input_ids"],
            "labels": [NAME if word[0].isupper() else 0 for word in words],
        }
        for words in sentences
    ]


def classified(**options: Any) -> list[dict[str, Any]]:
    tokenizer = ElmoTokenizer()
    return [
        {**tokenizer(words, is_split_into_words=True, **options), "labels": index % 2}
        for index, words in enumerate(SENTENCES)
    ]


def tagger(seed: int = 0, **overrides: Any) -> Any:
    torch.manual_seed(seed)
    return ElmoForTokenClassification(tiny_config(initializer_factor=2.0, **overrides))


def trainer_of_tags(folder: Path, model: Any = None, **overrides: Any) -> Trainer:
    return Trainer(
        model=tagger() if model is None else model,
        args=arguments(folder, **overrides),
        train_dataset=tagged(),
        eval_dataset=tagged(SENTENCES[::-1]),
        data_collator=DataCollatorForTokenClassification(ElmoTokenizer()),
    )


def losses(trainer: Trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def changed(model: torch.nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


@pytest.mark.parametrize(
    ("overrides", "model_options"),
    [
        ({}, {}),
        ({}, {"head_lstm_size": 5}),
        ({"bf16": True}, {"head_lstm_size": 5}),
        (CHECKPOINTING, {}),
        (GROUP_BY_LENGTH, {}),
        ({"label_smoothing_factor": 0.1}, {}),
    ],
    ids=["plain", "bilstm", "bf16", "checkpointing", "grouped", "smoothed"],
)
def test_a_tagger_learns(overrides: dict[str, Any], model_options: dict[str, Any], tmp_path: Path):
    model = tagger(dropout=0.0, **model_options)
    before = weights(model)
    trainer = trainer_of_tags(
        tmp_path, model, max_steps=8, learning_rate=0.05, per_device_train_batch_size=4, **overrides
    )
    trainer.train()
    assert changed(model, before) == set(before)
    assert losses(trainer)[-1] < 0.75 * losses(trainer)[0]


def test_a_second_training_goes_on_from_the_first(tmp_path: Path):
    trainer = trainer_of_tags(tmp_path, tagger(dropout=0.0), learning_rate=0.02, per_device_train_batch_size=4)
    trainer.train()
    first = losses(trainer)
    trainer.train()
    second = losses(trainer)
    assert second[-1] < second[0] < first[-1] < first[0]


@pytest.mark.parametrize("padded", [True, False])
def test_a_classifier_learns_from_padded_and_from_ragged_texts(padded: bool, tmp_path: Path):
    torch.manual_seed(0)
    model = ElmoForSequenceClassification(tiny_config(initializer_factor=2.0, dropout=0.0))
    options = {"padding": "max_length", "max_length": 12} if padded else {}
    collator = default_data_collator if padded else DataCollatorWithPadding(ElmoTokenizer())
    trainer = Trainer(
        model=model,
        args=arguments(tmp_path, max_steps=8, learning_rate=0.05, per_device_train_batch_size=4),
        train_dataset=classified(**options),
        data_collator=collator,
    )
    trainer.train()
    assert losses(trainer)[-1] < 0.75 * losses(trainer)[0]


def test_questions_and_choices_are_trained_and_predicted(tmp_path: Path):
    tokenizer = ElmoTokenizer()
    options: dict[str, Any] = {"is_split_into_words": True, "padding": "max_length", "max_length": 12}
    questions = [
        {**tokenizer(words, **options), "start_positions": 0, "end_positions": len(words) - 1} for words in SENTENCES
    ]
    choices = [{**tokenizer(SENTENCES[index : index + 2], **options), "labels": index} for index in range(2)]
    for model_class, examples in ((ElmoForQuestionAnswering, questions), (ElmoForMultipleChoice, choices)):
        torch.manual_seed(0)
        model = model_class(tiny_config(initializer_factor=2.0, dropout=0.0))
        trainer = Trainer(
            model=model,
            args=arguments(
                tmp_path, max_steps=6, learning_rate=0.03, gradient_accumulation_steps=2, per_device_train_batch_size=1
            ),
            train_dataset=examples,
            eval_dataset=examples,
        )
        before = trainer.evaluate()["eval_loss"]
        trainer.train()
        assert trainer.evaluate()["eval_loss"] < before
        scores = trainer.predict(examples).predictions
        shapes = [scores.shape] if model_class is ElmoForMultipleChoice else [one.shape for one in scores]
        assert shapes == ([(2, 2)] if model_class is ElmoForMultipleChoice else [(4, 12)] * 2)


def test_four_steps_of_one_sentence_train_as_one_step_of_four(tmp_path: Path):
    trained = []
    for batch_size, steps in ((4, 1), (1, 4)):
        model = tagger(dropout=0.0, head_lstm_size=5)
        trainer = trainer_of_tags(
            tmp_path,
            model,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            max_steps=1,
            optim="sgd",
            learning_rate=1.0,
        )
        trainer.train()
        trained.append((weights(model), losses(trainer)))
    # Sums in another order.
    torch.testing.assert_close(trained[0][0], trained[1][0], rtol=1e-4, atol=1e-5)
    # The logged loss is rounded to four digits.
    assert trained[0][1] == pytest.approx(trained[1][1], abs=2e-4)


def test_label_smoothing_leaves_out_words_without_a_label(tmp_path: Path):
    trainer = trainer_of_tags(tmp_path, label_smoothing_factor=0.2)
    model = trainer.model.eval()
    batch = trainer.data_collator(tagged())
    logits, labels = model(batch["input_ids"]).logits, batch["labels"]
    expected = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.2)
    torch.testing.assert_close(trainer.compute_loss(model, dict(batch)), expected)


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(tmp_path: Path):
    whole = trainer_of_tags(tmp_path, save_strategy="steps", save_steps=2)
    whole.train()
    resumed = trainer_of_tags(tmp_path, tagger(seed=1), save_strategy="steps", save_steps=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert losses(resumed) == losses(whole)
    assert len(losses(whole)) == 4
    assert changed(resumed.model, weights(whole.model)) == set()


def test_the_best_model_is_loaded_at_the_end(tmp_path: Path):
    trainer = trainer_of_tags(
        tmp_path,
        # Too large a rate, so that the last model is not the best.
        learning_rate=0.5,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
    )
    trainer.train()
    found = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(found) == 4
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(found))
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{1 + int(np.argmin(found))}")


def test_predictions_of_batches_of_different_widths_are_put_together(tmp_path: Path):
    trainer = trainer_of_tags(tmp_path)
    predicted = trainer.predict(tagged())
    # Not the states of the LSTMs, the mask or anything else: just one array of scores.
    assert isinstance(predicted.predictions, np.ndarray)
    assert predicted.predictions.shape == (4, 11, 2)
    model = trainer.model.eval()
    for row, (example, words) in enumerate(zip(tagged(), SENTENCES, strict=True)):
        with torch.no_grad():
            expected = model(torch.tensor([example["input_ids"]])).logits[0]
        assert predicted.predictions[row, : len(words)] == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5)
        assert (predicted.label_ids[row, len(words) :] == -100).all()


def test_the_bilm_has_a_learning_rate_of_its_own(tmp_path: Path):
    model = tagger()
    before = weights(model)
    optimizer = torch.optim.AdamW(model.parameter_groups(learning_rate=0.01, bilm_learning_rate=0.0))
    trainer = Trainer(
        model=model,
        args=arguments(tmp_path),
        train_dataset=tagged(),
        data_collator=DataCollatorForTokenClassification(ElmoTokenizer()),
        optimizers=(optimizer, None),
    )
    trainer.train()
    moved = changed(model, before)
    assert moved == {name for name in before if not name.startswith(("elmo.encoder", "elmo.character_encoder"))}


def test_a_frozen_bilm_stays_as_it_is(tmp_path: Path):
    model = tagger()
    model.freeze_bilm()
    before = weights(model)
    trainer = trainer_of_tags(tmp_path, model, bf16=True)
    trainer.train()
    assert changed(model, before) == {
        "elmo.scalar_mixes.0.scalar_parameters",
        "elmo.scalar_mixes.0.gamma",
        "classifier.weight",
        "classifier.bias",
    }
    trained = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
    assert len(trained) == 4
