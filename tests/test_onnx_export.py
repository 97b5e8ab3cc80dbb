"""Models as ONNX files: the numbers of the model in onnxruntime, for all shapes, and without PyTorch."""

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from elmo_hf import (
    ElmoForMultipleChoice,
    ElmoForPreTraining,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
    ElmoTokenizer,
    onnx_export,
    quantize,
)
from elmo_hf.cli import app
from elmo_hf.onnx_export import TOLERANCE, export_onnx
from tests.interpreter import Interpreter
from tests.tiny import SENTENCES, character_ids, tiny_model

onnxruntime = pytest.importorskip("onnxruntime")

EXAMPLE = Path(__file__).parents[1] / "examples" / "onnx_vectors.py"

MODELS: dict[str, Any] = {
    "mixes": (ElmoModel, {"num_output_representations": 2}),
    "boundaries and layer norm": (ElmoModel, {"keep_sentence_boundaries": True, "do_layer_norm": True}),
    "language model": (ElmoForPreTraining, {"word_vocab_size": 15}),
    "tagger": (ElmoForTokenClassification, {"head_lstm_size": 5, "num_labels": 3}),
    "classifier": (ElmoForSequenceClassification, {"head_lstm_size": 5, "sentence_pooling": "last"}),
    "questions": (ElmoForQuestionAnswering, {}),
    "choices": (ElmoForMultipleChoice, {"sentence_pooling": "max"}),
    "words": (
        ElmoModel,
        {"word_embedding_dim": 3, "word_lexicon_size": 20, "boundary_ids": [[1, 258], [2, 259]]},
    ),
}


def run(path: Path, *names: str, **inputs: Any) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path)
    return session.run(list(names), {name: np.asarray(value) for name, value in inputs.items()})


@pytest.mark.compilers
@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_exported_and_agrees(name: str, tmp_path: Path):
    model_class, options = MODELS[name]
    # The export itself compares with the model, with padding of every kind.
    done = export_onnx(tiny_model(model_class=model_class, num_hidden_layers=1, **options), tmp_path / "elmo.onnx")
    assert done.difference < TOLERANCE
    assert done.cosine is None
    assert done.inputs["input_ids"][0] == "batch"


@pytest.mark.compilers
def test_states_are_carried_from_call_to_call(tmp_path: Path):
    model, path = tiny_model().train(), tmp_path / "elmo.onnx"
    done = export_onnx(model, path, carry_states=True)
    assert model.training
    assert list(done.inputs) == ["input_ids", "lstm_hidden_in", "lstm_cell_in"]
    ids = character_ids(SENTENCES[:1])
    with torch.no_grad():
        first = model.eval()(ids)
        second = model(ids, lstm_states=first.lstm_states, output_hidden_states=True)
    zeros = [np.zeros_like(state.numpy()) for state in first.lstm_states]
    states = run(path, "lstm_hidden", "lstm_cell", input_ids=ids, lstm_hidden_in=zeros[0], lstm_cell_in=zeros[1])
    found = run(path, "last_hidden_state", "layer_2", input_ids=ids, lstm_hidden_in=states[0], lstm_cell_in=states[1])
    for one, other in zip(found, (second.last_hidden_state, second.hidden_states[2]), strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=0, atol=1e-6)


@pytest.mark.compilers
def test_eight_bits_are_smaller_and_close(tmp_path: Path):
    sizes = {"projection_dim": 64, "cell_size": 256, "cell_clip": None, "proj_clip": None}
    model = tiny_model(**sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.3)
    exact, small = (export_onnx(model, tmp_path / f"{int8}.onnx", int8=int8) for int8 in (False, True))
    assert small.path.stat().st_size < 0.4 * exact.path.stat().st_size
    assert small.cosine is not None
    assert 0.98 < small.cosine < 1.0
    assert small.difference > exact.difference
    assert sorted(path.name for path in tmp_path.iterdir()) == ["False.onnx", "True.onnx"]


@pytest.mark.compilers
def test_the_command_writes_a_file_that_needs_no_pytorch(tmp_path: Path, interpreter: Interpreter):
    model, path = tiny_model(), tmp_path / "elmo.onnx"
    model.save_pretrained(tmp_path / "elmo")
    ElmoTokenizer().save_pretrained(tmp_path / "elmo")
    done = CliRunner().invoke(app, ["export-onnx", str(tmp_path / "elmo"), str(path)])
    assert done.exit_code == 0, done.output
    assert "layer_2 (batch, words, 12)" in done.output
    again = CliRunner().invoke(app, ["export-onnx", str(tmp_path / "elmo"), str(path)])
    assert again.exit_code == 1
    assert "`--overwrite`" in again.output
    script = f"""
import sys
sys.argv = ["onnx_vectors.py", {str(path)!r}, "The naïve 東京", "Yes"]
exec(open({str(EXAMPLE)!r}, encoding="utf-8").read())
"""
    printed = interpreter.run(script, without=["elmo_hf", "torch", "transformers"]).stdout
    with torch.no_grad():
        vectors = model(character_ids([["The", "naïve", "東京"], ["Yes"]])).last_hidden_state
    for word, vector in (("東京", vectors[0, 2]), ("Yes", vectors[1, 0])):
        (line,) = [line for line in printed.splitlines() if line.startswith(word)]
        numbers = [float(number) for number in line.split("[")[1].split("]")[0].split()]
        assert numbers == pytest.approx(vector[:6].tolist(), abs=1e-4)


@pytest.mark.compilers
def test_a_file_that_gives_other_numbers_is_not_left(tmp_path: Path):
    model, other = tiny_model(), tiny_model(seed=1)
    write = onnx_export._write

    def write_another(exported: Any, path: Path) -> None:
        write(onnx_export._Exported(other, False), path)

    with (
        mock.patch.object(onnx_export, "_write", write_another),
        pytest.raises(ValueError, match="must give the model's numbers"),
    ):
        export_onnx(model, tmp_path / "elmo.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "elmo.onnx"
    with pytest.raises(TypeError, match="must be a model of elmo_hf, was: Linear"):
        export_onnx(nn.Linear(2, 2), path)
    with pytest.raises(TypeError, match="must not be quantized"):
        export_onnx(quantize(tiny_model()), path)
    with pytest.raises(ValueError, match="`carry_states` must be False for a model without states"):
        export_onnx(tiny_model(model_class=ElmoForTokenClassification), path, carry_states=True)
    monkeypatch.setattr(onnx_export, "LARGEST", 1000)
    with pytest.raises(ValueError, match="must have less than 1,000 bytes"):
        export_onnx(tiny_model(), path)
    with mock.patch.dict("sys.modules", {"onnxscript": None}), pytest.raises(ImportError, match="elmo_hf"):
        export_onnx(tiny_model(), path)
    path.write_text("mine")
    with pytest.raises(FileExistsError):
        export_onnx(tiny_model(), path)
    assert path.read_text() == "mine"


def test_a_folder_says_which_model_is_exported(tmp_path: Path):
    found: dict[tuple[str, bool], str] = {}
    for model_class, options in (
        (ElmoModel, {}),
        (ElmoForPreTraining, {"word_vocab_size": 15}),
        (ElmoForTokenClassification, {}),
    ):
        folder = tmp_path / model_class.__name__
        tiny_model(model_class=model_class, **options).save_pretrained(folder)
        found[model_class.__name__, False] = type(onnx_export.load_for_export(folder)).__name__
    found["ElmoForPreTraining", True] = type(
        onnx_export.load_for_export(tmp_path / "ElmoForPreTraining", language_model=True)
    ).__name__
    assert found == {
        ("ElmoModel", False): "ElmoModel",
        ("ElmoForPreTraining", False): "ElmoModel",
        ("ElmoForTokenClassification", False): "ElmoForTokenClassification",
        ("ElmoForPreTraining", True): "ElmoForPreTraining",
    }
