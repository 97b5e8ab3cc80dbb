"""Files and folders that are complete or absent: races, kills, leftovers, permissions and odd places."""

# What raises is often the end of a block.
# ruff: noqa: PT012

import errno
import json
import multiprocessing
import os
import random
import signal
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from elmo_hf.files import (
    atomic_file,
    atomic_files,
    atomic_folder,
    check_readable,
    is_elmo_folder,
    signals_as_exceptions,
)

FORK = multiprocessing.get_context("fork")
NAMES = [
    "plain",
    "with space",
    "-dash",
    "line\nbreak",
    "東京 Größe",
    "a" * 255,
    "ü" * 127,
    "%s{}$HOME",
    "a.b.12345678",
]


def make(target: Path, text: str = "new", **options: bool) -> None:
    """A folder with one file and the config.json of an ELMo."""
    with atomic_folder(target, **options) as folder:
        (folder / "text").write_text(text)
        (folder / "config.json").write_text(json.dumps({"model_type": "elmo"}))


def content(target: Path) -> str:
    return (target / "text").read_text()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_any_name_will_do(tmp_path: Path, name: str):
    make(tmp_path / name)
    make(tmp_path / name, "newer", overwrite=True)
    assert content(tmp_path / name) == "newer"
    with atomic_file(tmp_path / "below" / name) as file:
        file.write_text("x")
    assert (tmp_path / "below" / name).read_text() == "x"
    assert names(tmp_path) == sorted([name, "below"])
    assert names(tmp_path / "below") == [name]


def test_an_exception_leaves_what_was_there(tmp_path: Path):
    make(tmp_path / "folder")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "folder", overwrite=True) as folder:
        (folder / "text").write_text("half")
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "deep" / "file") as file:
        file.write_text("half")
        raise ZeroDivisionError
    assert content(tmp_path / "folder") == "new"
    assert names(tmp_path) == ["folder"]


def test_what_is_there_is_replaced_only_when_asked_and_only_an_elmo(tmp_path: Path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "diary").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for target in ("other", "file"):
        for overwrite in (None, False, True):
            with pytest.raises(FileExistsError):
                make(tmp_path / target, overwrite=overwrite)
    with pytest.raises(FileExistsError, match="must be a file, was a folder"), atomic_file(tmp_path, overwrite=True):
        pass
    with pytest.raises(FileExistsError, match="must be a new file"), atomic_file(tmp_path / "file"):
        pass
    assert names(tmp_path / "other") == ["diary"]
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")
    assert is_elmo_folder(tmp_path / "empty")


@pytest.mark.parametrize("overwrite", [None, True])
def test_what_appears_meanwhile_is_not_deleted(tmp_path: Path, overwrite: bool | None):
    with pytest.raises(FileExistsError), atomic_folder(tmp_path / "folder", overwrite=overwrite):
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "diary").write_text("mine")
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["diary"]
    with pytest.raises(FileExistsError), atomic_file(tmp_path / "file") as file:
        file.write_text("new")
        (tmp_path / "file").write_text("mine")
    assert (tmp_path / "file").read_text() == "mine"


def _race(target: Path, number: int, overwrite: bool, start: object, results: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    try:
        make(target, str(number), overwrite=overwrite)
        results.put((number, "ok"))  # type: ignore[attr-defined]
    except FileExistsError as error:
        results.put((number, str(error)))  # type: ignore[attr-defined]


@pytest.mark.parametrize("overwrite", [False, True])
def test_of_eight_at_once_one_wins_and_the_others_say_so(tmp_path: Path, overwrite: bool):
    for turn in range(5):
        target, results, start = tmp_path / f"folder{turn}", FORK.Queue(), FORK.Barrier(8)
        processes = [FORK.Process(target=_race, args=(target, n, overwrite, start, results)) for n in range(8)]
        for process in processes:
            process.start()
        found = dict(results.get(timeout=30) for _ in processes)
        for process in processes:
            process.join()
        winners = [number for number, message in found.items() if message == "ok"]
        assert int(content(target)) in winners
        if not overwrite:
            assert len(winners) == 1
            assert all("was there already" in message for message in found.values() if message != "ok")
    assert names(tmp_path) == [f"folder{turn}" for turn in range(5)]


def _die(target: Path, moment: str) -> None:
    if moment == "between the moves":
        rename = os.rename

        def last(one: Path, two: Path) -> None:
            rename(one, two)
            if Path(two).suffix == ".old":
                os.kill(os.getpid(), signal.SIGKILL)

        os.rename = last
        make(target, "never", overwrite=True)
    context = atomic_file(target) if moment == "file" else atomic_folder(target, overwrite=True)
    with context as new:
        if moment == "file":
            new.write_text("half")
        else:
            (new / "text").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def died(target: Path, moment: str) -> None:
    process = FORK.Process(target=_die, args=(target, moment))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_the_next_one_removes_what_a_killed_one_left(tmp_path: Path):
    make(tmp_path / "folder", "old")
    died(tmp_path / "folder", "folder")
    died(tmp_path / "file", "file")
    assert len(names(tmp_path)) == 5
    # Another target's next one does not.
    make(tmp_path / "other")
    assert len(names(tmp_path)) == 6
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "folder", overwrite=True):
        raise ZeroDivisionError
    with atomic_file(tmp_path / "file") as file:
        file.write_text("whole")
    assert names(tmp_path) == ["file", "folder", "other"]
    assert content(tmp_path / "folder") == "old"


def test_one_killed_between_both_moves_loses_nothing(tmp_path: Path):
    make(tmp_path / "folder", "old")
    died(tmp_path / "folder", "between the moves")
    assert not (tmp_path / "folder").exists()
    with pytest.raises(FileExistsError):
        make(tmp_path / "folder")
    assert content(tmp_path / "folder") == "old"
    assert names(tmp_path) == ["folder"]


def _write_pair(folder: Path, die: bool) -> None:
    with atomic_files([folder / "one", folder / "two"]) as pair:
        for path in pair:
            path.write_text(path.name)
        link, done = os.link, []

        def last(source: Path, target: Path) -> None:
            if done:
                if die:
                    os.kill(os.getpid(), signal.SIGKILL)
                raise OSError(errno.ENOSPC, "No space left on device")
            done.append(link(source, target))

        os.link = last
        os.rename = last


def test_of_two_files_that_belong_together_none_comes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "link", os.link)
    monkeypatch.setattr(os, "rename", os.rename)
    with pytest.raises(OSError, match="No space left"):
        _write_pair(tmp_path / "folder", die=False)
    assert names(tmp_path) == []
    monkeypatch.undo()
    process = FORK.Process(target=_write_pair, args=(tmp_path / "folder", True))
    process.start()
    process.join()
    assert "one" in names(tmp_path / "folder")
    with atomic_files([tmp_path / "folder" / "one", tmp_path / "folder" / "two"]) as pair:
        for path in pair:
            path.write_text("whole")
    assert names(tmp_path / "folder") == ["one", "two"]


def test_what_is_left_below_a_folder_that_was_new_is_found(tmp_path: Path):
    target = tmp_path / "new" / "below" / "folder"
    died(target, "folder")
    make(target)
    assert names(tmp_path) == ["new"]
    assert names(target.parent) == ["folder"]


def test_a_folder_of_another_kind_is_removed_as_well(tmp_path: Path):
    target, old = tmp_path / "folder", tmp_path / ".folder.12345678.old"
    make(target)
    old.mkdir()
    (old / "ours").touch()
    old.with_suffix(".lock").touch()
    with pytest.raises(FileExistsError):
        make(target)
    assert names(tmp_path) == [old.with_suffix(".lock").name, old.name, "folder"]
    with pytest.raises(FileExistsError), atomic_folder(target, may_replace=lambda folder: (folder / "ours").exists()):
        pass
    with atomic_folder(target, overwrite=True, may_replace=lambda folder: True):
        pass
    assert names(tmp_path) == ["folder"]


def test_what_may_not_be_read_is_neither_missing_nor_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="must be a file, was missing"):
        check_readable(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="must be a file, was missing"):
        check_readable(tmp_path / "file" / "below")
    with pytest.raises(ValueError, match="must be a file, was something else"):
        check_readable(tmp_path)
    with pytest.raises(ValueError, match="was no name of one"):
        check_readable("a\0b")

    def refuse(*args: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "name")

    # Whoever runs this may read everything.
    for call in ("open", "stat"):
        with monkeypatch.context() as patch, pytest.raises(PermissionError) as told:
            patch.setattr(os, call, refuse)
            check_readable(tmp_path / "file")
        assert str(told.value) == f"{tmp_path / 'file'}: could not be read: Permission denied."


def test_what_one_that_lives_is_making_stays(tmp_path: Path):
    with atomic_folder(tmp_path / "folder") as mine:
        (mine / "text").write_text("mine")
        with atomic_folder(tmp_path / "folder") as other:
            (other / "text").write_text("other")
        assert content(mine) == "mine"
        (tmp_path / "folder" / "text").unlink()
    assert content(tmp_path / "folder") == "mine"
    assert names(tmp_path) == ["folder"]


def test_permissions_are_those_of_new_files(tmp_path: Path):
    before = os.umask(0o027)
    try:
        with atomic_folder(tmp_path / "folder") as folder:
            (folder / "secret").touch(0o600)
            (folder / "script").touch(0o700)
        with atomic_file(tmp_path / "file") as file:
            file.touch()
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {"folder": 0o750, "secret": 0o640, "script": 0o740, "file": 0o640}


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path):
    make(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("elsewhere")
    make(tmp_path / "link", "new", overwrite=True)
    make(tmp_path / "dangling")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "real") == content(tmp_path / "elsewhere") == "new"


def test_places_that_cannot_be_written_are_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="must be a folder to hold folder, was a file"):
        make(tmp_path / "file" / "folder")

    def refuse(*args: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", "name")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError) as told:
        make(tmp_path / "folder")
    assert str(told.value) == f"{tmp_path / 'folder'}: could not be written: Permission denied."
    assert names(tmp_path) == ["file"]


def test_a_full_disk_leaves_nothing(tmp_path: Path):
    for context in (atomic_file, atomic_folder):
        with pytest.raises(OSError, match="No space left"), context(tmp_path / "target"):
            raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_clean_up(tmp_path: Path, name: str):
    number = getattr(signal, name)
    with pytest.raises(SystemExit) as ended, atomic_folder(tmp_path / "folder") as folder:
        (folder / "text").write_text("half")
        signal.raise_signal(number)
    assert ended.value.code == 128 + number
    assert names(tmp_path) == []
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_signal_while_a_thread_starts_waits_until_it_has_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # In between, an executor has a thread that it does not know of yet, and that nothing would ever end.
    start, seen = threading.Thread.start, []

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        if not seen:
            seen.append(thread)
            signal.raise_signal(signal.SIGTERM)

    # By the name that the frame of the standard library has.
    interrupted.__code__ = interrupted.__code__.replace(co_name="start", co_filename=threading.__file__)
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with ThreadPoolExecutor(1) as executor, pytest.raises(SystemExit), signals_as_exceptions():
        assert executor.submit(int, "7").result() == 7
        time.sleep(5)
    assert seen
    assert not seen[0].is_alive()


def test_handlers_of_others_stay():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_as_exceptions():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_threads_may_write_at_once(tmp_path: Path):
    threads = [threading.Thread(target=make, args=(tmp_path / str(n),)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert names(tmp_path) == sorted(map(str, range(16)))


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elmo_hf.files.fcntl", None)


def without_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.parametrize("system", [without_locks, without_links])
def test_a_system_that_has_less_does_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: Callable[[pytest.MonkeyPatch], None]
):
    system(monkeypatch)
    make(tmp_path / "folder")
    make(tmp_path / "folder", "newer", overwrite=True)
    with atomic_file(tmp_path / "file") as file:
        file.write_text("x")
    with pytest.raises(FileExistsError), atomic_file(tmp_path / "file"):
        pass
    assert content(tmp_path / "folder") == "newer"
    assert names(tmp_path) == ["file", "folder"]


def _write_slowly(target: Path) -> None:
    with atomic_folder(target, overwrite=True) as folder:
        for number in range(200):
            (folder / str(number)).write_text("x" * 1000)
            time.sleep(0.0002)
        (folder / "config.json").write_text('{"model_type": "elmo"}')


def test_a_process_killed_at_any_moment_leaves_a_whole_folder_or_none(tmp_path: Path):
    draw = random.Random(0)
    for _ in range(int(os.environ.get("ELMO_HF_KILLS", "12"))):
        process = FORK.Process(target=_write_slowly, args=(tmp_path / "folder",))
        process.start()
        time.sleep(draw.uniform(0, 0.2))
        os.kill(process.pid or 0, draw.choice([signal.SIGTERM, signal.SIGHUP, signal.SIGKILL]))
        process.join()
        if (tmp_path / "folder").exists():
            assert len(names(tmp_path / "folder")) == 201
    make(tmp_path / "folder", overwrite=True)
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("step", range(1, 5))
def test_a_signal_between_any_two_moves_leaves_one_whole_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
):
    make(tmp_path / "folder", "old")
    moves = 0
    rename = os.rename

    def rename_and_stop(source: Path, target: Path) -> None:
        nonlocal moves
        try:
            rename(source, target)
        finally:
            moves += 1
            if moves == step:
                raise SystemExit(143)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(os, "rename", rename_and_stop)
        make(tmp_path / "folder", overwrite=True)
    # The first move fails, for the old one stands there; the second puts it aside; the third brings the new one.
    assert content(tmp_path / "folder") == ("old" if step < 3 else "new")
    assert names(tmp_path) == ["folder"]
