"""What is wrong with a file, in one line."""

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..files import PathLike


class FileError(ValueError):
    """A file that is damaged, told already."""


@contextmanager
def plain_errors(path: PathLike, what: str) -> Iterator[None]:
    """Whatever is raised while `what` of the file is read becomes one line."""
    try:
        yield
    except FileError:
        raise
    except PermissionError as error:
        raise PermissionError(f"{path}: could not be read: {error.strerror}.") from None
    # A damaged file may raise any class out of h5py or torch, MemoryError and RuntimeError among them.
    except Exception as error:
        raise FileError(f"{path}: {what} must be readable, was damaged: {one_line(error)}.") from None


def one_line(error: BaseException) -> str:
    """The message of an error."""
    return shortened(" ".join(str(error).split()) or type(error).__name__, 200)


def shortened(text: str, length: int = 80) -> str:
    """At most so many characters of a text out of a file."""
    return text if len(text) <= length else text[: length - 3] + "..."


def shown(value: Any) -> str:
    """A value out of a file. Unlike repr, it ends on nested and on long ones."""
    return reprlib.repr(value)
