"""Damaged Hub folders through every command: a right result or one short line, no made-up weight, no half target."""

import json
import os
import random
import shutil
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from elmo_hf import ElmoForPreTraining, ElmoTokenizer
from tests.language_model import language_model, word_tokenizer
from tests.test_cli import run
from tests.tiny import tiny_model

FILES = ("config.json", "tokenizer_config.json", "vocab.txt", "model.safetensors")
VALUES: list[Any] = [None, True, -1, 0, 1e308, 2**31, "x", "x" * 100_000, [], {}, [[[]]], [[1, 2**40]], float("nan")]
MUTATIONS = int(os.environ.get("ELMO_HF_MUTATIONS", "24"))


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound") / "model"
    language_model().save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def change_json(file: Path, draw: random.Random) -> str:
    values = json.loads(file.read_text(encoding="utf-8"))
    name = draw.choice(sorted(values))
    if draw.random() < 0.2:
        del values[name]
        told = "gone"
    else:
        values[name] = draw.choice(VALUES)
        told = repr(values[name])[:20]
    file.write_text(json.dumps(values), encoding="utf-8")
    return f"{name}: {told}"


def change_words(file: Path, draw: random.Random) -> str:
    text = file.read_bytes()
    kinds: dict[str, Callable[[], bytes]] = {
        "twice": lambda: text + text.splitlines()[-1] + b"\n",
        "cut": lambda: text[: len(text) // 2],
        "NUL": lambda: text.replace(b"e", b"\0"),
        "no UTF-8": lambda: text + b"\xff\xfe\n",
        "one line": lambda: text + b"x" * 1_000_000 + b"\n",
        "other order": lambda: b"\n".join(reversed(text.split(b"\n"))),
    }
    kind = draw.choice(sorted(kinds))
    file.write_bytes(kinds[kind]())
    return kind


def change_weights(file: Path, draw: random.Random) -> str:
    weights = load_file(file)
    name = draw.choice(sorted(weights))
    kind = draw.choice(["gone", "renamed", "extra", "nan", "infinite", "shape", "int", "header"])
    if kind == "header":
        data = bytearray(file.read_bytes())
        (length,) = struct.unpack("<Q", data[:8])
        data[8 + draw.randrange(length)] ^= 1 << draw.randrange(7)
        file.write_bytes(data)
        return kind
    weight = weights.pop(name)
    changed = {
        "gone": {},
        "renamed": {name + "x": weight},
        "extra": {name: weight, "stranger": weight.clone()},
        "nan": {name: weight * float("nan")},
        "infinite": {name: weight + float("inf")},
        "shape": {name: torch.cat([weight, weight])},
        "int": {name: weight.to(torch.int32)},
    }
    save_file(weights | changed[kind], file, metadata={"format": "pt"})
    return f"{kind}: {name}"


def change_bytes(file: Path, draw: random.Random) -> str:
    kind = draw.choice(["cut", "empty", "missing", "folder", "junk"])
    data = file.read_bytes()
    file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind != "missing":
        file.write_bytes({"cut": data[: draw.randrange(len(data))], "empty": b"", "junk": draw.randbytes(1000)}[kind])
    return kind


def damage(folder: Path, draw: random.Random) -> str:
    name = draw.choice(FILES)
    change = {"vocab.txt": change_words, "model.safetensors": change_weights}.get(name, change_json)
    change = draw.choice([change, change, change_bytes])
    return f"{name} {change(folder / name, draw)}"


def commands(folder: Path, place: Path) -> dict[str, list[Any]]:
    text = place / "text.txt"
    text.write_text("The river bank was muddy .\n", encoding="utf-8")
    out = place / "out"
    return {
        "perplexity": ["perplexity", text, "--model", folder],
        "substitutes": ["substitutes", "The [river] bank", "--model", folder],
        "fit-initial-state": ["fit-initial-state", folder, text, "--output", out],
        "export": ["export", folder, out / "options.json", out / "weights.hdf5"],
        "pretrain": ["pretrain", folder, "--train", text, "--output", out, "--rows", 1, "--unroll-steps", 2,
                     "--max-steps", 1, "--learning-rate", 0, "--min-count", 1],
    }  # fmt: skip


def bilm_of(folder: Path) -> dict[str, torch.Tensor]:
    """Without the prefix that a language model gives them: an architecture that is not told makes a biLM of it."""
    weights = load_file(folder / "model.safetensors")
    parts = ("character_encoder.", "encoder.")
    names = {name: name.removeprefix("elmo.") for name in weights if "initial" not in name}
    return {names[name]: weights[name] for name in names if names[name].startswith(parts)}


@pytest.mark.parametrize("seed", range(MUTATIONS))
def test_a_damaged_folder_is_told_in_one_line_or_does_no_harm(seed: int, sound: Path, tmp_path: Path):
    draw = random.Random(seed)
    folder = tmp_path / "model"
    shutil.copytree(sound, folder)
    told = damage(folder, draw)
    for name, command in commands(folder, tmp_path).items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code, out, err = run(*command)
        place = tmp_path / "out"
        if code:
            assert code == 1, (told, name, err)
            lines = [line for line in err.splitlines() if line.startswith("elmo-hf: ")]
            assert len(lines) == 1, (told, name, err)
            assert len(lines[0]) <= 500, (told, name, err)
            assert "Traceback" not in err
            assert not place.exists() or not list(place.iterdir()), (told, name, list(place.iterdir()))
        else:
            assert "nan" not in out, (told, name)
            # Without weights, a folder is a configuration to begin with.
            if name == "fit-initial-state" or (name == "pretrain" and told != "model.safetensors missing"):
                # Every weight is one of the folder's.
                given, found = bilm_of(sound), bilm_of(place)
                assert found.keys() == given.keys()
                assert all(torch.equal(found[key], given[key]) for key in given), (told, name)
        shutil.rmtree(place, ignore_errors=True)


def test_a_mix_that_is_missing_is_not_made_up(tmp_path: Path):
    tiny_model(num_output_representations=2).save_pretrained(tmp_path / "model")
    (tmp_path / "text").write_text("muddy\n")
    file = tmp_path / "model" / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if name.startswith("scalar_mixes.1."))
    del weights[name]
    save_file(weights, file, metadata={"format": "pt"})
    code, _, err = run("fit-initial-state", tmp_path / "model", tmp_path / "text", "--output", tmp_path / "out")
    assert (code, err) == (
        1,
        f"elmo-hf: {tmp_path / 'model'}: `{name}` must be among the weights, was missing.\n",
    )
    assert not (tmp_path / "out").exists()


def test_the_sound_folder_passes_every_command(sound: Path, tmp_path: Path):
    for name, command in commands(sound, tmp_path).items():
        code, _, err = run(*command)
        assert code == 0, (name, err)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert isinstance(ElmoForPreTraining.from_pretrained(sound), ElmoForPreTraining)
    assert ElmoTokenizer.from_pretrained(sound).word_vocabulary


@pytest.mark.parametrize("name", ["max_characters_per_token", "cell_size", "projection_dim", "num_hidden_layers"])
def test_absurd_sizes_are_refused_before_anything_is_allocated(name: str, sound: Path, tmp_path: Path):
    shutil.copytree(sound, tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    for value in (2**31, 100 if name == "num_hidden_layers" else 900_000):
        file.write_text(json.dumps(json.loads(file.read_text()) | {name: value, "hidden_size": None}))
        code, _, err = run("perplexity", sound / "vocab.txt", "--model", tmp_path / "model")
        assert code == 1
        assert len(err) < 500
