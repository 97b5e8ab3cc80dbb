"""Conversion: the plain computation that it is held against, the folder that it makes, and the way back."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from elmo_hf import ElmoTokenizer
from elmo_hf.checkpoints import conversion
from elmo_hf.checkpoints.bilm_hdf5 import BilmHdf5, read_model
from elmo_hf.checkpoints.bilm_options import read_options
from elmo_hf.checkpoints.bilm_reference import PlainBilm
from elmo_hf.checkpoints.conversion import convert_checkpoint, export_checkpoint
from elmo_hf.checkpoints.sources import Files
from tests.checkpoints.random_checkpoint import Checkpoint, assert_same_bits

# --- the plain computation -------------------------------------------------------------------------------------------


def test_the_plain_computation_gives_the_tensorflow_outputs(reference_dir: Path):
    rows = json.loads((reference_dir / "sentences.json").read_text(encoding="utf-8"))
    # Without carried state, the first batch alone is comparable.
    sentences = [row[0].split() for row in rows]
    files = [reference_dir / "options.json", reference_dir / "lm_weights.hdf5"]
    with BilmHdf5(Files.named(*files), *map(str, files)).plain() as plain:
        layers = plain.bilm.layers(sentences)
    for row, sentence in enumerate(sentences):
        with h5py.File(reference_dir / f"lm_embeddings_{row}.hdf5", "r") as file:
            # (2 directions, words, 16)
            expected = file["0"][()]
        assert expected.shape[1] == len(sentence)
        np.testing.assert_allclose(layers[row][-1], np.concatenate(list(expected), axis=-1), atol=1e-6)


def test_the_model_equals_the_plain_computation(variant: Checkpoint, tmp_path: Path):
    made = convert_checkpoint(*variant, tmp_path / "folder")
    # float32 against float64; the tolerance of the conversion itself is wider.
    assert made.difference is not None
    assert made.difference < 5e-6


# --- a Hub folder, in and out ----------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_checkpoint_comes_back_bit_equal_through_a_hub_folder(variant: Checkpoint, tmp_path: Path):
    convert_checkpoint(*variant, tmp_path / "folder", verify=False)
    export_checkpoint(tmp_path / "folder", tmp_path / "again.json", tmp_path / "again.hdf5")
    assert_same_bits(tmp_path / "again.hdf5", variant[1])
    assert read_options(tmp_path / "again.json").to_dict() == read_options(variant[0]).to_dict()


def test_the_reference_checkpoint_comes_back_bit_equal(reference_model_dir: Path, reference_dir: Path, tmp_path: Path):
    export_checkpoint(reference_model_dir, tmp_path / "options.json", tmp_path / "weights.hdf5")
    assert_same_bits(tmp_path / "weights.hdf5", reference_dir / "lm_weights.hdf5")
    given, expected = (json.loads((folder / "options.json").read_text()) for folder in (tmp_path, reference_dir))
    assert given == expected


def test_a_folder_holds_safetensors_the_hub_files_and_a_model_card(reference_model_dir: Path, reference_dir: Path):
    names = {path.name for path in reference_model_dir.iterdir()}
    sources = {path.name for path in Path(conversion.__file__).parent.parent.glob("*_elmo.py")}
    assert {"config.json", "model.safetensors", "tokenizer_config.json", "README.md"} | sources <= names
    assert {Path(name).suffix for name in names} == {".json", ".safetensors", ".md", ".py"}
    card = (reference_model_dir / "README.md").read_text(encoding="utf-8")
    assert "dfdfd3001b5965b4b6ef857ac772b6624984f8248eaae08fb9be6d1b51ad8755" in card
    assert "# elmo-tiny-reference" in card
    assert "license: " not in card.split("---")[1].replace("# license: ", "")


REMOTE_CODE = """
import sys
import torch
from transformers import AutoModel, AutoTokenizer
folder, output = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model)
inputs = tokenizer([["The", "river", "bank"], ["Ja"]], is_split_into_words=True, padding=True, return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs, output_hidden_states=True)
torch.save(list(outputs.hidden_states), output)
"""


def test_a_folder_loads_bit_equal_where_elmo_hf_cannot_be_imported(
    run_without_package: Callable[..., str], reference_model_dir: Path, reference_dir: Path, tmp_path: Path
):
    run_without_package(REMOTE_CODE, reference_model_dir, tmp_path / "layers.pt")

    model = read_model(reference_dir / "options.json", reference_dir / "lm_weights.hdf5")
    tokenizer = ElmoTokenizer()
    inputs = tokenizer([["The", "river", "bank"], ["Ja"]], is_split_into_words=True, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs, output_hidden_states=True).hidden_states
    for given, layer in zip(torch.load(tmp_path / "layers.pt"), expected, strict=True):
        assert torch.equal(given, layer)


def test_the_model_card_tells_licence_sizes_and_that_nothing_was_verified(checkpoint: Checkpoint, tmp_path: Path):
    made = convert_checkpoint(*checkpoint, tmp_path / "folder", verify=False, license="apache-2.0")
    card = (tmp_path / "folder" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: transformers\n")
    assert "| width of the output | 10 (2 directions of 5) |" in card
    assert "The conversion was not verified." in card
    assert made.difference is None
    with pytest.raises(ValueError, match="`license` must be an identifier as the Hub knows it"):
        convert_checkpoint(*checkpoint, tmp_path / "other", license="a: b\nc")


def test_a_model_that_differs_from_the_file_is_refused_with_the_figure(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read = BilmHdf5.read

    def swapped(checkpoint: BilmHdf5, progress: object) -> dict[str, torch.Tensor]:
        state = read(checkpoint)
        names = [f"encoder.{direction}_layers.0.weight_hr" for direction in ("forward", "backward")]
        return state | {names[0]: state[names[1]], names[1]: state[names[0]]}

    monkeypatch.setattr(BilmHdf5, "read", swapped)
    with pytest.raises(
        ValueError, match=r"must differ from a plain computation .* by at most 1e-04 .* was: \d\.\de[-+]\d"
    ):
        convert_checkpoint(*checkpoint, tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_model_that_gives_no_numbers_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(PlainBilm, "layers_with_boundaries", lambda *_: [np.full((3, 14, 10), np.nan)] * 4)
    monkeypatch.setattr(conversion, "VERIFICATION_SENTENCES", [["a"] * 12] * 4)
    with pytest.raises(ValueError, match="was: nan"):
        convert_checkpoint(*checkpoint, tmp_path / "folder")


@pytest.mark.parametrize("step", ["Reading", "Writing", "Verifying", "Hashing"])
def test_an_interrupted_conversion_leaves_nothing(checkpoint: Checkpoint, tmp_path: Path, step: str):
    def interrupt(name: str, done: int, total: int):
        if name == step and done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(*checkpoint, tmp_path / "new" / "folder", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_conversion_ended_by_sigterm_leaves_nothing(checkpoint: Checkpoint, tmp_path: Path):
    def end(step: str, done: int, total: int):
        if step == "Hashing":
            assert len(list(tmp_path.iterdir())) == 3
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        convert_checkpoint(*checkpoint, tmp_path / "folder", progress=end)
    assert ended.value.code == 128 + signal.SIGTERM
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_the_handler_of_sigterm_is_given_back(checkpoint: Checkpoint, tmp_path: Path):
    before = signal.getsignal(signal.SIGTERM)
    convert_checkpoint(*checkpoint, tmp_path / "folder", verify=False)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_taken_place_is_refused_and_an_empty_folder_is_not(checkpoint: Checkpoint, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    convert_checkpoint(*checkpoint, tmp_path / "empty", verify=False)
    before = contents(tmp_path / "empty")
    with pytest.raises(FileExistsError, match="empty: must be a new or empty folder, was there already"):
        convert_checkpoint(*checkpoint, tmp_path / "empty")
    with pytest.raises(FileExistsError, match="must be a new or empty folder"):
        convert_checkpoint(*checkpoint, checkpoint[0])
    assert contents(tmp_path / "empty") == before


def test_overwriting_replaces_an_elmo_folder_and_nothing_else(checkpoint: Checkpoint, tmp_path: Path):
    convert_checkpoint(*checkpoint, tmp_path / "folder", verify=False)
    (tmp_path / "folder" / "stale.bin").write_bytes(b"old")
    convert_checkpoint(*checkpoint, tmp_path / "folder", verify=False, overwrite=True)
    assert not (tmp_path / "folder" / "stale.bin").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "diary").touch()
    with pytest.raises(FileExistsError, match="must be an ELMo folder to be overwritten, was something else"):
        convert_checkpoint(*checkpoint, tmp_path / "other", overwrite=True)
    with pytest.raises(FileExistsError, match="must be a folder without the files to convert, holds"):
        convert_checkpoint(*checkpoint, checkpoint[0].parent, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "folder", "other"]


def test_an_overwriting_that_fails_keeps_the_old_folder(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    convert_checkpoint(*checkpoint, tmp_path / "folder", verify=False)
    before = contents(tmp_path / "folder")
    rename = os.rename

    def fail_into_place(new: Path, target: Path):
        if target.name == "folder" and new.suffix != ".old" and not target.exists():
            raise KeyboardInterrupt
        rename(new, target)

    monkeypatch.setattr(os, "rename", fail_into_place)
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(*checkpoint, tmp_path / "folder", verify=False, overwrite=True)
    assert contents(tmp_path / "folder") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "folder"]


def test_exporting_refuses_folders_that_hold_no_complete_bilm(checkpoint: Checkpoint, tmp_path: Path):
    out = (tmp_path / "out.json", tmp_path / "out.hdf5")
    with pytest.raises(FileNotFoundError, match=r"must be a folder with config.json"):
        export_checkpoint(tmp_path / "no-such-folder", *out)
    convert_checkpoint(*checkpoint, tmp_path / "folder", verify=False)
    with pytest.raises(FileExistsError, match=r"weights.hdf5: must be a new file"):
        export_checkpoint(tmp_path / "folder", out[0], checkpoint[1])
    shutil.copytree(tmp_path / "folder", tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"model.safetensors: weights must be readable, was damaged"):
        export_checkpoint(tmp_path / "damaged", *out)
    assert not out[0].exists()
    assert not out[1].exists()


def test_a_folder_with_a_parameter_missing_is_not_exported(checkpoint: Checkpoint, tmp_path: Path):
    model = read_model(*checkpoint)
    state = {name: value for name, value in model.state_dict().items() if name != "encoder.forward_layers.0.bias"}
    model.save_pretrained(tmp_path / "folder", state_dict=state)
    with pytest.raises(ValueError, match=r"`encoder.forward_layers.0.bias` must be among the weights, was missing"):
        export_checkpoint(tmp_path / "folder", tmp_path / "out.json", tmp_path / "out.hdf5")
