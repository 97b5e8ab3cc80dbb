"""Checkpoints of bilm-tf: the table and the options, and the weights in both directions."""

import json
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from elmo_hf import ElmoConfig, ElmoModel
from elmo_hf.checkpoints import bilm_hdf5
from elmo_hf.checkpoints.bilm_hdf5 import read_model, read_weights, write_weights
from elmo_hf.checkpoints.bilm_options import TRAINING_OPTIONS, read_options, write_options
from elmo_hf.checkpoints.bilm_tensors import tensor_table
from tests.checkpoints.random_checkpoint import Checkpoint, assert_same_bits, datasets_of, write_random_checkpoint

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


# Seen in public files.
@pytest.mark.parametrize("key", ["reverse", "lstm.projection_after_highway", "initial_accumulator_value", "name"])
def test_options_that_the_originals_ignore_give_a_warning(
    key: str, checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture
):
    plain = read_options(checkpoint[0]).to_dict()
    group, _, name = key.rpartition(".")
    edited_options(checkpoint[0], lambda options: (options[group] if group else options).update({name: True}))
    assert read_options(checkpoint[0]).to_dict() == plain
    assert f"`{key}` is unknown to bilm-tf and ignored" in caplog.text


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
    "extra group": (lambda f: f.create_group("optimizer"), "'optimizer' was not"),
    "extra highway": (
        lambda f: f.create_dataset("CNN_high_1/b_carry", data=np.zeros(3)),
        "'CNN_high_1/b_carry' was not",
    ),
    "one direction": (
        lambda f: f.create_group("rnn"),
        "a biLM must have two directions, has the names of a single one",
    ),
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
        with pytest.raises(ValueError, match="must be a complete dataset of this file, was: written in 1 of its"):
            read_weights(tmp_path / "giant.hdf5", config)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("storage", [{"compression": "gzip"}, {"fletcher32": True}])
def test_compressed_weights_read_as_plain_ones(tmp_path: Path, storage: dict[str, Any]):
    options_file, plain = write_random_checkpoint(tmp_path / "plain")
    _, packed = write_random_checkpoint(tmp_path / "packed", **storage)
    config = read_options(options_file)
    expected = read_weights(plain, config)
    given = read_weights(packed, config)
    assert all(torch.equal(given[name], expected[name]) for name in expected)


def test_a_filter_whose_output_cannot_be_bounded_is_refused(tmp_path: Path):
    options_file, packed = write_random_checkpoint(tmp_path / "packed", compression="lzf")
    with pytest.raises(ValueError, match="was: packed by a filter with the number 32000"):
        read_weights(packed, read_options(options_file))


def pipeline(shape: tuple[int, ...], *deflates: int) -> h5py.h5p.PropDCID:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk(shape)
    for level in deflates:
        properties.set_deflate(level)
    return properties


def with_chunk(weight_file: Path, name: str, deflates: int, chunk: bytes | None) -> None:
    """Replaces a dataset by one of a single chunk, as it is written into the file; `None` leaves it out."""
    with h5py.File(weight_file, "r+") as file:
        shape = file[name].shape
        del file[name]
        # Two chunks, of which the first is written.
        size = (-(-shape[0] // 2), *shape[1:]) if chunk is None else shape
        space, properties = h5py.h5s.create_simple(shape), pipeline(size, *[9] * deflates)
        group, _, last = name.rpartition("/")
        dataset = h5py.h5d.create(file[group or "/"].id, last.encode(), h5py.h5t.IEEE_F32LE, space, properties)
        first = np.ones(size, "<f4").tobytes() if chunk is None else chunk
        dataset.write_direct_chunk((0,) * len(shape), zlib.compress(first) if chunk is None and deflates else first)


@pytest.mark.parametrize(
    ("deflates", "chunk", "message"),
    [
        (4, b"x", "packed several times by the same filter"),
        (0, None, "written in 1 of its 2 chunks"),
        (1, None, "written in 1 of its 2 chunks"),
        (1, zlib.compress(bytes(1 << 22)), r"a chunk of \d+ bytes inflates to more"),
    ],
)
def test_chunks_that_are_missing_or_inflate_without_end_are_refused(
    checkpoint: Checkpoint, deflates: int, chunk: bytes | None, message: str
):
    with_chunk(checkpoint[1], "RNN_0/RNN/MultiRNNCell/Cell0/LSTMCell/W_0", deflates, chunk)
    with pytest.raises(ValueError, match=message):
        read_weights(checkpoint[1], read_options(checkpoint[0]))


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
