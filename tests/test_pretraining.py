"""`BilmTrainer`: state from window to window, exact resuming, perplexities, and the recipe of bilm-tf."""

import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DataCollatorForTokenClassification, TrainerCallback, TrainingArguments, default_data_collator

import elmo_hf.pretraining
from elmo_hf import ElmoForPreTraining
from elmo_hf.bilm_trainer import BilmTrainer, bilm_tf_recipe
from elmo_hf.corpus import BilmSentences, BilmWindows, Corpus
from elmo_hf.pretraining import pretrain
from elmo_hf.scoring import perplexity
from tests.language_model import TEXT, corpus, language_model, word_tokenizer

ROWS, STEPS = 3, 4


@pytest.fixture
def text(tmp_path: Path) -> Corpus:
    return corpus(tmp_path / "corpus")


def trainer(folder: Path, text: Corpus, model: ElmoForPreTraining | None = None, **overrides: Any) -> BilmTrainer:
    """Training on windows with everything random that there is: dropout and sampled words."""
    windows = BilmWindows(text, word_tokenizer(), ROWS, STEPS)
    arguments: dict[str, Any] = {
        "per_device_train_batch_size": ROWS,
        "per_device_eval_batch_size": ROWS,
        "max_steps": 6,
        "learning_rate": 0.01,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        **overrides,
    }
    return BilmTrainer(
        language_model(num_sampled_words=4, bilm_dropout=0.1) if model is None else model,
        TrainingArguments(folder, **arguments),
        train_dataset=windows,
        eval_dataset=windows,
        data_collator=default_data_collator,
    )


class Seen(TrainerCallback):
    def __init__(self):
        self.logs: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any):
        self.logs.append(dict(logs))


def losses(run: BilmTrainer) -> list[float]:
    return [entry["loss"] for entry in run.state.log_history if "loss" in entry]


def weights(run: BilmTrainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()])


def test_windows_are_read_in_order_with_the_state_of_the_one_before(tmp_path: Path, text: Corpus):
    # Without learning, the losses are those of the stream read by hand.
    model = language_model()
    run = trainer(tmp_path, text, model, learning_rate=0.0, weight_decay=0.0)
    run.train()
    windows, states, expected = run.train_dataset, None, []
    for step in range(6):
        items = [windows[step * ROWS + row] for row in range(ROWS)]
        outputs = model(**default_data_collator(items), lstm_states=states)
        states = tuple(state.detach() for state in outputs.lstm_states)
        expected.append(outputs.loss.item())
    assert losses(run) == pytest.approx(expected, abs=1e-4)
    without_state = model(**default_data_collator(items)).loss.item()
    assert abs(without_state - expected[-1]) > 1e-3


@pytest.mark.parametrize("gradient_accumulation_steps", [1, 2])
def test_resumed_training_is_bit_equal(tmp_path: Path, text: Corpus, gradient_accumulation_steps: int):
    options = {"save_strategy": "steps", "save_steps": 3, "gradient_accumulation_steps": gradient_accumulation_steps}
    whole = trainer(tmp_path / "run", text, **options)
    whole.train()
    assert (tmp_path / "run" / "checkpoint-3" / "lstm_states_0.safetensors").exists()
    resumed = trainer(tmp_path / "run", text, language_model(seed=9, num_sampled_words=4, bilm_dropout=0.1), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert torch.equal(weights(resumed), weights(whole))
    assert losses(resumed) == losses(whole)


def test_resuming_needs_the_state(tmp_path: Path, text: Corpus):
    options = {"save_strategy": "steps", "save_steps": 3}
    whole = trainer(tmp_path / "run", text, **options)
    whole.train()
    checkpoint = tmp_path / "run" / "checkpoint-3"
    (checkpoint / "lstm_states_0.safetensors").unlink()
    resumed = trainer(tmp_path / "run", text, **options)
    with pytest.raises(ValueError, match="checkpoint-3: must be or have a complete checkpoint to resume"):
        resumed.train(resume_from_checkpoint=str(checkpoint))


def test_training_lowers_both_perplexities(tmp_path: Path, text: Corpus):
    model = language_model(num_sampled_words=8)
    run = trainer(tmp_path, text, model, max_steps=60, learning_rate=0.03)
    before = run.evaluate()
    run.train()
    after = run.evaluate()
    for direction in ("forward", "backward"):
        assert after[f"eval_{direction}_perplexity"] < 0.8 * before[f"eval_{direction}_perplexity"]


def test_perplexity_of_windows_is_that_of_the_text_with_carried_state(tmp_path: Path):
    # One row, and a corpus whose stream fills its windows.
    text = corpus(tmp_path / "corpus", TEXT[:2] * 4)
    assert text.num_positions % 3 == 0
    tokenizer, model = word_tokenizer(), language_model(num_sampled_words=4)
    run = BilmTrainer(
        model,
        TrainingArguments(tmp_path, per_device_eval_batch_size=1, report_to=[], disable_tqdm=True, use_cpu=True),
        eval_dataset=BilmWindows(text, tokenizer, 1, 3),
        data_collator=default_data_collator,
    )
    metrics = run.evaluate(metric_key_prefix="test")
    expected = perplexity(model, tokenizer, TEXT[:2] * 4, carry_state=True)
    assert metrics["test_forward_perplexity"] == pytest.approx(expected.forward, rel=1e-5)
    assert metrics["test_backward_perplexity"] == pytest.approx(expected.backward, rel=1e-5)
    assert metrics["test_perplexity"] == pytest.approx(expected.average, rel=1e-5)
    assert metrics["test_loss"] == pytest.approx((math.log(expected.forward) + math.log(expected.backward)) / 2)


def test_perplexity_of_sentences_is_that_of_each_alone(tmp_path: Path, text: Corpus):
    tokenizer, model = word_tokenizer(), language_model(num_sampled_words=4)
    run = BilmTrainer(
        model,
        TrainingArguments(tmp_path, per_device_eval_batch_size=4, report_to=[], disable_tqdm=True, use_cpu=True),
        eval_dataset=BilmSentences(text, tokenizer),
        data_collator=DataCollatorForTokenClassification(tokenizer),
    )
    expected = perplexity(model, tokenizer, TEXT * 8)
    assert run.evaluate()["eval_forward_perplexity"] == pytest.approx(expected.forward, rel=1e-5)


def test_log_tells_sampled_losses_from_exact_ones(tmp_path: Path, text: Corpus):
    for model, name in ((language_model(num_sampled_words=4), "sampled_loss"), (language_model(), "loss")):
        seen = Seen()
        run = trainer(tmp_path, text, model, max_steps=4, logging_steps=2)
        run.add_callback(seen)
        run.train()
        entries = [entry for entry in seen.logs if "loss" in entry]
        assert len(entries) == 2
        for entry in entries:
            both = entry[f"forward_{name}"] + entry[f"backward_{name}"]
            assert both / 2 == pytest.approx(entry["loss"], abs=1e-3)
            assert entry["words_per_second"] > 0


def test_batch_size_that_does_not_fit_the_windows_is_refused(tmp_path: Path, text: Corpus):
    with pytest.raises(ValueError, match="`per_device_train_batch_size` x 1 = 2, was: 3"):
        trainer(tmp_path, text, per_device_train_batch_size=2)


def test_recipe_makes_the_updates_of_bilm_tf():
    # There the loss is multiplied by the steps of a window, the norm clipped at 10 and the accumulator starts at 1.
    unroll_steps, rate = 20, 0.2
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(5, generator=generator, dtype=torch.float64)
    gradients = 3 * torch.randn(4, 5, generator=generator, dtype=torch.float64)

    expected, accumulator = start.clone(), torch.ones(5, dtype=torch.float64)
    for gradient in gradients:
        scaled = unroll_steps * gradient
        scaled = scaled * min(1.0, 10.0 / scaled.norm())
        accumulator += scaled**2
        expected -= rate * scaled / accumulator.sqrt()

    arguments, (optimizer_class, options) = bilm_tf_recipe(unroll_steps, rate)
    parameter = torch.nn.Parameter(start.clone())
    optimizer = optimizer_class([parameter], **options)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        torch.nn.utils.clip_grad_norm_([parameter], arguments["max_grad_norm"])
        optimizer.step()
    # The two guards against a division by zero differ.
    torch.testing.assert_close(parameter.detach(), expected, rtol=1e-5, atol=1e-7)


def test_recipe_trains(tmp_path: Path, text: Corpus):
    arguments, optimizer = bilm_tf_recipe(STEPS)
    windows = BilmWindows(text, word_tokenizer(), ROWS, STEPS)
    run = BilmTrainer(
        language_model(),
        TrainingArguments(
            tmp_path,
            per_device_train_batch_size=ROWS,
            max_steps=30,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            logging_steps=10,
            save_strategy="no",
            **arguments,
        ),
        train_dataset=windows,
        data_collator=default_data_collator,
        optimizer_cls_and_kwargs=optimizer,
    )
    run.train()
    assert losses(run)[-1] < losses(run)[0] - 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs` must be more than 0, was: 0."),
        ({"optimizer": "sgd"}, "`optimizer` must be adagrad or adamw, was: sgd."),
        ({"rows": 0}, "`rows` must be at least 1, was: 0."),
        ({"max_steps": 0}, "`max_steps` must be at least 1, was: 0."),
        ({"max_vocab": 3}, "`max_vocab` must be more than the 3 special words, was: 3."),
        ({"vocab": "a", "min_count": 2}, "`vocab` must be without `min_count` and `max_vocab`, was: a."),
        ({"log_to": "nothing"}, "`log_to` must be installed, was: nothing."),
    ],
)
def test_python_is_told_of_arguments_and_not_of_options(options: dict, message: str, tmp_path: Path):
    language_model().config.save_pretrained(tmp_path / "config")
    (tmp_path / "text.txt").write_text("A river bank .\n" * 20, encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)):
        pretrain(tmp_path / "config", tmp_path / "text.txt", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_in_bfloat16_training_is_rounded_and_the_perplexity_exact(tmp_path: Path, text: Corpus):
    exact = trainer(tmp_path / "float32", text)
    exact.train()
    rounded = trainer(tmp_path / "bfloat16", text, bf16=True)
    rounded.train()
    assert losses(rounded) != losses(exact)
    assert losses(rounded) == pytest.approx(losses(exact), rel=0.02)
    assert all(parameter.dtype == torch.float32 for parameter in rounded.model.parameters())
    twin = language_model(num_sampled_words=4)
    twin.load_state_dict(rounded.model.state_dict())
    expected = trainer(tmp_path / "twin", text, twin).evaluate()
    assert rounded.evaluate()["eval_perplexity"] == expected["eval_perplexity"]


def test_bfloat16_is_refused_where_it_takes_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(elmo_hf.pretraining, "is_emulated", lambda dtype: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="`bf16` needs a GPU or a processor with instructions for bfloat16"):
        pretrain(tmp_path / "config", tmp_path / "text.txt", tmp_path / "out", bf16=True)


def test_a_model_is_pretrained_in_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(elmo_hf.pretraining, "is_emulated", lambda dtype: False)
    language_model().config.save_pretrained(tmp_path / "config")
    (tmp_path / "text.txt").write_text("A river bank .\n" * 200, encoding="utf-8")
    arguments = tmp_path / "config", tmp_path / "text.txt", tmp_path / "out"
    options: dict[str, Any] = {"rows": 4, "unroll_steps": 5, "pretokenized": True, "bf16": True, "save_steps": 4}
    done = pretrain(*arguments, **options, max_steps=8)
    assert done is not None
    assert done.num_batches == 8
    # transformers 4 would leave it on for the next training of this process.
    assert os.environ.get("ACCELERATE_MIXED_PRECISION", "no") == "no"
    with pytest.raises(ValueError, match=re.escape(f"`bf16` must be True to resume {tmp_path / 'out'}, was: False.")):
        pretrain(*arguments, **{**options, "bf16": False}, max_steps=12, resume=True)
    # What safetensors leaves of a file where a process was killed.
    left = tmp_path / "out" / ".tmpA1b2C3"
    left.write_bytes(b"half a file")
    again = pretrain(*arguments, **options, max_steps=12, resume=True)
    assert not left.exists()
    assert again is not None
    assert again.num_batches == 12


def test_losses_are_items_of_the_output_and_come_first(text: Corpus):
    windows = BilmWindows(text, word_tokenizer(), ROWS, STEPS)
    batch = default_data_collator([windows[row] for row in range(ROWS)])
    model = language_model().eval()
    outputs = model(**batch)
    assert list(outputs)[:3] == ["loss", "forward_loss", "backward_loss"]
    assert outputs["loss"] is outputs.loss
    assert torch.equal(model(**batch, return_dict=False)[0], outputs.loss)
    assert "loss" not in model(batch["input_ids"])
