"""Compiled and exported models, for all numbers of sentences and words: one program, the numbers of the model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.export import Dim
from torch.utils import _pytree as pytree

from elmo_hf import (
    ElmoForMultipleChoice,
    ElmoForPreTraining,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
    quantize,
)
from tests.tiny import SENTENCES, character_ids, tiny_model

# What the compiler of PyTorch says of its own parts.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

ROUNDING = {"rtol": 0, "atol": 1e-6}
# Sums over all positions of values up to 100.
OF_GRADIENTS = {"rtol": 1e-4, "atol": 1e-4}

MODELS: dict[str, Any] = {
    "plain": (ElmoModel, {"num_output_representations": 2}),
    "boundaries": (ElmoModel, {"keep_sentence_boundaries": True}),
    "layer norm": (ElmoModel, {"do_layer_norm": True}),
    "no clips": (ElmoModel, {"cell_clip": None, "proj_clip": None}),
    "fixed state": (ElmoModel, {"fixed_initial_state": True}),
    "language model": (ElmoForPreTraining, {"word_vocab_size": 15}),
    "classifier": (ElmoForSequenceClassification, {"sentence_pooling": "last"}),
    "questions": (ElmoForQuestionAnswering, {}),
}
# PyTorch compiles no `nn.LSTM`.
NOT_COMPILED: dict[str, Any] = {"tagger": (ElmoForTokenClassification, {"head_lstm_size": 5})}
CASES = [pytest.param(name, marks=[] if name == "plain" else pytest.mark.compilers) for name in MODELS]


@pytest.fixture(autouse=True)
def new_compiler() -> None:
    torch.compiler.reset()
    counters.clear()


def pattern(name: str) -> Tensor:
    """Ids of four sentences of eleven words, with padding on the right, the left, in between, or all of two rows."""
    ids = character_ids(SENTENCES)
    if name == "left":
        ids = torch.stack([row.roll(len(row) - len(words), 0) for row, words in zip(ids, SENTENCES, strict=True)])
    elif name == "holes":
        ids = ids.index_fill(1, torch.tensor([1, 4]), 0)
    elif name == "empty":
        ids = ids.index_fill(0, torch.tensor([0, 3]), 0)
    return ids


# Sizes 0 and 1 are programs of their own to PyTorch's compiler.
# Copies: whether a tensor is a view is part of what is compiled.
OTHERS = [pattern(name)[:3].clone() for name in ("right", "left", "holes", "empty")]
OTHERS.append(character_ids(SENTENCES[2:], width=13))


def assert_same(found: Any, expected: Any, **tolerance: float):
    torch.testing.assert_close(pytree.tree_leaves(found), pytree.tree_leaves(expected), **tolerance)


@pytest.mark.parametrize("name", CASES)
def test_a_model_is_compiled_once_for_all_shapes(name: str):
    model_class, options = MODELS[name]
    model = tiny_model(model_class=model_class, **options)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for ids in (pattern("right"), *OTHERS):
            assert_same(compiled(ids), model(ids), **ROUNDING)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.compilers
def test_a_head_with_an_lstm_is_compiled_but_for_that():
    model_class, options = NOT_COMPILED["tagger"]
    model = tiny_model(model_class=model_class, **options)
    compiled = torch.compile(model, backend="aot_eager", dynamic=True)
    for ids in (pattern("right"), *OTHERS):
        assert_same(compiled(ids), model(ids), **ROUNDING)


@pytest.mark.compilers
def test_a_compiled_model_goes_on_from_states():
    model, ids = tiny_model(), pattern("right")
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        for batch in (4, 2, 3):
            some = ids[:batch].clone()
            states = model(some).lstm_states
            expected = model(some, lstm_states=states)
            assert_same(compiled(some, lstm_states=states), expected, **ROUNDING)
            assert not torch.equal(expected.last_hidden_state, model(some).last_hidden_state)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.compilers
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_a_compiled_model_has_the_gradients_of_the_model(backend: str):
    model = tiny_model(output_hidden_states=True)
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    for ids in (pattern("right"), *OTHERS):
        gradients = []
        for one in (compiled, model):
            outputs = one(ids)
            loss = sum(layer.square().sum() for layer in outputs.hidden_states) + outputs.lstm_cell.sum()
            loss = loss + outputs.last_hidden_state.sum()
            gradients.append(torch.autograd.grad(loss, list(model.parameters())))
        torch.testing.assert_close(*gradients, **OF_GRADIENTS)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.compilers
def test_streams_are_compiled_once_and_trained():
    model = tiny_model(model_class=ElmoForPreTraining, word_vocab_size=15)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    full = character_ids([["the"] * 11] * 4)
    for batch, words in ((4, 11), (3, 7), (2, 5)):
        ids = full[:batch, :words].clone()
        labels = torch.arange(batch * words).view(batch, words) % 15
        inputs = {"input_ids": ids, "backward_input_ids": ids.flip(1), "labels": labels, "backward_labels": labels}
        losses = compiled(**inputs).loss, model(**inputs).loss
        torch.testing.assert_close(*losses)
        gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses]
        torch.testing.assert_close(*gradients, **OF_GRADIENTS)
    assert counters["stats"]["unique_graphs"] == 1


@pytest.mark.compilers
def test_autocast_reaches_into_a_compiled_model():
    model, ids = tiny_model(), pattern("right")
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, expected = compiled(ids), model(ids)
    assert found.last_hidden_state.dtype == expected.last_hidden_state.dtype
    # 8 bits of mantissa, rounded in another order.
    assert_same(found, expected, rtol=0, atol=0.05)


def test_a_quantized_model_is_not_compiled():
    compiled = torch.compile(quantize(tiny_model()), backend="aot_eager", fullgraph=True)
    with pytest.raises(Exception, match="can be neither traced nor compiled"):
        compiled(pattern("right"))


@pytest.mark.parametrize(
    ("name", "strict"),
    [(name, False) for name in (*MODELS, *NOT_COMPILED)] + [("plain", True), ("language model", True)],
)
@pytest.mark.compilers
def test_an_exported_model_reads_all_shapes(name: str, strict: bool):
    model_class, options = {**MODELS, **NOT_COMPILED}[name]
    model = tiny_model(model_class=model_class, **options).requires_grad_(False)
    sizes = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    # As a tuple: transformers 4.57 puts exported values without names back in their places.
    exported = torch.export.export(
        model,
        (),
        {"input_ids": pattern("right"), "return_dict": False},
        dynamic_shapes={"input_ids": sizes, "return_dict": None},
        strict=strict,
    ).module()
    for ids in (pattern("right"), *OTHERS, character_ids([["One"]])):
        assert_same(exported(input_ids=ids, return_dict=False), model(ids, return_dict=False), **ROUNDING)


@pytest.mark.compilers
def test_choices_are_exported():
    model = tiny_model(model_class=ElmoForMultipleChoice).requires_grad_(False)
    ids = torch.stack([pattern("right"), pattern("left")], dim=1)
    sizes = ({0: Dim.DYNAMIC, 1: Dim.DYNAMIC, 2: Dim.DYNAMIC},)
    exported = torch.export.export(Logits(model), (ids,), dynamic_shapes=sizes).module()
    for other in (ids, ids[:1, :, :3]):
        assert_same(exported(other), model(other).logits, **ROUNDING)


class Logits(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids).logits


class Vectors(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids).last_hidden_state


@pytest.mark.compilers
def test_a_model_is_compiled_ahead_of_time(tmp_path: Path):
    model = tiny_model().requires_grad_(False)
    program = torch.export.export(
        Vectors(model), (pattern("right"),), dynamic_shapes=({0: Dim("batch", min=1), 1: Dim("words", min=1)},)
    )
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "elmo.pt2"))
    loaded = torch._inductor.aoti_load_package(package)
    for ids in (pattern("right"), *OTHERS, character_ids([["One"]])):
        assert_same(loaded(ids), model(ids).last_hidden_state, **ROUNDING)
