"""Checkpoints of bilm-tf: the table, both directions, and the folder that conversion makes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from elmo_hf import ElmoConfig, ElmoModel
from elmo_hf.checkpoints import bilm_hdf5
from elmo_hf.checkpoints.bilm_hdf5 import (
    TRAINING_OPTIONS,
    convert_checkpoint,
    export_checkpoint,
    read_model,
    read_options,
    read_weights,
    tensor_table,
    write_options,
    write_weights,
)
from elmo_hf.checkpoints.reference import reference_layers

Checkpoint = tuple[Path, Path]

# What bilm-tf can make beside the published sizes: all options that change the arithmetic, at both ends.
VARIANTS: dict[str, dict[str, Any]] = {
    "as published": {},
    "no skip connections": {"use_skip_connections": False},
    "tanh": {"activation": "tanh"},
    "clips that bite": {"cell_clip": 0.2, "proj_clip": 0.1},
    "no clips": {"cell_clip": None, "proj_clip": 0},
    "one layer, no highway": {"n_layers": 1, "n_highway": 0},
    "three layers, two highways": {"n_layers": 3, "n_highway": 2},
    "other filters, training's 261": {"filters": [[3, 2], [1, 7]], "n_characters": 261},
    "words of 20 characters": {"max_characters": 20},
}


def write_random_checkpoint(
    folder: Path,
    seed: int = 0,
    filters: list[list[int]] | None = None,
    n_layers: int = 2,
    n_highway: int = 1,
    activation: str = "relu",
    use_skip_connections: bool = True,
    cell_clip: float | None = 3,
    proj_clip: float | None = 3,
    n_characters: int = 262,
    max_characters: int = 50,
    **storage: Any,
) -> Checkpoint:
    """A checkpoint of random numbers, written name by name: it does not know the table that it tests."""
    filters = filters or [[1, 4], [2, 3], [5, 4]]
    dim, width, cell, total = 3, 5, 6, sum(number for _, number in filters)
    options = {
        "lstm": {
            "cell_clip": cell_clip,
            "dim": cell,
            "n_layers": n_layers,
            "proj_clip": proj_clip,
            "projection_dim": width,
            "use_skip_connections": use_skip_connections,
        },
        "char_cnn": {
            "activation": activation,
            "embedding": {"dim": dim},
            "filters": filters,
            "max_characters_per_token": max_characters,
            "n_characters": n_characters,
            "n_highway": n_highway,
        },
    }
    shapes: dict[str, tuple[int, ...]] = {"char_embed": (261, dim)}
    for i, (size, number) in enumerate(filters):
        shapes |= {f"CNN/W_cnn_{i}": (1, size, dim, number), f"CNN/b_cnn_{i}": (number,)}
    for k in range(n_highway):
        for name in ("transform", "carry"):
            shapes |= {f"CNN_high_{k}/W_{name}": (total, total), f"CNN_high_{k}/b_{name}": (total,)}
    shapes |= {"CNN_proj/W_proj": (total, width), "CNN_proj/b_proj": (width,)}
    for direction in range(2):
        for layer in range(n_layers):
            prefix = f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell/"
            shapes |= {
                prefix + "W_0": (2 * width, 4 * cell),
                prefix + "B": (4 * cell,),
                prefix + "W_P_0": (cell, width),
            }

    folder.mkdir(parents=True, exist_ok=True)
    options_file, weight_file = folder / "options.json", folder / "weights.hdf5"
    options_file.write_text(json.dumps(options), encoding="utf-8")
    random = np.random.default_rng(seed)
    with h5py.File(weight_file, "w") as file:
        for name, shape in shapes.items():
            file.create_dataset(name, data=random.normal(scale=0.7, size=shape).astype(np.float32), **storage)
    return options_file, weight_file


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return write_random_checkpoint(tmp_path / "checkpoint")


@pytest.fixture(params=list(VARIANTS.values()), ids=list(VARIANTS))
def variant(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoint:
    return write_random_checkpoint(tmp_path / "checkpoint", **request.param)


def datasets_of(weight_file: Path) -> dict[str, np.ndarray]:
    """Every dataset of an hdf5 file by name."""
    found = {}
    with h5py.File(weight_file, "r") as file:
        file.visititems(lambda name, node: found.update({name: node[()]} if isinstance(node, h5py.Dataset) else {}))
    return found


def assert_same_bits(given: Path, expected: Path):
    given_datasets, expected_datasets = datasets_of(given), datasets_of(expected)
    assert given_datasets.keys() == expected_datasets.keys()
    for name, values in expected_datasets.items():
        assert given_datasets[name].dtype == values.dtype, name
        assert given_datasets[name].shape == values.shape, name
        assert given_datasets[name].tobytes() == values.tobytes(), name


# --- the table -------------------------------------------------------------------------------------------------------


def test_the_table_claims_every_dataset_of_the_reference_file_once(reference_dir: Path):
    table = tensor_table(read_options(reference_dir / "options.json"))
    claimed = [entry.dataset for entry in table]
    found = datasets_of(reference_dir / "lm_weights.hdf5")
    assert len(claimed) == len(set(claimed)) == 33
    assert {entry.dataset: entry.shape for entry in table} == {name: values.shape for name, values in found.items()}


def test_the_table_writes_every_parameter_of_the_model_once(variant: Checkpoint):
    config = read_options(variant[0])
    written = [name for entry in tensor_table(config) for name in entry.parameters]
    model = ElmoModel(config).state_dict()
    assert len(written) == len(set(written))
    assert sorted(written) == sorted(name for name in model if not name.startswith("scalar_mixes."))


def test_each_layout_gives_the_models_shapes_and_its_way_back_is_its_inverse(variant: Checkpoint):
    config = read_options(variant[0])
    model = ElmoModel(config).state_dict()
    for entry in tensor_table(config):
        values = np.arange(np.prod(entry.shape), dtype=np.float32).reshape(entry.shape)
        ours = entry.layout.to_ours(values)
        assert [part.shape for part in ours] == [tuple(model[name].shape) for name in entry.parameters]
        np.testing.assert_array_equal(entry.layout.to_file(*ours), values)


def test_gates_and_halves_of_an_lstm_kernel_go_where_torch_has_them(checkpoint: Checkpoint):
    state = read_weights(checkpoint[1], read_options(checkpoint[0]))
    kernel = datasets_of(checkpoint[1])["RNN_1/RNN/MultiRNNCell/Cell1/LSTMCell/W_0"]
    bias = datasets_of(checkpoint[1])["RNN_1/RNN/MultiRNNCell/Cell1/LSTMCell/B"]
    # In the file i, j, f, o of 6 cells each; here i, f, g, o.
    for ours, theirs in ((0, 0), (1, 2), (2, 1), (3, 3)):
        columns, rows = slice(6 * theirs, 6 * theirs + 6), slice(6 * ours, 6 * ours + 6)
        np.testing.assert_array_equal(state["encoder.backward_layers.1.weight_ih"][rows], kernel[:5, columns].T)
        np.testing.assert_array_equal(state["encoder.backward_layers.1.weight_hh"][rows], kernel[5:, columns].T)
        np.testing.assert_array_equal(state["encoder.backward_layers.1.bias"][rows], bias[columns])


def test_row_zero_of_the_character_table_is_ours_and_zero(checkpoint: Checkpoint):
    weight = read_weights(checkpoint[1], read_options(checkpoint[0]))["character_encoder.embeddings.weight"]
    assert not weight[0].any()
    np.testing.assert_array_equal(weight[1:], datasets_of(checkpoint[1])["char_embed"])


# --- options.json ----------------------------------------------------------------------------------------------------


def edited_options(options_file: Path, edit: Callable[[dict], Any]) -> Path:
    options = json.loads(options_file.read_text(encoding="utf-8"))
    edit(options)
    options_file.write_text(json.dumps(options), encoding="utf-8")
    return options_file


def test_options_of_the_reference_file_become_the_config(reference_dir: Path):
    config = read_options(reference_dir / "options.json", do_layer_norm=True)
    assert (config.cell_size, config.projection_dim, config.num_hidden_layers) == (64, 16, 2)
    assert (config.num_filters, config.char_embedding_dim, config.num_highway_layers) == (124, 4, 2)
    assert (config.cell_clip, config.proj_clip, config.use_skip_connections) == (3.0, 3.0, True)
    assert (config.vocab_size, config.char_cnn_activation, config.do_layer_norm) == (262, "relu", True)


def test_options_written_and_read_again_are_the_same(variant: Checkpoint, tmp_path: Path):
    config = read_options(variant[0])
    write_options(config, tmp_path / "again.json")
    assert read_options(tmp_path / "again.json").to_dict() == config.to_dict()


def test_training_options_are_not_read(checkpoint: Checkpoint):
    plain = read_options(checkpoint[0]).to_dict()
    edited_options(checkpoint[0], lambda o: o.update(dict.fromkeys(TRAINING_OPTIONS, "anything"), bidirectional=True))
    assert read_options(checkpoint[0]).to_dict() == plain


@pytest.mark.parametrize("off", [0, 0.0, None])
def test_a_falsy_clip_is_off(checkpoint: Checkpoint, off: float | None):
    edited_options(checkpoint[0], lambda o: o["lstm"].update(cell_clip=off, proj_clip=off))
    config = read_options(checkpoint[0])
    assert config.cell_clip is None
    assert config.proj_clip is None


def test_keys_that_bilm_tf_may_leave_out_have_its_values(checkpoint: Checkpoint):
    def leave_out(options: dict):
        del options["char_cnn"]["n_highway"]
        for key in ("cell_clip", "proj_clip", "n_layers", "use_skip_connections"):
            del options["lstm"][key]

    config = read_options(edited_options(checkpoint[0], leave_out))
    assert (config.num_highway_layers, config.num_hidden_layers) == (0, 1)
    assert (config.cell_clip, config.proj_clip, config.use_skip_connections) == (None, None, False)


BAD_OPTIONS: dict[str, tuple[Callable[[dict], Any], type[Exception], str]] = {
    "missing": (lambda o: o["lstm"].pop("dim"), ValueError, "`lstm.dim` must be given, was missing"),
    "missing group": (lambda o: o.pop("lstm"), ValueError, "`lstm.dim` must be given, was missing"),
    "misspelt": (lambda o: o["lstm"].update(cell_clp=3), ValueError, "`lstm.cell_clp` must be a key of bilm-tf's"),
    "unknown": (lambda o: o.update(attention=True), ValueError, "`attention` must be a key of bilm-tf's"),
    "over words": (lambda o: o.pop("char_cnn"), ValueError, "`char_cnn` must be given, was missing"),
    "one direction": (lambda o: o.update(bidirectional=False), ValueError, "`bidirectional` must be true, was: False"),
    "a list": (lambda o: o.update(lstm=[4096]), TypeError, r"`lstm` must be a JSON object, was: \[4096\]"),
    "text": (lambda o: o["lstm"].update(dim="6"), TypeError, "`lstm.dim` must be a whole number, was: '6'"),
    "true": (
        lambda o: o["lstm"].update(n_layers=True),
        TypeError,
        "`lstm.n_layers` must be a whole number, was: True",
    ),
    "zero": (lambda o: o["lstm"].update(projection_dim=0), ValueError, "`lstm.projection_dim` must be at least 1"),
    "giant": (lambda o: o["lstm"].update(n_layers=10**9), ValueError, "`lstm.n_layers` must be at most 100"),
    "giant filter": (
        lambda o: o["char_cnn"].update(filters=[[1, 10**12]]),
        ValueError,
        "`char_cnn.filters` must be at most 1000000 each",
    ),
    "flat filters": (
        lambda o: o["char_cnn"].update(filters=[1, 4]),
        TypeError,
        r"`char_cnn.filters\[0\]` must be \[width, number\], was: 1",
    ),
    "wide filter": (
        lambda o: o["char_cnn"].update(filters=[[51, 4]]),
        ValueError,
        r"`char_cnn.filters\[0\]` must not be wider than the 50 characters",
    ),
    "activation": (
        lambda o: o["char_cnn"].update(activation="gelu"),
        ValueError,
        "`char_cnn.activation` must be relu or tanh, was: 'gelu'",
    ),
    "characters": (
        lambda o: o["char_cnn"].update(n_characters=60),
        ValueError,
        "`char_cnn.n_characters` must be 261 or 262, was: 60",
    ),
    "negative clip": (lambda o: o["lstm"].update(cell_clip=-3), ValueError, "`lstm.cell_clip` must be positive"),
    "false clip": (lambda o: o["lstm"].update(cell_clip=False), TypeError, "`lstm.cell_clip` must be a number"),
    "skip": (
        lambda o: o["lstm"].update(use_skip_connections=1),
        TypeError,
        "`lstm.use_skip_connections` must be true or false, was: 1",
    ),
}


@pytest.mark.parametrize(("edit", "error", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_wrong_options_are_told_with_file_and_key(
    checkpoint: Checkpoint, edit: Callable[[dict], Any], error: type[Exception], message: str
):
    with pytest.raises(error, match=message) as caught:
        read_options(edited_options(checkpoint[0], edit))
    assert str(caught.value).startswith(f"{checkpoint[0]}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "must be JSON in UTF-8"),
        (b'{"lstm": {', "must be JSON in UTF-8"),
        (b'{"lstm": "\xff"}', "must be JSON in UTF-8"),
        (b'{"lstm": NaN}', "numbers must be finite"),
        (b'{"lstm": {}, "lstm": {}}', "every key must occur once"),
        (b"[" * 100_000, "must be JSON in UTF-8"),
        (b'{"lstm": ' + b"9" * 5000 + b"}", "must be JSON in UTF-8"),
        (b" " * 2_000_000, "must be at most 1048576 bytes long"),
    ],
)
def test_options_that_are_not_json_are_told_in_one_line(tmp_path: Path, text: bytes, message: str):
    (tmp_path / "options.json").write_bytes(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_options(tmp_path / "options.json")
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_told(checkpoint: Checkpoint, tmp_path: Path):
    config = read_options(checkpoint[0])
    for read in (read_options, lambda path: read_weights(path, config)):
        with pytest.raises(FileNotFoundError, match=r"none.here: must be a file, was missing"):
            read(tmp_path / "none.here")
        with pytest.raises(ValueError, match="must be a file, was something else"):
            read(tmp_path)


def test_options_that_are_no_bilm_tf_characters_are_not_written(tmp_path: Path):
    with pytest.raises(ValueError, match=r"`vocab_size` must be 262 in an options.json, was: 300"):
        write_options(ElmoConfig(vocab_size=300), tmp_path / "options.json")
    assert not list(tmp_path.iterdir())


# --- hdf5, in --------------------------------------------------------------------------------------------------------

LSTM = "RNN_0/RNN/MultiRNNCell/Cell0/LSTMCell"


def replace(file: h5py.File, name: str, **dataset: Any):
    del file[name]
    file.create_dataset(name, **dataset)


def link_outside(file: h5py.File):
    with h5py.File(Path(file.filename).with_name("other.hdf5"), "w") as other:
        other["char_embed"] = file["char_embed"][()]
    del file["char_embed"]
    file["char_embed"] = h5py.ExternalLink("other.hdf5", "char_embed")


def link_in_a_circle(file: h5py.File):
    del file["RNN_0/RNN"]
    file["RNN_0/RNN"] = file["RNN_0"]


def make_virtual(file: h5py.File):
    layout = h5py.VirtualLayout(shape=(261, 3), dtype="f4")
    layout[:] = h5py.VirtualSource("other.hdf5", "char_embed", shape=(261, 3))
    del file["char_embed"]
    file.create_virtual_dataset("char_embed", layout)


def make_nan(file: h5py.File):
    file["CNN/W_cnn_1"][0, 1, 2, 0] = np.nan


def overflow(file: h5py.File):
    replace(file, "CNN_proj/b_proj", data=np.array([0, 0, 1e300, 0, 0]))


BAD_WEIGHTS: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "missing": (lambda f: f.pop("CNN/b_cnn_2"), r"`CNN/b_cnn_2` must have shape \(4,\), was missing"),
    "missing group": (lambda f: f.pop("RNN_1"), "`RNN_1/.*LSTMCell/W_0` must have shape .* was missing"),
    "extra": (
        lambda f: f.create_dataset("CNN/W_cnn_3", data=[1.0]),
        "every dataset must be one .* 'CNN/W_cnn_3' was not",
    ),
    "extra group": (lambda f: f.create_group("CNN_high_1"), "'CNN_high_1' was not"),
    "shape": (
        lambda f: replace(f, f"{LSTM}/W_P_0", data=np.zeros((5, 6), "f4")),
        rf"`{LSTM}/W_P_0` must have shape \(6, 5\) by the options, was: \(5, 6\)",
    ),
    "no shape": (
        lambda f: replace(f, "char_embed", dtype="f4", shape=None),
        r"`char_embed` must have shape .* was: None",
    ),
    "integers": (
        lambda f: replace(f, f"{LSTM}/B", data=np.zeros(24, "i4")),
        f"`{LSTM}/B` must hold floats of 16, 32 or 64 bits, was: int32",
    ),
    "text": (lambda f: replace(f, f"{LSTM}/B", data=["a"] * 24), "must hold floats of 16, 32 or 64 bits, was: object"),
    "compound": (
        lambda f: replace(f, f"{LSTM}/B", data=np.zeros(24, [("a", "f4"), ("b", "f4")])),
        "must hold floats of 16, 32 or 64 bits",
    ),
    "group for dataset": (
        lambda f: (f.pop("char_embed"), f.create_group("char_embed")),
        "`char_embed` must be a dataset of this file, was: Group",
    ),
    "dataset for group": (
        lambda f: (f.pop("RNN_1"), f.create_dataset("RNN_1", data=1.0)),
        "`RNN_1` must be a group of this file, was: Dataset",
    ),
    "soft link": (
        lambda f: (f.pop("CNN/b_cnn_2"), f.update({"CNN/b_cnn_2": h5py.SoftLink("/CNN/b_cnn_0")})),
        "`CNN/b_cnn_2` must be a dataset of this file, was: SoftLink",
    ),
    "external link": (link_outside, "`char_embed` must be a dataset of this file, was: ExternalLink"),
    "circle of links": (link_in_a_circle, "'RNN_0/RNN/RNN' was not"),
    "virtual": (make_virtual, "`char_embed` must be a complete dataset of this file, was: kept in another file"),
    "external storage": (
        lambda f: replace(f, "char_embed", shape=(261, 3), dtype="f4", external=[("raw.bin", 0, 261 * 12)]),
        "`char_embed` must be a complete dataset of this file, was: kept in another file",
    ),
    "never written": (
        lambda f: replace(f, "char_embed", shape=(261, 3), dtype="f4"),
        "`char_embed` must be a complete dataset of this file, was: declared and never written",
    ),
    "other filter": (
        lambda f: replace(f, "char_embed", data=np.zeros((261, 3), "i4").astype("f4"), scaleoffset=2),
        "`char_embed` must be a complete dataset of this file, was: packed by a filter with the number 6",
    ),
    "chunks": (
        lambda f: replace(
            f, "char_embed", data=np.ones((261, 3), "f4"), chunks=(900, 300), maxshape=(None, None), compression=9
        ),
        r"`char_embed` must be a complete dataset of this file, was: cut into chunks of \(900, 300\)",
    ),
    "not a number": (make_nan, r"`CNN/W_cnn_1` must hold finite float32 numbers, was: nan at \(0, 1, 2, 0\)"),
    "beyond float32": (overflow, r"`CNN_proj/b_proj` must hold finite float32 numbers, was: inf at \(2,\)"),
}


@pytest.mark.parametrize(("edit", "message"), BAD_WEIGHTS.values(), ids=BAD_WEIGHTS.keys())
def test_wrong_weights_are_told_with_file_and_dataset(
    checkpoint: Checkpoint, edit: Callable[[h5py.File], Any], message: str
):
    config = read_options(checkpoint[0])
    with h5py.File(checkpoint[1], "r+") as file:
        edit(file)
    with pytest.raises(ValueError, match=message) as caught:
        read_weights(checkpoint[1], config)
    assert str(caught.value).startswith(f"{checkpoint[1]}: ")
    assert "\n" not in str(caught.value)


def test_options_that_contradict_the_weights_are_told_with_both_shapes(checkpoint: Checkpoint):
    edited_options(checkpoint[0], lambda o: o["lstm"].update(dim=7))
    with pytest.raises(ValueError, match=r"`RNN_0.*W_0` must have shape \(10, 28\) by the options, was: \(10, 24\)"):
        read_model(*checkpoint)


@pytest.mark.parametrize("keep", [0, 7, 100, 2000, -1])
def test_truncated_weights_are_told(checkpoint: Checkpoint, keep: int):
    checkpoint[1].write_bytes(checkpoint[1].read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"weights.hdf5: (must be an hdf5 file|hdf5 file must be readable)"):
        read_weights(checkpoint[1], read_options(checkpoint[0]))


def test_a_web_page_instead_of_weights_is_told(checkpoint: Checkpoint):
    checkpoint[1].write_text("<!DOCTYPE html><title>404</title>", encoding="utf-8")
    with pytest.raises(ValueError, match="must be an hdf5 file, starts with: b'<!DOCTYPE html>"):
        read_weights(checkpoint[1], read_options(checkpoint[0]))


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_giant_declared_shape_is_never_allocated(tmp_path: Path, compression: str | None):
    # 4 TB in each kernel, which options and weights agree on.
    config = ElmoConfig(projection_dim=500_000, cell_size=500_000, num_hidden_layers=1)
    with h5py.File(tmp_path / "giant.hdf5", "w") as file:
        for entry in tensor_table(config):
            dataset = file.create_dataset(
                entry.dataset,
                entry.shape,
                "f4",
                chunks=tuple(min(n, 64) for n in entry.shape),
                compression=compression,
            )
            dataset[(0,) * len(entry.shape)] = 1.0
    tracemalloc.start()
    try:
        with pytest.raises(
            ValueError, match=r"must be a complete dataset of this file, was: \d+ numbers in \d+ bytes"
        ):
            read_weights(tmp_path / "giant.hdf5", config)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("storage", [{"compression": "gzip"}, {"compression": "lzf"}, {"fletcher32": True}])
def test_compressed_weights_read_as_plain_ones(tmp_path: Path, storage: dict[str, Any]):
    options_file, plain = write_random_checkpoint(tmp_path / "plain")
    _, packed = write_random_checkpoint(tmp_path / "packed", **storage)
    config = read_options(options_file)
    expected = read_weights(plain, config)
    given = read_weights(packed, config)
    assert all(torch.equal(given[name], expected[name]) for name in expected)


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_other_float_types_become_float32(checkpoint: Checkpoint, dtype: str):
    values = datasets_of(checkpoint[1])["CNN/W_cnn_0"].astype(dtype)
    with h5py.File(checkpoint[1], "r+") as file:
        replace(file, "CNN/W_cnn_0", data=values)
    weight = read_weights(checkpoint[1], read_options(checkpoint[0]))["character_encoder.convolutions.0.weight"]
    assert weight.dtype == torch.float32
    np.testing.assert_array_equal(weight.numpy(), values[0].transpose(2, 1, 0).astype(np.float32))


def test_the_output_layer_of_the_language_model_is_left_out_and_told(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
):
    config = read_options(checkpoint[0])
    told: list[str] = []
    expected = read_weights(checkpoint[1], config)
    with h5py.File(checkpoint[1], "r+") as file:
        file["softmax/W"] = np.zeros((1000, 5), "f4")
        file["softmax/b"] = np.zeros(1000, "f4")
    monkeypatch.setattr(bilm_hdf5.logger, "warning", told.append)
    assert read_weights(checkpoint[1], config).keys() == expected.keys()
    assert told == [f"{checkpoint[1]}: softmax/W and softmax/b, the language model's output layer, are left out."]


# --- hdf5, out -------------------------------------------------------------------------------------------------------


def test_weights_written_and_read_again_are_bit_equal(variant: Checkpoint, tmp_path: Path):
    config = read_options(variant[0])
    write_weights(read_weights(variant[1], config), config, tmp_path / "again.hdf5")
    assert_same_bits(tmp_path / "again.hdf5", variant[1])


def test_a_half_precision_model_is_written_as_float32(checkpoint: Checkpoint, tmp_path: Path):
    config, model = read_options(checkpoint[0]), read_model(*checkpoint).bfloat16()
    write_weights(model, config, tmp_path / "half.hdf5")
    again = read_weights(tmp_path / "half.hdf5", config)
    assert all(torch.equal(tensor, model.state_dict()[name].float()) for name, tensor in again.items())


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda s: s.pop("encoder.forward_layers.1.bias"),
            "`encoder.forward_layers.1.bias` must be given .* was missing",
        ),
        (lambda s: s.update(classifier=torch.zeros(1)), "`classifier` must be a parameter of the biLM, was unknown"),
        (
            lambda s: s.update({"character_encoder.projection.bias": torch.zeros(6)}),
            r"`character_encoder.projection.bias` must give `CNN_proj/b_proj` the shape \(5,\), was: \(6,\)",
        ),
        (
            lambda s: s["character_encoder.embeddings.weight"][0].fill_(1.0),
            "`character_encoder.embeddings.weight`: row 0 must be zeros",
        ),
        (lambda s: s["character_encoder.projection.bias"].fill_(np.inf), "projection.bias` must be finite, was not"),
    ],
)
def test_wrong_tensors_are_told_and_leave_the_old_file(
    checkpoint: Checkpoint, tmp_path: Path, edit: Callable[[dict], Any], message: str
):
    config = read_options(checkpoint[0])
    state = read_weights(checkpoint[1], config)
    edit(state)
    before = checkpoint[1].read_bytes()
    with pytest.raises(ValueError, match=message):
        write_weights(state, config, checkpoint[1])
    assert checkpoint[1].read_bytes() == before
    assert sorted(path.name for path in checkpoint[1].parent.iterdir()) == ["options.json", "weights.hdf5"]


# --- the plain computation -------------------------------------------------------------------------------------------


def test_the_plain_computation_gives_the_tensorflow_outputs(reference_dir: Path):
    rows = json.loads((reference_dir / "sentences.json").read_text(encoding="utf-8"))
    # Without carried state, the first batch alone is comparable.
    sentences = [row[0].split() for row in rows]
    layers = reference_layers(reference_dir / "options.json", reference_dir / "lm_weights.hdf5", sentences)
    for row, sentence in enumerate(sentences):
        with h5py.File(reference_dir / f"lm_embeddings_{row}.hdf5", "r") as file:
            # (2 directions, words, 16)
            expected = file["0"][()]
        assert expected.shape[1] == len(sentence)
        np.testing.assert_allclose(layers[row][-1], np.concatenate(list(expected), axis=-1), atol=1e-6)


def test_the_model_equals_the_plain_computation(variant: Checkpoint, tmp_path: Path):
    conversion = convert_checkpoint(*variant, tmp_path / "folder")
    # float32 against float64; the tolerance of the conversion itself is wider.
    assert conversion.difference is not None
    assert conversion.difference < 5e-6


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
    sources = {path.name for path in Path(bilm_hdf5.__file__).parent.parent.glob("*_elmo.py")}
    assert {"config.json", "model.safetensors", "tokenizer_config.json", "README.md"} | sources <= names
    assert {Path(name).suffix for name in names} == {".json", ".safetensors", ".md", ".py"}
    card = (reference_model_dir / "README.md").read_text(encoding="utf-8")
    assert "dfdfd3001b5965b4b6ef857ac772b6624984f8248eaae08fb9be6d1b51ad8755" in card
    assert "# elmo-tiny-reference" in card
    assert "license: " not in card.split("---")[1].replace("# license: ", "")


REMOTE_CODE = """
import sys
sys.modules["elmo_hf"] = None  # any import of it fails
sys.modules["h5py"] = None
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
    reference_model_dir: Path, reference_dir: Path, tmp_path: Path
):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "HF_HOME": str(tmp_path / "hf"),
    }
    command = [sys.executable, "-I", "-c", REMOTE_CODE, str(reference_model_dir), str(tmp_path / "layers.pt")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    model = read_model(reference_dir / "options.json", reference_dir / "lm_weights.hdf5")
    tokenizer = bilm_hdf5.ElmoTokenizer()
    inputs = tokenizer([["The", "river", "bank"], ["Ja"]], is_split_into_words=True, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs, output_hidden_states=True).hidden_states
    for given, layer in zip(torch.load(tmp_path / "layers.pt"), expected, strict=True):
        assert torch.equal(given, layer)


def test_the_model_card_tells_licence_sizes_and_that_nothing_was_verified(checkpoint: Checkpoint, tmp_path: Path):
    conversion = convert_checkpoint(*checkpoint, tmp_path / "folder", verify=False, license="apache-2.0")
    card = (tmp_path / "folder" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: apache-2.0\nlibrary_name: transformers\n")
    assert "| width of the output | 10 (2 directions of 5) |" in card
    assert "The conversion was not verified." in card
    assert conversion.difference is None
    with pytest.raises(ValueError, match="`license` must be an identifier as the Hub knows it"):
        convert_checkpoint(*checkpoint, tmp_path / "other", license="a: b\nc")


def test_a_model_that_differs_from_the_file_is_refused_with_the_figure(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def swapped(weight_file: Path, config: ElmoConfig, progress: object) -> dict[str, torch.Tensor]:
        state = read_weights(weight_file, config)
        names = [f"encoder.{direction}_layers.0.weight_hr" for direction in ("forward", "backward")]
        return state | {names[0]: state[names[1]], names[1]: state[names[0]]}

    monkeypatch.setattr(bilm_hdf5, "read_weights", swapped)
    with pytest.raises(
        ValueError, match=r"must differ from a plain computation .* by at most 1e-04 .* was: \d\.\de[-+]\d"
    ):
        convert_checkpoint(*checkpoint, tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_model_that_gives_no_numbers_is_refused(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(bilm_hdf5, "reference_layers", lambda *_: [np.full((3, 12, 10), np.nan)] * 4)
    monkeypatch.setattr(bilm_hdf5, "VERIFICATION_SENTENCES", [["a"] * 12] * 4)
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
    script = (
        "import sys, time; from elmo_hf.checkpoints.bilm_hdf5 import convert_checkpoint\n"
        "def wait(step, done, total):\n"
        "    if step == 'Hashing': print('here', flush=True); time.sleep(60)\n"
        "convert_checkpoint(*sys.argv[1:], progress=wait)"
    )
    command = [sys.executable, "-c", script, *map(str, checkpoint), str(tmp_path / "folder")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        assert len(list(tmp_path.iterdir())) == 2
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert time.monotonic() - started < 30
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
    with pytest.raises(FileExistsError, match="must be an ELMo folder to be overwritten, was something else"):
        convert_checkpoint(*checkpoint, checkpoint[0].parent, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "folder"]


def test_an_overwriting_that_fails_keeps_the_old_folder(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    convert_checkpoint(*checkpoint, tmp_path / "folder", verify=False)
    before = contents(tmp_path / "folder")
    rename = Path.rename

    def fail_into_place(self: Path, target: Path) -> Path:
        if target.name == "folder" and not self.name.endswith(".old"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_into_place)
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(*checkpoint, tmp_path / "folder", verify=False, overwrite=True)
    assert contents(tmp_path / "folder") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "folder"]


def test_exporting_refuses_folders_that_hold_no_complete_bilm(checkpoint: Checkpoint, tmp_path: Path):
    out = (tmp_path / "out.json", tmp_path / "out.hdf5")
    with pytest.raises(FileNotFoundError, match=r"must be a folder with a config.json"):
        export_checkpoint(tmp_path / "no-such-folder", *out)
    convert_checkpoint(*checkpoint, tmp_path / "folder", verify=False)
    with pytest.raises(FileExistsError, match=r"weights.hdf5: must be a new file"):
        export_checkpoint(tmp_path / "folder", out[0], checkpoint[1])
    shutil.copytree(tmp_path / "folder", tmp_path / "damaged")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged: model must be readable, was damaged"):
        export_checkpoint(tmp_path / "damaged", *out)
    assert not out[0].exists()
    assert not out[1].exists()


def test_a_folder_with_a_parameter_missing_is_not_exported(checkpoint: Checkpoint, tmp_path: Path):
    model = read_model(*checkpoint)
    state = {name: value for name, value in model.state_dict().items() if name != "encoder.forward_layers.0.bias"}
    model.save_pretrained(tmp_path / "folder", state_dict=state)
    with pytest.raises(ValueError, match=r"`encoder.forward_layers.0.bias` must be among the weights, was missing"):
        export_checkpoint(tmp_path / "folder", tmp_path / "out.json", tmp_path / "out.hdf5")
