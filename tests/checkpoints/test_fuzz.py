"""
Damaged checkpoints: whatever is done to the two files, reading them gives a model or one clear error.

More than 300 mutations in all. Those of single bytes run in a process of their own, with a limit of memory and of
time, because nobody promises that libhdf5 survives them.
"""

import json
import random
import resource
import tempfile
import tracemalloc
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from elmo_hf.checkpoints.bilm_hdf5 import read_weights
from elmo_hf.checkpoints.bilm_options import read_options
from elmo_hf.checkpoints.bilm_tensors import tensor_table
from elmo_hf.checkpoints.errors import FileError
from tests.checkpoints.random_checkpoint import write_random_checkpoint
from tests.interpreter import Interpreter

OPTIONS_MUTATIONS = 200
DATASET_MUTATIONS = 120
BYTE_MUTATIONS = 150

# No example of hypothesis is slow by itself; the machine may be.
FUZZ = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def outcome(options_file: Path, weight_file: Path) -> str:
    """Reads a checkpoint. Anything but finite tensors or one clear line, and any giant allocation, is raised."""
    tracemalloc.start()
    try:
        config = read_options(options_file)
        state = read_weights(weight_file, config)
    except (ValueError, TypeError, FileNotFoundError) as error:
        message = str(error)
        if type(error) not in (ValueError, FileError, TypeError, FileNotFoundError):
            raise
        if not message.startswith((f"{options_file}: ", f"{weight_file}: ")) or "\n" in message or len(message) > 1000:
            raise AssertionError(f"not one clear line: {message!r}") from error
        return type(error).__name__
    finally:
        # In bytes. The checkpoint has 10 kB of weights and an options.json may be 1 MB long.
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5_000_000
    for entry in tensor_table(config):
        for name in entry.parameters:
            assert state[name].dtype == torch.float32
            assert torch.isfinite(state[name]).all()
    return "read"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """A checkpoint as text and bytes; one dataset in three is compressed."""
    options_file, weight_file = write_random_checkpoint(tmp_path_factory.mktemp("whole"), n_layers=1)
    with h5py.File(weight_file, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, node: names.append(name) if isinstance(node, h5py.Dataset) else None)
        for name in names[::3]:
            values = file[name][()]
            del file[name]
            file.create_dataset(name, data=values, compression="gzip")
    return options_file.read_text(encoding="utf-8"), weight_file.read_bytes()


def written(folder: Path, options: str | bytes, weights: bytes) -> tuple[Path, Path]:
    options_file, weight_file = folder / "options.json", folder / "weights.hdf5"
    options_file.write_bytes(options.encode("utf-8", "surrogatepass") if isinstance(options, str) else options)
    weight_file.write_bytes(weights)
    return options_file, weight_file


# --- options.json ----------------------------------------------------------------------------------------------------

KEYS = [
    *(
        ("lstm", key)
        for key in ("cell_clip", "dim", "n_layers", "proj_clip", "projection_dim", "use_skip_connections")
    ),
    *(("char_cnn", key) for key in ("activation", "embedding", "filters", "max_characters_per_token", "n_characters")),
    ("char_cnn", "n_highway"),
    ("char_cnn", "embedding", "dim"),
    ("char_cnn", "filters", 0),
    ("char_cnn", "filters", 1, 0),
    ("char_cnn", "filters", 1, 1),
    ("lstm",),
    ("char_cnn",),
]
ODD_NUMBERS = [0, -1, 1, 2, 49, 50, 51, 2**31, 2**63, 10**30, 10**4000, -(10**400), 0.5, -0.0, 1e308, 1e-320, 6.0]
ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(ODD_NUMBERS),
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(),
    st.text(max_size=8),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=8,
    ),
)


@st.composite
def edits_of_options(draw: st.DrawFn) -> Callable[[str], str | bytes]:
    kind = draw(st.sampled_from(["value", "value", "training", "delete", "add", "cut", "byte", "nest", "root"]))
    keys, value, place = draw(st.sampled_from(KEYS)), draw(ODD_VALUES), draw(st.floats(0, 1))
    name, byte = draw(st.text(max_size=5)), draw(st.integers(0, 255))

    def edit(text: str) -> str | bytes:
        position = int(place * (len(text) - 1))
        if kind == "cut":
            return text[:position]
        if kind == "byte":
            return text[:position].encode() + bytes([byte]) + text[position + 1 :].encode()
        if kind == "root":
            return json.dumps(value)
        options = json.loads(text)
        parent = options
        for key in keys[:-1]:
            parent = parent[key]
        if kind == "delete":
            del parent[keys[-1]]
        elif kind == "training":
            options["n_epochs"] = value
        elif kind == "add":
            (options if place < 0.5 else options["lstm"])[name] = value
        else:
            parent[keys[-1]] = "HERE" if kind == "nest" else value
        depth = 10 ** (1 + byte % 5)
        return json.dumps(options).replace('"HERE"', "[" * depth + "]" * depth)

    return edit


def test_damaged_options_give_a_model_or_one_clear_error(whole: tuple[str, bytes]):
    outcomes: Counter[str] = Counter()

    @settings(FUZZ, max_examples=OPTIONS_MUTATIONS)
    @given(edit=edits_of_options())
    def mutate(edit: Callable[[str], str | bytes]):
        with tempfile.TemporaryDirectory() as folder:
            outcomes[outcome(*written(Path(folder), edit(whole[0]), whole[1]))] += 1

    mutate()
    assert outcomes.total() >= OPTIONS_MUTATIONS
    # The mutations reach both kinds of error, and some change nothing that matters.
    assert outcomes.keys() == {"read", "ValueError", "TypeError"}


# --- hdf5, by its names and shapes -----------------------------------------------------------------------------------


def links(file: h5py.File, name: str, choice: int):
    file[name + "~"] = [h5py.SoftLink("/char_embed"), h5py.SoftLink(name), h5py.ExternalLink("x", "/"), file["/"]][
        choice
    ]
    if choice % 2:
        file.pop(name)
        file.move(name + "~", name)


def retyped(file: h5py.File, name: str, choice: int):
    types = ["f2", "f8", ">f4", "i4", "u1", "S4", "c8", "?", np.longdouble]
    values = file[name][()]
    file.pop(name)
    file[name] = values.astype(types[choice % len(types)])


def reshaped(file: h5py.File, name: str, choice: int):
    values = file.pop(name)[()]
    shapes = [
        values[None],
        values.ravel(),
        values[..., :-1],
        values.T,
        values[:0],
        np.float32(1.0),
        np.resize(values, 7),
    ]
    file[name] = shapes[choice % len(shapes)]


def declared(file: h5py.File, name: str, choice: int):
    shape = file.pop(name).shape
    giant = [(2**40,), (2**20,) * 3, tuple(n * 10**6 for n in shape), shape][choice % 4]
    file.create_dataset(name, giant, "f4", chunks=(1,) * len(giant), compression="gzip" if choice % 2 else None)


def revalued(file: h5py.File, name: str, choice: int):
    values = file.pop(name)[()].astype("f8")
    values.flat[choice % values.size] = [np.nan, np.inf, -np.inf, 1e300, 1e-300, -0.0][choice % 6]
    file[name] = values


def renamed(file: h5py.File, name: str, choice: int):
    file.move(name, [name.upper() + "~", name.replace("/", "_") + "_", "é" + name, "RNN_2/" + name][choice % 4])


def added(file: h5py.File, name: str, choice: int):
    if choice % 3 == 0:
        file.create_group(name + "_extra")
    elif choice % 3 == 1:
        file[f"softmax/{'WbX'[choice % 3]}"] = np.zeros(3)
    else:
        file[name + "_extra"] = np.dtype("f4")


def removed(file: h5py.File, name: str, choice: int):
    file.pop(name.split("/")[0] if choice % 2 else name)


EDITS = [links, retyped, reshaped, declared, revalued, renamed, added, removed]


def test_weights_with_other_contents_give_a_model_or_one_clear_error(whole: tuple[str, bytes]):
    outcomes: Counter[str] = Counter()

    @settings(FUZZ, max_examples=DATASET_MUTATIONS)
    @given(edit=st.sampled_from(EDITS), name=st.integers(0, 100), choice=st.integers(0, 3) | st.integers(0, 100))
    def mutate(edit: Callable[[h5py.File, str, int], Any], name: int, choice: int):
        with tempfile.TemporaryDirectory() as folder:
            options_file, weight_file = written(Path(folder), *whole)
            names = [entry.dataset for entry in tensor_table(read_options(options_file))]
            with closing(h5py.File(weight_file, "r+")) as file:
                edit(file, names[name % len(names)], choice % 4 if edit is links else choice)
            outcomes[outcome(options_file, weight_file)] += 1

    mutate()
    assert outcomes.total() >= DATASET_MUTATIONS
    assert outcomes.keys() == {"read", "ValueError"}


# --- hdf5, by its bytes ----------------------------------------------------------------------------------------------


def damaged(data: bytes, seed: int) -> bytes:
    """Up to 8 bytes changed, or the end cut off."""
    chance = random.Random(seed)
    if seed % 10 == 0:
        return data[: chance.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 8])):
        place = chance.randrange(len(changed))
        changed[place] = chance.choice([0, 255, chance.randrange(256), changed[place] ^ (1 << chance.randrange(8))])
    return bytes(changed)


def read_damaged(folder: Path):
    """For a process of its own: prints the outcome of each mutation of the checkpoint in `folder`, a line each."""
    resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))
    data = (folder / "weights.hdf5").read_bytes()
    target = folder / "damaged.hdf5"
    for seed in range(BYTE_MUTATIONS):
        target.write_bytes(damaged(data, seed))
        print(outcome(folder / "options.json", target), flush=True)


READ_DAMAGED = """
import sys
from pathlib import Path
from tests.checkpoints.test_fuzz import read_damaged
read_damaged(Path(sys.argv[1]))
"""


def test_weights_with_damaged_bytes_give_a_model_or_one_clear_error(
    whole: tuple[str, bytes], interpreter: Interpreter, tmp_path: Path
):
    written(tmp_path, *whole)
    done = interpreter.run(READ_DAMAGED, tmp_path)
    outcomes = done.stdout.split()
    # On a crash, the number of lines is the seed that did it.
    assert (done.returncode, len(outcomes)) == (0, BYTE_MUTATIONS), done.stderr[-2000:]
    assert set(outcomes) == {"read", "ValueError", "FileError"}
