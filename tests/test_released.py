"""Released checkpoints by name: the list, downloads from a server on this machine, cards, and publishing."""

import hashlib
import importlib.util
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch

from elmo_hf import Elmo, ElmoModel, batch_to_ids
from elmo_hf.checkpoints.conversion import Conversion, convert_checkpoint
from elmo_hf.checkpoints.formats import known_formats
from elmo_hf.checkpoints.model_card import model_card
from elmo_hf.downloads import cache_folder, download
from elmo_hf.released import Released, released
from tests.checkpoints.random_checkpoint import write_random_checkpoint
from tests.checkpoints.test_formats import ALLENNLP, FIXTURES, TENSORFLOW
from tests.test_cli import run
from tests.tiny import tiny_config

ROOT = Path(__file__).parent.parent


class Handler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if "broken" in self.path:
            self.send_error(500)
        elif "truncated" in self.path:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"x" * 1000)
        else:
            super().do_GET()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """Its address, and the folder that it serves; downloads are kept in a folder of the test."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("ELMO_HF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: Handler(*args, directory=str(folder))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}", folder
        http.shutdown()


def entry(name: str, monkeypatch: pytest.MonkeyPatch, **values: Any) -> Released:
    """One more released checkpoint, for the time of a test."""
    one = Released(**{"name": name, "title": "Tiny", "language": "en", "text": "nothing", "format": "hdf5",
                      "license": "apache-2.0", "source": "this test", "citation": "Nobody.", **values})  # fmt: skip
    entries = {**released(), name: one}
    monkeypatch.setattr("elmo_hf.released.released", lambda: entries)
    return one


# --- the list --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", released())
def test_every_released_checkpoint_passes_a_dry_run(name: str, tmp_path: Path):
    one = released()[name]
    assert one.format in known_formats()
    assert all((one.title, one.language, one.text, one.license, one.source, one.citation))
    assert one.license == "not stated" or one.license == "apache-2.0"
    assert bool(one.files) != bool(one.page)
    assert len(one.md5) in (0, len(one.files))
    for address in one.files or (one.page,):
        parts = urlsplit(address)
        assert parts.scheme in ("http", "https")
        assert parts.hostname
        assert parts.path.rpartition("/")[2] or not one.files
    names = [urlsplit(address).path.rpartition("/")[2] for address in one.files]
    assert len(set(names)) == len(names)
    # What a format needs is among the files, or they are an archive.
    wanted = {"hdf5": (".json", ".hdf5"), "tensorflow": (".json", ".index", "00000-of-00001")}.get(one.format, ())
    if len(names) > 1:
        assert all(any(file.endswith(ending) for file in names) for ending in wanted)
    elif names:
        assert names[0].endswith((".zip", ".tar.gz", ".tar.bz2"))
    config = tiny_config()
    card = model_card(Conversion(tmp_path, config, "x", 1, 1, {"a": "b"}, 1e-7, [], one), one.hub_license, "org/x", 4)
    assert all(text in card for text in (one.title, one.text, one.citation, '"org/x"', "## Licence"))
    assert ("license: apache-2.0" in card.partition("---\n\n")[0]) == (one.license == "apache-2.0")
    assert "pip install" not in card


def test_the_command_lists_them_and_tells_all_of_one():
    code, out, _ = run("released")
    assert code == 0
    assert len(out.splitlines()) == len(released()) + 1
    assert "russian-wiki" in out
    code, out, _ = run("released", "russian-wiki")
    assert code == 0
    assert "apache-2.0" in out
    code, _, err = run("released", "russian-wikis")
    assert (code, "russian-wiki" in err) == (1, True)


def test_a_name_that_is_none_is_told_with_those_that_are_like_it(tmp_path: Path):
    code, _, err = run("convert", "rusian-wiki", tmp_path / "out")
    assert code == 1
    assert "must be a folder, a file or a name of `elmo-hf released` (russian-wiki" in err


def test_what_can_only_be_had_by_hand_says_where(tmp_path: Path):
    code, _, err = run("convert", "english-bioelmo", tmp_path / "out")
    assert code == 1
    assert "must be downloaded by hand, from https://github.com/Andy-jqa/bioelmo. On Google Drive" in err


# --- downloads -------------------------------------------------------------------------------------------------------


def test_a_file_is_downloaded_once(server: tuple[str, Path]):
    address, folder = server
    (folder / "file.bin").write_bytes(b"content")
    path = download(f"{address}/file.bin")
    assert (path.name, path.read_bytes()) == ("file.bin", b"content")
    (folder / "file.bin").unlink()
    assert download(f"{address}/file.bin") == path


# The requests of older versions of huggingface_hub leaves the socket of a broken connection to the collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.bin", "could not be downloaded: .*404"),
        ("broken.bin", "could not be downloaded: .*500"),
        ("truncated.bin", "could not be downloaded: "),
    ],
)
def test_a_server_that_fails_leaves_nothing(server: tuple[str, Path], path: str, message: str, tmp_path: Path):
    code, _, err = run("convert", f"{server[0]}/{path}", tmp_path / "out")
    assert code == 1
    lines = [line for line in err.splitlines() if line.startswith("elmo-hf: ")]
    assert len(lines) == 1
    assert f"{server[0]}/{path}: could not be downloaded: " in lines[0]
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert not (tmp_path / "out").exists()
    with pytest.raises(OSError, match=message):
        download(f"{server[0]}/{path}")


def test_no_server_and_a_full_disk_are_told(server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(OSError, match=r"http://127.0.0.1:9/x: could not be downloaded: "):
        download("http://127.0.0.1:9/x")

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(OSError, match="No space left on device"):
        download(f"{server[0]}/file")
    assert not [file for file in cache_folder().rglob("*") if file.is_file()]


def test_another_file_than_its_publisher_tells_of_is_refused(server: tuple[str, Path]):
    address, folder = server
    (folder / "file").write_bytes(b"content")
    with pytest.raises(
        ValueError, match="must have the md5 abc that its publisher tells, had 9a0364b9e99bb480dd25e1f0"
    ):
        download(f"{address}/file", md5="abc")
    assert not [file for file in cache_folder().rglob("*") if file.is_file()]
    right = hashlib.md5(b"content", usedforsecurity=False).hexdigest()
    assert download(f"{address}/file", md5=right).read_bytes() == b"content"


# --- by name ---------------------------------------------------------------------------------------------------------


def test_an_archive_is_converted_by_its_name(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    address, folder = server
    shutil.copy(FIXTURES / "tfhub" / "elmo_ru-tiny.tar.gz", folder / "elmo_ru.tar.gz")
    one = entry("tiny-russian", monkeypatch, format="tfhub", files=(f"{address}/elmo_ru.tar.gz",), rights="As stated.")
    code, out, err = run("convert", "tiny-russian", tmp_path / "out")
    assert code == 0, err
    assert "elmo_ru.tar.gz" in out
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "license: apache-2.0" in card
    assert f"<{one.files[0]}>" in card
    digest = hashlib.sha256((folder / "elmo_ru.tar.gz").read_bytes()).hexdigest()
    assert digest in card


def test_several_files_are_converted_by_their_name(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    address, folder = server
    names = ["options.json", "vocab.txt", "model.ckpt-300.index", "model.ckpt-300.data-00000-of-00001"]
    for name in names:
        shutil.copy(TENSORFLOW / "plain" / name, folder / name)
    entry("tiny", monkeypatch, format="tensorflow", files=tuple(f"{address}/{name}" for name in names))
    made = convert_checkpoint("tiny", tmp_path / "out")
    assert made.config.word_vocab_size == 57
    assert made.sha256.keys() == set(names)


def test_elmo_takes_addresses_as_in_every_tutorial(server: tuple[str, Path]):
    address, folder = server
    options, weights = write_random_checkpoint(folder)
    ids = batch_to_ids([["The", "bank"]])
    elmo = Elmo(f"{address}/options.json", f"{address}/weights.hdf5", 2, dropout=0.0)
    expected = Elmo(options, weights, 2, dropout=0.0)
    for given, right in zip(elmo(ids)["elmo_representations"], expected(ids)["elmo_representations"], strict=True):
        assert torch.equal(given, right)


def test_elmo_loads_a_state_dict_of_allennlp(tmp_path: Path):
    options = json.loads((TENSORFLOW / "plain" / "options.json").read_text())
    (tmp_path / "options.json").write_text(json.dumps(options))
    made = convert_checkpoint(TENSORFLOW / "plain", tmp_path / "plain", verify=False)
    from elmo_hf.checkpoints.conversion import export_checkpoint

    export_checkpoint(made.folder, tmp_path / "o.json", tmp_path / "w.hdf5")
    state = torch.load(ALLENNLP / "state_dict_two_mixes" / "elmo_state_dict.th", weights_only=True)
    elmo = Elmo(tmp_path / "o.json", tmp_path / "w.hdf5", 2, dropout=0.0)
    elmo.load_state_dict(state)
    convert_checkpoint(ALLENNLP / "state_dict_two_mixes" / "elmo_state_dict.th", tmp_path / "out", verify=False)
    expected = ElmoModel.from_pretrained(tmp_path / "out").eval()(batch_to_ids([["The", "bank"]]))
    given = elmo(batch_to_ids([["The", "bank"]]))["elmo_representations"]
    for one, other in zip(given, expected.elmo_representations, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    # Its own, too.
    elmo.load_state_dict(elmo.state_dict())


@pytest.mark.parametrize("name", ["options.json", "model.ckpt-300.index"])
def test_from_pretrained_says_how_to_convert(name: str, tmp_path: Path):
    if name == "options.json":
        write_random_checkpoint(tmp_path)
    else:
        shutil.copy(TENSORFLOW / "plain" / name, tmp_path)
    with pytest.raises(OSError, match=f"`elmo-hf convert {tmp_path} OUT_DIR` makes a folder of it"):
        ElmoModel.from_pretrained(tmp_path)


# --- publishing ------------------------------------------------------------------------------------------------------


class FakeApi:
    """The Hub, kept in a list."""

    def __init__(self, broken: bool = False):
        self.pushed: list[tuple[str, list[str]]] = []
        self.broken = broken

    def create_repo(self, repo_id: str, exist_ok: bool) -> None:
        assert exist_ok

    def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> str:
        if self.broken:
            raise ConnectionError("no Hub")
        self.pushed.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))
        return f"https://huggingface.co/{repo_id}/commit/1"


@pytest.fixture
def publishing() -> Any:
    spec = importlib.util.spec_from_file_location("publish", ROOT / "conversion" / "publish.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["publish"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["publish"]


def test_publishing_converts_pushes_and_resumes(
    publishing: Any, server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    address, folder = server
    shutil.copy(FIXTURES / "tfhub" / "elmo_ru-tiny.tar.gz", folder / "elmo_ru.tar.gz")
    entry("tiny-russian", monkeypatch, format="tfhub", files=(f"{address}/elmo_ru.tar.gz",))
    monkeypatch.setattr(publishing, "released", sys.modules["elmo_hf.released"].released)
    work = tmp_path / "work"
    with pytest.raises(ConnectionError):
        publishing.publish("tiny-russian", "someone", work, True, FakeApi(broken=True))
    api = FakeApi()
    result = publishing.publish("tiny-russian", "someone", work, True, api)
    # The conversion was kept.
    assert result.conversion is None
    ((repo_id, names),) = api.pushed
    assert repo_id == "someone/elmo-tiny-russian"
    assert {"README.md", "config.json", "model.safetensors", "modeling_elmo.py"} <= set(names)
    assert '"someone/elmo-tiny-russian"' in (work / "tiny-russian" / "README.md").read_text(encoding="utf-8")
    assert publishing.publish("tiny-russian", "someone", work, True, api).url is None
    assert len(api.pushed) == 1
    with pytest.raises(ValueError, match="must be a name of `elmo-hf released`"):
        publishing.publish("nothing", "someone", work, False)
