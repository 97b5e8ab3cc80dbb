"""
Files and folders that are complete or absent, whatever interrupts their making.

Each is made beside its target under a name of its own, `.NAME.HEX.partial`, and moved when it is complete. The lock
file beside it, `.NAME.HEX.lock`, tells the next one who writes there whether its maker still lives, so that what a
killed process left behind is removed. Where a system has no file locks (some network drives), leftovers stay.
"""

import _thread
import errno
import hashlib
import json
import os
import shutil
import signal
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

# Windows has none, but does not remove a file that is open.
fcntl: Any = import_module("fcntl") if find_spec("fcntl") else None

PathLike = str | os.PathLike[str]

# Bytes of a name that most file systems allow, and what is added to it here.
_LONGEST_NAME, _ADDED = 255, len(".") + len(".12345678.partial")
_SIGNALS = ("SIGTERM", "SIGHUP")


@contextmanager
def atomic_file(path: PathLike, *, overwrite: bool | None = None) -> Iterator[Path]:
    """
    A path for a new file, which is moved to `path` when the block ends well and removed when it does not.

    Folders above it are made. A link is followed.

    Raises:
        FileExistsError: `path` is there and `overwrite` is false, or it is no file.
    """
    with atomic_files([path], overwrite=overwrite) as (temporary,):
        yield temporary


@contextmanager
def atomic_files(paths: Sequence[PathLike], *, overwrite: bool | None = None) -> Iterator[list[Path]]:
    """
    As [`atomic_file`] for files that belong together: all of them get into their places, or none.

    A process that is killed between two moves leaves those that it has moved, and the next one that writes there
    removes them; where it was to replace others, the new ones stay.
    """
    targets = [Path(os.path.realpath(path)) for path in paths]
    for target in targets:
        _remove_leftovers(target, is_elmo_folder)
    for target in targets:
        check_new_file(target, overwrite)
    with ExitStack() as stack:
        temporaries = [stack.enter_context(_working_place(target)) for target in targets]
        yield temporaries
        for target in targets:
            check_new_file(target, overwrite)
        moved: list[Path] = []
        try:
            for temporary, target in zip(temporaries, targets, strict=True):
                if overwrite:
                    os.replace(temporary, target)
                else:
                    _move_file_to_a_free_place(temporary, target, overwrite)
                    moved.append(target)
        except BaseException:
            for target in moved:
                target.unlink()
            raise


@contextmanager
def atomic_folder(
    path: PathLike, *, overwrite: bool | None = None, may_replace: Callable[[Path], bool] | None = None
) -> Iterator[Path]:
    """
    A new folder, which is moved to `path` when the block ends well and removed when it does not.

    Folders above it are made. A link is followed. Its files get the permissions that new files get.

    Args:
        path: the target, absent or an empty folder, unless `overwrite`.
        overwrite: whether a folder that is there is replaced; `None` where the caller has no such choice.
        may_replace: called with the folder to be replaced, says whether it may be; [`is_elmo_folder`] by default.

    Raises:
        FileExistsError: `path` is there and not to be replaced, or was made by another process meanwhile.
    """
    target = Path(os.path.realpath(path))
    may_replace = may_replace or is_elmo_folder
    _remove_leftovers(target, may_replace)
    _check_folder(target, overwrite, may_replace)
    with _working_place(target) as temporary:
        temporary.mkdir()
        yield temporary
        _give_usual_permissions(temporary)
        _exchange(temporary, target, overwrite, may_replace)


def is_elmo_folder(folder: Path) -> bool:
    """Whether a folder holds the config.json of an ELMo."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"] == "elmo"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_readable(path: PathLike, what: str = "a file"):
    """
    Raises:
        FileNotFoundError: there is nothing.
        OSError: it could not be read; [`PermissionError`] where it, or a folder above it, may not be.
        ValueError: it is no file.
    """
    try:
        is_file = stat.S_ISREG(os.stat(path).st_mode)
        if is_file:
            os.close(os.open(path, os.O_RDONLY))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path}: must be {what}, was missing.") from None
    except OSError as error:
        raise type(error)(f"{path}: could not be read: {error.strerror}.") from None
    except ValueError as error:
        raise ValueError(f"{path!r}: must be {what}, was no name of one: {error}.") from None
    if not is_file:
        raise ValueError(f"{path}: must be {what}, was something else.")


def check_model_folder(folder: PathLike):
    """
    Raises:
        FileNotFoundError: there is no config.json; other errors as [`check_readable`].
    """
    try:
        check_readable(Path(folder, "config.json"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder}: must be a folder with config.json, was not.") from None


def check_new_file(path: PathLike, overwrite: bool | None):
    """
    Raises:
        FileExistsError: something is there, and `overwrite` is false or it is a folder.
    """
    target = Path(path)
    if target.is_dir():
        raise FileExistsError(f"{target}: must be a file, was a folder.")
    if os.path.lexists(target) and not overwrite:
        raise FileExistsError(f"{target}: must be a new file, was there already.{_hint(overwrite)}")


def _check_folder(target: Path, overwrite: bool | None, may_replace: Callable[[Path], bool]):
    try:
        if target.is_dir() and not any(target.iterdir()):
            return
    except FileNotFoundError:
        # Another process has just moved it away.
        return
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise _taken(target, overwrite)
    if not may_replace(target):
        raise _not_ours(target)


class _Taken(FileExistsError):
    """Something else stands in the place of a new folder."""


def _taken(target: Path, overwrite: bool | None) -> _Taken:
    return _Taken(f"{target}: must be a new or empty folder, was there already.{_hint(overwrite)}")


def _hint(overwrite: bool | None) -> str:
    return "" if overwrite is None else " `overwrite` replaces it."


def _not_ours(target: Path) -> FileExistsError:
    return FileExistsError(f"{target}: must be an ELMo folder to be overwritten, was something else.")


def _move_file_to_a_free_place(temporary: Path, target: Path, overwrite: bool | None):
    try:
        # Unlike a move, a link does not replace what has appeared meanwhile.
        os.link(temporary, target)
    except FileExistsError:
        check_new_file(target, overwrite)
        raise
    except (OSError, NotImplementedError, AttributeError):
        # No links on this file system. Between the look and the move, another process may still come first.
        check_new_file(target, overwrite)
        os.rename(temporary, target)


def _exchange(new: Path, target: Path, overwrite: bool | None, may_replace: Callable[[Path], bool]):
    """Moves the folder `new` to `target`. What is there is looked at once it has been moved away, and put back."""
    old = new.with_suffix(".old")
    for _ in range(10):
        try:
            _move_folder_to_a_free_place(new, target, overwrite)
            return
        except _Taken:
            if not overwrite:
                raise
        try:
            try:
                os.rename(target, old)
            except FileNotFoundError:
                # Another process has just moved it away.
                continue
            if not may_replace(old):
                raise _not_ours(target)
            try:
                _move_folder_to_a_free_place(new, target, overwrite)
            except _Taken:
                # Another process that overwrites was quicker, and its folder is the next to go.
                _discard(old)
                continue
            _discard(old)
            return
        except BaseException:
            # A signal may come between any two steps, so the disk tells how far it went.
            if old.exists() and new.exists():
                _put_back(old, target)
            elif old.exists():
                _discard(old)
            raise
    raise _taken(target, overwrite)


def _discard(old: Path):
    """Under another name, so that what a killed process has deleted half is never taken for the only copy."""
    gone = old.with_suffix(".gone")
    os.rename(old, gone)
    _delete(gone)


def _put_back(old: Path, target: Path):
    try:
        _move_folder_to_a_free_place(old, target)
    except _Taken:
        raise FileExistsError(
            f"{target}: was made by another process meanwhile; what was there is now {old}."
        ) from None


def _move_folder_to_a_free_place(new: Path, target: Path, overwrite: bool | None = None):
    if os.name == "nt":
        # There a move replaces nothing, not even an empty folder.
        with suppress(OSError):
            target.rmdir()
    try:
        os.rename(new, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) or isinstance(error, FileExistsError):
            raise _taken(target, overwrite) from None
        raise


def _give_usual_permissions(folder: Path):
    """safetensors writes files that only their owner may read."""
    probe = folder / f".{uuid.uuid4().hex[:8]}"
    probe.touch()
    usual = probe.stat().st_mode & 0o777
    probe.unlink()
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink():
            mode = file.stat().st_mode & 0o777
            with suppress(OSError):
                file.chmod(mode | usual)


@contextmanager
def _working_place(target: Path) -> Iterator[Path]:
    """
    A name beside `target`: on the same file system, where a move is one step. What is there under the name at the end
    is removed. Folders above it are made, and unmade if they stay empty.
    """
    made = [parent for parent in target.parents if not os.path.lexists(parent)]
    home, name = target.parent, _shortened(target.name)
    if strange := next((parent for parent in target.parents if parent.exists() and not parent.is_dir()), None):
        raise NotADirectoryError(f"{strange}: must be a folder to hold {target.name}, was a file.")
    with ExitStack() as stack:
        stack.enter_context(signals_as_exceptions())
        stack.callback(_remove_empty, made)
        try:
            temporary = _locked_name(home, name, stack)
        except OSError as error:
            raise type(error)(f"{target}: could not be written: {error.strerror or error}.") from None
        yield temporary


def _remove_empty(folders: list[Path]):
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _locked_name(home: Path, name: str, stack: ExitStack) -> Path:
    """A free name, whose lock the stack will give up. The lock comes first, so that whatever is there has one."""
    while True:
        base = home / f".{name}.{uuid.uuid4().hex[:8]}"
        temporary, lock = Path(f"{base}.partial"), Path(f"{base}.lock")
        home.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        except FileNotFoundError:
            # Another process that failed has just removed the empty folder.
            continue
        stack.callback(_remove, temporary, lock, descriptor)
        if fcntl is None:
            return temporary
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Else another process took it for one of the dead, before it was locked.
        if lock.exists():
            return temporary


def _remove(temporary: Path, lock: Path, descriptor: int):
    _delete(temporary)
    _delete(temporary.with_suffix(".gone"))
    # Windows removes no file that is open; elsewhere the lock is given up last.
    if fcntl is None:
        os.close(descriptor)
    with suppress(OSError):
        lock.unlink()
    if fcntl is not None:
        os.close(descriptor)


def _delete(path: Path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _remove_leftovers(target: Path, may_replace: Callable[[Path], bool]):
    """Removes what dead processes left of `target`, and puts back what they were about to replace."""
    start, end = f".{_shortened(target.name)}.", ".lock"
    try:
        entries = [entry for entry in os.listdir(target.parent) if entry.startswith(start) and entry.endswith(end)]
    except OSError:
        return
    for entry in entries:
        if len(entry) != len(start) + 8 + len(end):
            continue
        lock = target.parent / entry
        with _lock_of_the_dead(lock) as is_dead:
            if is_dead:
                _remove_what_is_left(lock, target, may_replace)


def _remove_what_is_left(lock: Path, target: Path, may_replace: Callable[[Path], bool]):
    old, partial = lock.with_suffix(".old"), lock.with_suffix(".partial")
    if old.exists() and not target.exists():
        # It died between the two moves of an exchange.
        with suppress(OSError):
            os.rename(old, target)
    if partial.is_file() and target.is_file() and partial.samefile(target):
        # It died before the files that belong to this one were moved, or right after.
        target.unlink()
    _delete(lock.with_suffix(".gone"))
    _delete(partial)
    if old.exists() and may_replace(old):
        _delete(old)
    if not old.exists():
        with suppress(OSError):
            lock.unlink()


@contextmanager
def _lock_of_the_dead(lock: Path) -> Iterator[bool]:
    """Whether the process that made a lock file has ended; while the block runs, no other process finds the same."""
    descriptor = -1
    with suppress(OSError):
        if fcntl is None:
            # Fails while its maker has it open.
            lock.unlink()
        else:
            descriptor = os.open(lock, os.O_RDWR)
    if descriptor < 0:
        yield fcntl is None and not lock.exists()
        return
    try:
        # A maker that has just ended has removed it, and another one cannot have made it again.
        yield _can_be_locked(descriptor) and lock.exists()
    finally:
        os.close(descriptor)


def _can_be_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _shortened(name: str) -> str:
    """A name to which something can be added."""
    encoded = os.fsencode(name)
    if len(encoded) + _ADDED <= _LONGEST_NAME:
        return name
    start = encoded[: _LONGEST_NAME - _ADDED - 9].decode("utf-8", "ignore")
    return f"{start}-{hashlib.sha256(encoded).hexdigest()[:8]}"


def _is_starting_a_thread(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name in ("start", "_adjust_thread_count") and frame.f_code.co_filename.endswith(
            ("threading.py", "thread.py")
        ):
            return True
        frame = frame.f_back
    return False


def _send_again(number: int):
    time.sleep(0.02)
    os.kill(os.getpid(), number)


@contextmanager
def signals_as_exceptions() -> Iterator[None]:
    """
    SIGTERM and SIGHUP, which would end the process on the spot, end it as an exception does, so that clean-up runs.
    Handlers that somebody has set stay.
    """
    # Python lets the main thread alone set handlers.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]

    def leave(number: int, frame: FrameType | None):
        if _is_starting_a_thread(frame):
            # An exception there leaves a thread that nothing can end, for which the end of the process would wait.
            _thread.start_new_thread(_send_again, (number,))
            return
        # A second one would break off the clean-up.
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in numbers:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
