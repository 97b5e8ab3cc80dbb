"""What a GPU computes, against the CPU. Left out where there is none."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, Trainer, TrainingArguments, default_data_collator, pipeline

from elmo_hf import (
    ElmoForPreTraining,
    ElmoForTokenClassification,
    ElmoModel,
    batch_to_ids,
    default_model_path,
    load_default,
    lstm_elmo,
    modeling_elmo,
)
from elmo_hf.bilm_trainer import BilmTrainer
from elmo_hf.corpus import BilmWindows
from elmo_hf.scoring import perplexity
from tests.language_model import corpus, language_model, word_tokenizer
from tests.tiny import character_ids, tiny_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

TEXTS = [[f"word{row % 7}{column}" for column in range(1 + (5 * row) % 23)] for row in range(40)]


@pytest.fixture(autouse=True)
def exact_products(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)


def models() -> list[ElmoModel]:
    return [tiny_model(), load_default()[0]]


def on_gpu(model: Any) -> Any:
    """A copy."""
    copy = type(model)(model.config).train(model.training)
    copy.load_state_dict(model.state_dict())
    return copy.cuda()


def close(found: Any, expected: Any, tolerance: float = 2e-5):
    torch.testing.assert_close(found.cpu(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("number", [1, 4, 40])
@pytest.mark.parametrize("which", [0, 1])
@torch.no_grad()
def test_layers_and_states_are_those_of_a_cpu(which: int, number: int):
    model, ids = models()[which], batch_to_ids(TEXTS[:number])
    expected = model(ids, output_hidden_states=True)
    found = on_gpu(model)(ids.cuda(), output_hidden_states=True)
    for one, two in zip(found.hidden_states, expected.hidden_states, strict=True):
        close(one, two)
    close(found.last_hidden_state, expected.last_hidden_state)
    for one, two in zip(found.lstm_states, expected.lstm_states, strict=True):
        close(one, two)


def test_gradients_are_those_of_a_cpu():
    model = tiny_model()
    other, ids = on_gpu(model), character_ids()
    model(ids).last_hidden_state.square().mean().backward()
    other(ids.cuda()).last_hidden_state.square().mean().backward()
    for (name, one), two in zip(other.named_parameters(), model.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None), name
        if two.grad is not None:
            close(one.grad, two.grad)


@pytest.mark.parametrize("together", [True, False])
def test_the_kernels_change_nothing(together: bool, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("triton")
    model, ids = load_default()[0].cuda(), batch_to_ids(TEXTS).cuda()
    monkeypatch.setattr(modeling_elmo, "multiplies_directions_together", lambda *_: together)
    results = []
    for use in (True, False):
        with monkeypatch.context() as patch:
            if not use:
                patch.setattr(lstm_elmo, "has_fused_steps", lambda tensor: False)
            model.zero_grad()
            with torch.no_grad():
                alone = model(ids).last_hidden_state
            outputs = model(ids)
            outputs.last_hidden_state.square().mean().backward()
            gradients = [parameter.grad.clone() for parameter in model.encoder.parameters()]
            results.append([alone, outputs.last_hidden_state.detach(), *outputs.lstm_states, *gradients])
    for one, two in zip(*results, strict=True):
        close(one, two.cpu())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_precision_points_the_same_way(dtype: torch.dtype):
    model, ids = load_default()[0], batch_to_ids(TEXTS)
    expected = model(ids).last_hidden_state
    other = on_gpu(model)
    with torch.autocast("cuda", dtype):
        cast = other(ids.cuda()).last_hidden_state.float().cpu()
    whole = other.to(dtype)(ids.cuda()).last_hidden_state.float().cpu()
    words = (ids != 0).any(-1)
    for found in (cast, whole):
        assert F.cosine_similarity(found[words], expected[words], dim=-1).min() > 0.98


@torch.no_grad()
def test_nothing_is_kept_while_a_model_moves_and_changes():
    model, ids = tiny_model(), character_ids()
    expected = model(ids).last_hidden_state
    close(model.cuda()(ids.cuda()).last_hidden_state, expected)
    for parameter in model.parameters():
        parameter.data *= 0.5
    changed = model(ids.cuda()).last_hidden_state
    assert (changed.cpu() - expected).abs().max() > 1e-3
    close(changed, model.cpu()(ids).last_hidden_state)


@torch.no_grad()
def test_a_compiled_model_gives_the_same():
    model, ids = on_gpu(load_default()[0]), batch_to_ids(TEXTS[:8]).cuda()
    expected = model(ids).last_hidden_state
    found = torch.compile(model)(ids).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_language_model_scores_as_on_a_cpu():
    folder = default_model_path()
    model, tokenizer = ElmoForPreTraining.from_pretrained(folder).eval(), load_default()[1]
    expected = perplexity(model, tokenizer, TEXTS)
    found = perplexity(on_gpu(model), tokenizer, TEXTS)
    assert found.average == pytest.approx(expected.average, rel=1e-4)


class Words(torch.utils.data.Dataset):
    def __init__(self):
        self.ids = character_ids()

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        words = self.ids[index % len(self.ids)]
        return {"input_ids": words, "labels": (words[:, 1] % 2).long()}


def arguments(folder: Path, **overrides: Any) -> TrainingArguments:
    defaults = {"max_steps": 20, "learning_rate": 0.02, "logging_steps": 1, "save_strategy": "no", "report_to": []}
    return TrainingArguments(folder, **{**defaults, **overrides})


@pytest.mark.parametrize("precision", [{}, {"bf16": True}])
def test_a_head_learns(precision: dict[str, bool], tmp_path: Path):
    model = tiny_model(model_class=ElmoForTokenClassification, num_labels=2).train()
    run = Trainer(model, arguments(tmp_path, **precision), default_data_collator, Words())
    run.train()
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert next(model.parameters()).is_cuda
    assert losses[-1] < 0.8 * losses[0]


def test_a_language_model_trains_and_resumes_exactly(tmp_path: Path):
    text = corpus(tmp_path / "corpus")
    windows = BilmWindows(text, word_tokenizer(), 3, 4)

    def train(folder: Path, steps: int, resume: bool = False) -> ElmoForPreTraining:
        model = language_model(num_sampled_words=4, bilm_dropout=0.1)
        options = {"max_steps": steps, "per_device_train_batch_size": 3, "save_strategy": "steps", "save_steps": 3}
        options["lr_scheduler_type"] = "constant"
        run = BilmTrainer(model, arguments(folder, **options), default_data_collator, windows)
        run.train(resume_from_checkpoint=resume)
        return model

    whole = train(tmp_path / "whole", 6)
    train(tmp_path / "parts", 3)
    parts = train(tmp_path / "parts", 6, resume=True)
    for (name, one), two in zip(whole.named_parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, two, msg=name)


def test_the_pipeline_runs_on_it():
    folder = default_model_path()
    texts = ["The river bank was muddy.", "Yes."]
    outputs = [
        pipeline("feature-extraction", model=str(folder), tokenizer=str(folder), device=device)(texts)
        for device in ("cpu", "cuda")
    ]
    for expected, found in zip(*outputs, strict=True):
        close(torch.tensor(found), torch.tensor(expected), 1e-4)


@torch.no_grad()
def test_a_device_map_places_it():
    model = AutoModel.from_pretrained(default_model_path(), device_map="auto").eval()
    ids = batch_to_ids(TEXTS[:4])
    close(model(ids.cuda()).last_hidden_state, load_default()[0](ids).last_hidden_state)
