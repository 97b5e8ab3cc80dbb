"""Lines of text out of files and folders, for the training and scoring of language models."""

import gzip
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from .files import PathLike, check_readable


def read_lines(paths: PathLike | Iterable[PathLike]) -> Iterator[str]:
    """
    Lines of UTF-8 files one at a time, without the white space around them; empty lines are left out.

    Bytes that are no UTF-8 become U+FFFD, and a warning for each such file says in how many lines. A byte order mark
    is left out.

    Args:
        paths: files, gzipped if their names end in `.gz`, or folders, which mean the `.txt` and `.txt.gz` files in
            them in the order of their names.

    Raises:
        FileNotFoundError: a file is missing or a folder has no such files; at once, not when its turn comes.
        ValueError: a gzipped file is damaged.
    """
    paths = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    files = [file for path in paths for file in text_files(Path(path))]
    return (line for file in files for line in _lines(file))


def text_files(path: Path) -> list[Path]:
    """A text file, or those in a folder, as [`read_lines`] takes them."""
    if not path.is_dir():
        check_readable(path, "a text file or a folder of them")
        return [path]
    files = sorted(file for file in path.iterdir() if file.name.endswith((".txt", ".txt.gz")) and file.is_file())
    if not files:
        raise FileNotFoundError(f"{path}: must be a folder with *.txt or *.txt.gz files, has none.")
    return files


def _lines(path: Path) -> Iterator[str]:
    num_bad = 0
    open_file = gzip.open if path.suffix == ".gz" else open
    with open_file(path, "rt", encoding="utf-8-sig", errors="surrogateescape") as file:
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
