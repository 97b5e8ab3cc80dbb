"""
Damaged files of every format: a right result or one clear line, no crash, nothing executed, no giant allocation, and
nothing written outside of the target. `ELMO_HF_MUTATIONS` sets how many there are of each kind.
"""

import io
import json
import os
import random
import resource
import shutil
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from elmo_hf.checkpoints.conversion import convert_checkpoint
from tests.checkpoints.test_formats import ALLENNLP, FIXTURES, MANY_LANGS, TENSORFLOW
from tests.interpreter import Interpreter

MUTATIONS = int(os.environ.get("ELMO_HF_MUTATIONS", "24"))


def change_bytes(content: bytes, draw: random.Random) -> bytes:
    """Some bytes changed, cut off, doubled or moved."""
    kind = draw.randrange(8)
    place = draw.randrange(len(content))
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + content[place + draw.randrange(1, 64) :]
    if kind == 2:
        return content[:place] + content[max(0, place - 20) :]
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 8])):
        at = draw.randrange(len(changed))
        changed[at] = draw.choice([0, 255, 127, draw.randrange(256), changed[at] ^ (1 << draw.randrange(8))])
    return bytes(changed)


def change_json(content: bytes, draw: random.Random) -> bytes:
    """A value of a JSON file replaced, at any depth."""
    values = json.loads(content)
    target = values
    while True:
        key = draw.choice(sorted(target)) if isinstance(target, dict) else draw.randrange(len(target))
        if isinstance(target[key], dict | list) and target[key] and draw.random() < 0.8:
            target = target[key]
            continue
        choices = [None, True, -1, 0, 2**40, 1e308, "x", "../../x", [], {}, [[[]]], [1, 2**40]]
        if draw.random() < 0.2 and isinstance(target, dict):
            del target[key]
        else:
            target[key] = draw.choice(choices)
        return json.dumps(values).encode()


def change_lines(content: bytes, draw: random.Random) -> bytes:
    """Lines of a vocabulary or a lexicon."""
    lines = content.split(b"\n")
    at = draw.randrange(len(lines))
    kinds: list[Callable[[], list[bytes]]] = [
        lambda: lines[:at],
        lambda: [*lines, lines[at]],
        lambda: [*lines[:at], b"\xff\xfe", *lines[at:]],
        lambda: [*lines[:at], b"a\t" + str(2 ** draw.randrange(70)).encode(), *lines[at:]],
        lambda: [*lines[:at], b"\t\t\t", *lines[at:]],
        lambda: lines[::-1],
        lambda: [*lines[:at], *lines[at + 1 :]],
        lambda: [b"x" * 1_000_000],
    ]
    return b"\n".join(draw.choice(kinds)())


CHANGES = {
    ".json": change_json,
    ".txt": change_lines,
    ".dic": change_lines,
}


def given(kind: str, folder: Path) -> list[Path]:
    """A sound checkpoint in `folder`, and the files of it to damage."""
    if kind in ("tensorflow", "zip"):
        shutil.copytree(TENSORFLOW / "plain", folder / "checkpoint")
        (folder / "checkpoint" / "expected.npz").unlink()
        if kind == "zip":
            files = sorted((folder / "checkpoint").iterdir())
            with zipfile.ZipFile(folder / "checkpoint.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                for path in files:
                    archive.write(path, path.name)
            shutil.rmtree(folder / "checkpoint")
            return [folder / "checkpoint.zip"]
    elif kind == "tfhub":
        shutil.copy(FIXTURES / "tfhub" / "elmo_ru-tiny.tar.gz", folder / "checkpoint.tar.gz")
        # Packed, every change of a byte is found by the unpacker.
        with tarfile.open(folder / "checkpoint.tar.gz") as archive:
            content = {member.name: archive.extractfile(member).read() for member in archive if member.isreg()}  # type: ignore[union-attr]
        with tarfile.open(folder / "checkpoint.tar", "w") as archive:
            for name, data in content.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        (folder / "checkpoint.tar.gz").unlink()
        return [folder / "checkpoint.tar"]
    elif kind == "allennlp":
        (folder / "checkpoint").mkdir()
        with tarfile.open(ALLENNLP / "tagger_options_inside" / "model.tar.gz") as archive:
            archive.extractall(folder / "checkpoint", filter="data")
    elif kind == "pickle":
        shutil.copy(ALLENNLP / "state_dict_two_mixes" / "elmo_state_dict.th", folder / "weights.th")
    else:
        shutil.copytree(MANY_LANGS / "char_and_word", folder / "checkpoint")
        (folder / "checkpoint" / "expected.npz").unlink()
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "checkpoint")


KINDS = ["tensorflow", "zip", "tfhub", "allennlp", "pickle", "many-langs"]


def convert_damaged(kind: str, folder: Path, number: int):
    """For a process of its own: prints the outcome of each mutation, a line each."""
    warnings.simplefilter("ignore")
    # Above what Python and torch need: a giant allocation ends in a MemoryError, which no message would tell.
    resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))
    for seed in range(number):
        draw = random.Random(f"{kind} {seed}")
        place = folder / str(seed)
        place.mkdir()
        file = draw.choice(given(kind, place))
        change = CHANGES.get(file.suffix, change_bytes) if draw.random() < 0.8 else change_bytes
        file.write_bytes(change(file.read_bytes(), draw))
        before = sorted(path for path in folder.rglob("*"))
        (start,) = place.iterdir()
        outcome = "converted"
        try:
            convert_checkpoint(start, place / "out")
        except (ValueError, TypeError, OSError) as error:
            message = str(error)
            if "\n" in message or len(message) > 600:
                raise AssertionError(f"{seed}: not one clear line: {message!r}") from error
            outcome = "refused"
            assert sorted(path for path in folder.rglob("*")) == before, seed
        except Exception as error:
            raise AssertionError(f"{seed}: {file}") from error
        print(outcome, flush=True)
        shutil.rmtree(place)


CONVERT_DAMAGED = """
import sys
from pathlib import Path
from tests.checkpoints.test_fuzz_formats import convert_damaged
convert_damaged(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
"""


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_checkpoints_are_converted_right_or_told_in_one_line(
    kind: str, interpreter: Interpreter, tmp_path: Path
):
    (tmp_path / "work").mkdir()
    done = interpreter.run(CONVERT_DAMAGED, kind, tmp_path / "work", str(MUTATIONS))
    outcomes = done.stdout.split()
    assert (done.returncode, len(outcomes)) == (0, MUTATIONS), done.stderr[-3000:]
    assert "refused" in outcomes
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


# --- archives that attack --------------------------------------------------------------------------------------------


def zip_of(path: Path, *entries: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def test_names_that_lead_out_of_an_archive_are_names(tmp_path: Path):
    (tmp_path / "work").mkdir()
    path = zip_of(tmp_path / "work" / "evil.zip", ("../../evil", b"x"), ("/tmp/elmo_hf_evil", b"x"))
    with pytest.raises(ValueError, match="must hold a checkpoint of a biLM"):
        convert_checkpoint(path, tmp_path / "work" / "out")
    assert not (tmp_path / "evil").exists()
    assert not Path("/tmp/elmo_hf_evil").exists()


def test_links_and_devices_in_a_tar_are_not_followed(tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("{}")
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        for name, kind in (
            ("weights.th", tarfile.SYMTYPE),
            ("encoder.pkl", tarfile.LNKTYPE),
            ("x.h5", tarfile.FIFOTYPE),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, str(secret)
            archive.addfile(entry)
    with pytest.raises(ValueError, match=r"must hold a checkpoint of a biLM: .* has no files"):
        convert_checkpoint(tmp_path / "evil.tar", tmp_path / "out")


def test_a_bomb_is_not_unpacked(tmp_path: Path):
    path = zip_of(tmp_path / "bomb.zip", ("options.json", b" " * 100_000_000), ("weights.hdf5", b"\x89HDF\r\n\x1a\n"))
    with pytest.raises(ValueError, match=r"options.json: must be at most 1048576 bytes long, was: 100000000"):
        convert_checkpoint(path, tmp_path / "out")
    content = bytearray(path.read_bytes())
    # The directory says that the file unpacks to 4 GB.
    at = content.rindex(b"PK\x01\x02", 0, content.rindex(b"PK\x01\x02"))
    content[at + 24 : at + 28] = (2**32 - 2).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"options\.json must be as large as it says, was: 4294967294 bytes in"):
        convert_checkpoint(path, tmp_path / "out")


def test_a_tensor_that_claims_more_than_its_file_is_refused(tmp_path: Path):
    import torch

    table = torch.zeros(1).expand(1 << 40, 4)
    torch.save({"_token_embedder._char_embedding_weights": table}, tmp_path / "weights.th")
    with pytest.raises(ValueError, match="must be in the file, has 4398046511104 numbers"):
        convert_checkpoint(tmp_path / "weights.th", tmp_path / "out")
