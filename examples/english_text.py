"""
Text for the training of the English ELMo of the package: novels, other books, speeches and textbooks.

    python -m examples.english_text ARCHIVES_DIR OUT_DIR

ARCHIVES_DIR has four archives of UTF-8 text, a paragraph per line: `eltec-eng.tar.xz` (95 British novels, 1840 to
1920), `gutenberg.tar.xz` (504 books of Project Gutenberg, `AUTHOR__TITLE.txt`), `un-general-debates.tar.xz` (speeches
before the United Nations since 1946, `COUNTRY_SESSION_YEAR.txt`) and `openstax.tar.xz` (14 textbooks). OUT_DIR gets
`train/SOURCE/NAME.txt`, `check/...` for decisions and `held_out/...` for the end, a sentence per line, not tokenised.
A source that is complete is not made again.
"""

import argparse
import os
import random
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from examples import novels

SOURCES = ("novels", "textbooks", "books", "speeches")
# Whole years of speeches, and a book, that are not trained on. The novels are `novels.HELD_OUT`.
HELD_OUT_YEARS = ("1961", "1992", "2019")
HELD_OUT_TEXTBOOK = "psychology"
# By the authors of the novels that are kept aside.
HELD_OUT_AUTHORS = ("Bronte_Emily", "Braddon", "Hardy_Thomas", "Doyle", "Woolf")
# Of each held-out document of a source, sentences that are looked at while decisions are made.
CHECK_SENTENCES = {"novels": 800, "textbooks": 300, "speeches": 12}
# One document of so many gets curly quotes and apostrophes, the others straight ones.
TYPOGRAPHIC_ONE_IN = 4
# A textbook is cut into documents of so many paragraphs, since it would have one form of quotes or the other.
PARAGRAPHS_PER_DOCUMENT = 400
LONGEST_SENTENCE = 200

# A paragraph that shares this many of its runs of eight words with another document is left out.
RUN = 8
SHARED = 0.4

_FURNITURE = re.compile(
    r"gutenberg|\betext\b|e-text|transcriber|\bproofread|produced by .*(?:team|www)|you (?:will|should) be able to:"
    r"|^\[?(?:Illustration|Footnote)|^\{|All rights reserved|CENTS EACH|^Go (?:back )?to the|^Jump to the",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"^(?:CHAPTER|BOOK|PART|VOLUME|VOL|ACT|SCENE|CANTO|LETTER|CONTENTS|INTRODUCTION|PREFACE|APPENDIX|THE END|END OF|"
    r"FOOTNOTES?|INDEX)\b",
    re.IGNORECASE,
)
# References, stage directions of the record of a meeting, numbers of pages and paragraphs, what starts a list.
_MARKS = (
    (re.compile(r"\[[^\]]{0,80}\]|\{\d+\w?\}"), ""),
    (re.compile(r"\((?:spoke|continued|interpretation|translated)[^)]{0,60}\)"), ""),
    (re.compile(r"\bA/\d+/PV\.?\s?\d+|\b\d\d-\d{5}\b"), ""),
    (re.compile(r"^(?:\d{1,3}\.|[•▪●■*\u2013-])\s+"), ""),
    (re.compile(r"(?<=[.!?\"]) \d{1,3}\. (?=[A-Z])"), " "),
    # A hyphen at the end of a line, unless the second part is to come ("short- and long-term").
    (re.compile(r"(?<=\w)- (?!(?:and|or|to|nor|as|but|if|in|the)\b)(?=[a-z])"), "-"),
)
_COMMON = {
    "the",
    "of",
    "and",
    "to",
    "a",
    "in",
    "that",
    "is",
    "was",
    "it",
    "for",
    "as",
    "with",
    "he",
    "his",
    "on",
    "be",
}
_COMMON |= {"i", "had", "at", "by", "not", "you", "but", "her"}
_OPENING = re.compile(r"(?:^|(?<=[\s(\[—]))([\"'])(?=\S)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archives", type=Path, metavar="ARCHIVES_DIR")
    parser.add_argument("output", type=Path, metavar="OUT_DIR")
    arguments = parser.parse_args()
    write_texts(arguments.archives, arguments.output)
    Console().print(summary(arguments.output))


def write_texts(archives: Path, output: Path) -> None:
    """Writes the sources that are not there yet, in the order of `SOURCES`: what is in two of them is in the first."""
    known = KnownText()
    for source in SOURCES:
        folders = {kind: output / kind / source for kind in ("train", "check", "held_out")}
        if folders["train"].exists():
            files = sorted([*folders["held_out"].glob("*.txt"), *folders["train"].glob("*.txt")])
            for path in tqdm(files, desc=f"Reading {source}"):
                known.new(path.read_text(encoding="utf-8").splitlines())
            continue
        documents = list(_READERS[source](archives))
        unfinished = output / f"{source}.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        # What is kept aside is known first, so that no other edition of it is trained on.
        held_out = [document for document in documents if document[2]]
        for name, paragraphs, _ in held_out:
            known.new(paragraphs)
            sentences = list(_sentences(paragraphs))
            _write(unfinished / "held_out" / f"{name}.txt", sentences)
            _write(unfinished / "check" / f"{name}.txt", sentences[: CHECK_SENTENCES[source]])
        for name, paragraphs, is_held_out in tqdm(documents, desc=f"Writing {source}", unit=" documents"):
            if not is_held_out:
                style = typographic if zlib.crc32(name.encode()) % TYPOGRAPHIC_ONE_IN == 0 else str
                _write(unfinished / "train" / f"{name}.txt", map(style, _sentences(known.new(paragraphs))))
        for kind in ("held_out", "check", "train"):
            if (unfinished / kind).exists():
                folders[kind].parent.mkdir(parents=True, exist_ok=True)
                os.replace(unfinished / kind, folders[kind])
        shutil.rmtree(unfinished, ignore_errors=True)


def _write(path: Path, sentences: Iterable[str]) -> None:
    lines = [f"{sentence}\n" for sentence in sentences]
    if lines:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8")


# Name, paragraphs and whether it is kept aside.
Document = tuple[str, list[str], bool]


def read_novels(archives: Path) -> Iterator[Document]:
    for name, paragraphs in novels.read_novels(archives / "eltec-eng.tar.xz").items():
        is_held_out = name in novels.HELD_OUT
        # What is kept aside stays as it was for the models before.
        yield name, paragraphs if is_held_out else clean(paragraphs), is_held_out


def read_books(archives: Path) -> Iterator[Document]:
    for name, lines in _documents(archives / "gutenberg.tar.xz"):
        if not name.startswith(HELD_OUT_AUTHORS):
            yield name, clean(lines), False


def read_speeches(archives: Path) -> Iterator[Document]:
    for name, lines in _documents(archives / "un-general-debates.tar.xz"):
        yield name, clean(lines), name.endswith(HELD_OUT_YEARS)


def read_textbooks(archives: Path) -> Iterator[Document]:
    for name, lines in _documents(archives / "openstax.tar.xz"):
        paragraphs = clean(lines)
        for number, start in enumerate(range(0, len(paragraphs), PARAGRAPHS_PER_DOCUMENT)):
            document = paragraphs[start : start + PARAGRAPHS_PER_DOCUMENT]
            yield f"{name}_{number:03}", document, name == HELD_OUT_TEXTBOOK


_READERS: dict[str, Callable[[Path], Iterator[Document]]] = {
    "novels": read_novels,
    "books": read_books,
    "speeches": read_speeches,
    "textbooks": read_textbooks,
}


def _documents(archive: Path) -> list[tuple[str, list[str]]]:
    """Name and lines of each text, in an order that is always the same and says nothing."""
    found = []
    with tarfile.open(archive) as members:
        for member in members:
            source = members.extractfile(member)
            if member.name.endswith(".txt") and source is not None:
                found.append((Path(member.name).stem, source.read().decode("utf-8-sig").splitlines()))
    found.sort()
    random.Random(0).shuffle(found)
    return found


def clean(lines: Iterable[str]) -> list[str]:
    """Paragraphs of English prose or verse, normalised, see [`novels.normalise`]."""
    paragraphs = []
    for line in lines:
        if _FURNITURE.search(line):
            continue
        text = novels.normalise(line)
        for pattern, replacement in _MARKS:
            text = pattern.sub(replacement, text)
        text = novels.normalise(text)
        if is_text(text):
            paragraphs.append(text)
    return paragraphs


def is_text(paragraph: str) -> bool:
    """Whether it is no heading, table, formula or foreign language."""
    words = paragraph.split()
    if not words or not any(map(str.islower, words)):
        return False
    if len(words) < 12 and (_HEADING.match(paragraph) or paragraph[-1].isalnum()):
        return False
    letters = sum(map(str.isalpha, paragraph))
    if letters < 0.8 * (len(paragraph) - len(words) + 1):
        return False
    return len(words) < 20 or sum(word.lower() in _COMMON for word in words) >= 0.12 * len(words)


def _sentences(paragraphs: Iterable[str]) -> Iterator[str]:
    for paragraph in paragraphs:
        for sentence in novels.split_sentences(paragraph):
            if len(sentence.split()) <= LONGEST_SENTENCE:
                yield sentence


def typographic(sentence: str) -> str:
    """With the quotes and apostrophes of a typesetter."""
    sentence = _OPENING.sub(lambda quote: "\u201c" if quote[1] == '"' else "\u2018", sentence)
    return sentence.replace('"', "\u201d").replace("'", "\u2019")


class KnownText:
    """Every eighth run of eight words of the text so far, to find what was there before, whoever printed it."""

    def __init__(self) -> None:
        self._runs: set[int] = set()

    def new(self, paragraphs: list[str]) -> list[str]:
        """Those that are not, for the most part, in a document before; and makes them known."""
        runs = [self._of(paragraph) for paragraph in paragraphs]
        kept = [
            paragraph
            for paragraph, of_paragraph in zip(paragraphs, runs, strict=True)
            if sum(run in self._runs for run in of_paragraph) <= SHARED * len(of_paragraph)
        ]
        for of_paragraph in runs:
            self._runs.update(of_paragraph)
        return kept

    @staticmethod
    def _of(paragraph: str) -> list[int]:
        words = re.findall(r"[^\W_]+", paragraph.lower())
        if len(words) < RUN:
            return []
        numbers = np.array([zlib.crc32(word.encode()) for word in words], np.uint64)
        hashes = np.zeros(len(words) - RUN + 1, np.uint64)
        for place in range(RUN):
            hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + numbers[place : place + len(hashes)]
        # Chosen by what they are, not where: another edition may begin elsewhere.
        return hashes[(hashes >> np.uint64(32)) % np.uint64(8) == 0].tolist()


def summary(output: Path) -> Table:
    table = Table("set", "source", "documents", "sentences", "words between spaces")
    for kind in ("train", "check", "held_out"):
        for source in SOURCES:
            files = sorted((output / kind / source).glob("*.txt"))
            if files:
                texts = [file.read_text(encoding="utf-8") for file in files]
                counts = len(files), sum(text.count("\n") for text in texts), sum(len(text.split()) for text in texts)
                table.add_row(kind, source, *(f"{count:,}" for count in counts))
    for column in table.columns[2:]:
        column.justify = "right"
    return table


if __name__ == "__main__":
    main()
