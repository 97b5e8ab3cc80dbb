"""Lines of text out of files and folders, for the training and scoring of language models."""

import glob
import gzip
import os
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .files import PathLike, check_readable


def read_lines(paths: PathLike | Iterable[PathLike]) -> Iterator[str]:
    """
    Lines of UTF-8 files one at a time, without the white space around them; empty lines are left out.

    Bytes that are no UTF-8 become U+FFFD, and a warning for each such file says in how many lines. A byte order mark
    is left out.

    Args:
        paths: files, gzipped if their names end in `.gz`; folders, which mean the `.txt` and `.txt.gz` files in them
            (all files where there are none) in the order of their names; patterns such as `news.en-*`; `-` for the
            standard input.

    Raises:
        FileNotFoundError: a file is missing or a folder has no such files; at once, not when its turn comes.
        ValueError: a gzipped file is damaged.
    """
    paths = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    files = [file for path in paths for file in ([Path(path)] if str(path) == "-" else text_files(Path(path)))]
    return (line for file in files for line in _lines(file))


def text_files(path: Path) -> list[Path]:
    """A text file, those in a folder or those that a pattern finds, as [`read_lines`] takes them."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        files = [file for file in files if file.name.endswith((".txt", ".txt.gz"))] or files
        if not files:
            raise FileNotFoundError(f"{path}: must be a folder with text files, has none.")
        return files
    if not os.path.lexists(path) and glob.has_magic(str(path)):
        files = sorted(file for file in map(Path, glob.glob(str(path))) if file.is_file())
        if not files:
            raise FileNotFoundError(f"{path}: must be a pattern of text files, fits none.")
        return files
    check_readable(path, "a text file or a folder of them")
    return [path]


def _lines(path: Path) -> Iterator[str]:
    num_bad = 0
    open_file: Any = gzip.open if path.suffix == ".gz" else open
    source = os.dup(sys.stdin.fileno()) if str(path) == "-" else path
    with open_file(source, "rt", encoding="utf-8-sig", errors="surrogateescape") as file:
        try:
            for line in file:
                try:
                    line.encode()
                except UnicodeEncodeError:
                    num_bad += 1
                    line = line.encode(errors="surrogateescape").decode(errors="replace")
                if line := line.strip():
                    yield line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: must be a whole gzip file, was not: {error}") from None
    if num_bad:
        # Takes a second, which help and errors do without.
        from transformers.utils import logging

        logging.get_logger(__name__).warning(
            f"{path}: {num_bad} lines are no UTF-8; U+FFFD stands for what could not be read."
        )
