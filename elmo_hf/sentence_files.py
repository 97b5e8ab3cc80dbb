"""Sentences out of files: text, split text, CoNLL-U, FASTA, columns of csv, jsonl and parquet; packed ones as well."""

import bz2
import csv
import gzip
import json
import lzma
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from .files import PathLike, check_readable

Sentence = str | list[str]

_UNPACKERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile}
_KINDS = {
    ".txt": "text",
    ".conllu": "conllu",
    ".conll": "conllu",
    ".fasta": "fasta",
    ".fa": "fasta",
    ".faa": "fasta",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
KINDS = ("text", "words", "conllu", "fasta", "csv", "tsv", "jsonl", "parquet")


class SentenceFiles:
    """
    The sentences of some files, one at a time: text as it stands, or words where the file has words.

    Args:
        paths: files; `-` is the standard input. Names that end in .gz, .bz2 or .xz are unpacked.
        kind: what is in them, one of `KINDS`; by their names when absent, "text" for names that tell nothing. A line
            of text is a sentence, and so is one of "words", split at white space. Empty lines are sentences without
            words. In FASTA a record is a sentence and a residue a word.
        column: of csv, tsv, jsonl and parquet, whose cells are text or lists of words.

    Raises:
        FileNotFoundError, PermissionError: a file is missing, or may not be read; at once.
        ValueError: `kind` is unknown, or needs a `column`, or has none.
    """

    def __init__(self, paths: Sequence[PathLike], kind: str | None = None, column: str | None = None):
        if kind is not None and kind not in KINDS:
            raise ValueError(f"`kind` must be one of {', '.join(KINDS)}, was: {kind}.")
        self.paths = [str(path) for path in paths]
        self.kinds = [kind or kind_of(path) for path in self.paths]
        self.column = column
        for path, found in zip(self.paths, self.kinds, strict=True):
            if path != "-":
                check_readable(path)
            if found in ("csv", "tsv", "jsonl", "parquet") and column is None:
                raise ValueError(f"{path}: `column` must be given for {found}, was not.")
        self._sizes = [0 if path == "-" else Path(path).stat().st_size for path in self.paths]
        self._done, self._place = 0, lambda: 0

    @property
    def size(self) -> int:
        """Bytes in all; 0 when it is not known."""
        return 0 if "-" in self.paths else sum(self._sizes)

    @property
    def place(self) -> int:
        """Bytes that were read."""
        return self._done + self._place()

    def __iter__(self) -> Iterator[Sentence]:
        self._done = 0
        for path, kind, size in zip(self.paths, self.kinds, self._sizes, strict=True):
            yield from self._sentences(path, kind)
            self._done, self._place = self._done + size, lambda: 0

    def _sentences(self, path: str, kind: str) -> Iterator[Sentence]:
        if kind == "parquet":
            yield from self._of_parquet(path)
            return
        with self._opened(path) as lines:
            if kind == "text":
                yield from lines
            elif kind == "words":
                yield from (line.split() for line in lines)
            elif kind == "conllu":
                yield from _of_conllu(path, lines)
            elif kind == "fasta":
                yield from _of_fasta(path, lines)
            elif kind == "jsonl":
                yield from (self._cell(path, number, _json(path, number, line)) for number, line in _numbered(lines))
            else:
                yield from self._of_csv(path, lines, "\t" if kind == "tsv" else ",")

    @contextmanager
    def _opened(self, path: str) -> Iterator[Iterator[str]]:
        """The lines of a file, without their ends."""
        raw = sys.stdin.buffer if path == "-" else open(path, "rb")  # noqa: SIM115
        self._place = (lambda: 0) if path == "-" else raw.tell
        unpack = _UNPACKERS.get(Path(path).suffix)
        try:
            stream = raw if unpack is None else unpack(raw)
            yield _lines(path, stream)
        finally:
            self._place = lambda: 0
            if path != "-":
                raw.close()

    def _cell(self, path: str, number: int, row: Any) -> Sentence:
        if not isinstance(row, dict) or self.column not in row:
            there = ", ".join(map(str, row)) if isinstance(row, dict) else repr(row)[:40]
            raise ValueError(f"{path}: row {number} must have the column `{self.column}`, has: {there[:80]}.")
        value = row[self.column]
        if isinstance(value, str):
            return value
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            return value
        raise ValueError(
            f"{path}: row {number}, `{self.column}` must be text or a list of words, was: {repr(value)[:60]}."
        )

    def _of_csv(self, path: str, lines: Iterator[str], delimiter: str) -> Iterator[Sentence]:
        csv.field_size_limit(1 << 30)
        try:
            for number, row in enumerate(
                csv.DictReader((f"{line}\n" for line in lines), delimiter=delimiter), start=1
            ):
                yield self._cell(path, number, row)
        except csv.Error as error:
            raise ValueError(f"{path}: must be csv, was not: {error}.") from None

    def _of_parquet(self, path: str) -> Iterator[Sentence]:
        try:
            import pyarrow.parquet as pq
            from pyarrow import ArrowException
        except ImportError:
            raise ImportError("Parquet needs pyarrow: pip install 'elmo-hf[corpus]'.") from None
        try:
            file = pq.ParquetFile(path)
        except (ArrowException, OSError) as error:
            raise ValueError(f"{path}: must be a parquet file, was not: {str(error).splitlines()[0]}.") from None
        with file:
            if self.column not in file.schema_arrow.names:
                raise ValueError(f"{path}: must have the column `{self.column}`, has: {file.schema_arrow.names}.")
            number = 0
            for batch in file.iter_batches(1024, columns=[self.column]):
                for value in batch.column(0).to_pylist():
                    number += 1
                    yield self._cell(path, number, {self.column: value})


def kind_of(path: str) -> str:
    """What is in a file, by its name; text if that does not tell."""
    name = Path(path)
    if name.suffix in _UNPACKERS:
        name = name.with_suffix("")
    return _KINDS.get(name.suffix, "text")


def _lines(path: str, stream: BinaryIO) -> Iterator[str]:
    # The wrapper would close the standard input.
    number = 0
    try:
        for number, line in enumerate(stream, start=1):
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            yield text.removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: line {number} must be UTF-8, was not: {error.reason}.") from None
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise ValueError(f"{path}: must be a whole packed file, was not: {error}.") from None


def _numbered(lines: Iterator[str]) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


def _json(path: str, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ValueError(f"{path}: line {number} must be JSON, was not: {error}.") from None


def _of_conllu(path: str, lines: Iterator[str]) -> Iterator[list[str]]:
    """The words of each sentence: lines with a whole number, not the ranges of contractions nor empty nodes."""
    words: list[str] = []
    seen = False
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            if seen:
                yield words
            words, seen = [], False
        elif not line.startswith("#"):
            seen = True
            fields = line.split("\t")
            if len(fields) < 2:
                raise ValueError(f"{path}: line {number} must have columns that tabs separate, was: {line[:60]!r}.")
            if fields[0].isdigit():
                words.append(fields[1])
    if seen:
        yield words


def _of_fasta(path: str, lines: Iterator[str]) -> Iterator[list[str]]:
    residues: list[str] | None = None
    for number, line in enumerate(lines, start=1):
        if line.startswith(">"):
            if residues is not None:
                yield residues
            residues = []
        elif line.strip() and not line.startswith(";"):
            if residues is None:
                raise ValueError(f"{path}: line {number} must come after a name, > in front, was: {line[:60]!r}.")
            residues.extend(letter for letter in line if not letter.isspace() and letter != "*")
    if residues is not None:
        yield residues
