# SPDX-License-Identifier: Apache-2.0
"""Words to rows of ids and back: the bytes of bilm-tf, and the lexicons of biLMs that have their own."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .configuration_elmo import (
    BEGIN_SENTENCE,
    BEGIN_SENTENCE_CHARACTER,
    BEGIN_WORD_CHARACTER,
    END_SENTENCE,
    END_SENTENCE_CHARACTER,
    END_WORD_CHARACTER,
    PADDING_CHARACTER,
)

# Bytes are 0 to 255 in the file of a biLM; here everything is one higher, which frees 0 for "no word".
_OFFSET = 1
_BOUNDARY_CHARACTERS = (BEGIN_SENTENCE_CHARACTER, END_SENTENCE_CHARACTER)
_BYTE_NAMES = ("<pad>", *(f"<0x{byte:02X}>" for byte in range(256)), "<S>", "</S>", "<W>", "</W>", "<fill>")


def as_words(words: Any) -> list[str]:
    """The words of one sentence as a list. A `str` is refused, it would become a sentence of one-letter words."""
    if isinstance(words, (str, bytes, Mapping)) or not isinstance(words, Iterable):
        raise TypeError(f"A sentence must be a list of words, was: {words!r}.")
    return words.tolist() if isinstance(words, np.ndarray) else list(words)


def _distinct(words: Sequence[str]) -> tuple[dict[str, int], np.ndarray]:
    """The place of each distinct word, and the places of `words`. Words repeat, so each is spelled once."""
    places: dict[str, int] = {}
    inverse = [places.setdefault(word, len(places)) for word in words]
    if not all(isinstance(word, str) for word in places):
        wrong = next(word for word in places if not isinstance(word, str))
        raise TypeError(f"A word must be a `str`, was: {wrong!r}.")
    return places, np.asarray(inverse, dtype=np.int64)


class ByteSpelling:
    """
    A word as its UTF-8 bytes, cut to `width - 2`, between two marks and filled up: the same for every language.

    Attributes:
        ids_per_word: length of a row.
        names: of the ids, by their number.
        boundaries: the words that begin and end a sentence.
    """

    boundaries = (BEGIN_SENTENCE, END_SENTENCE)
    names = _BYTE_NAMES

    def __init__(self, width: int):
        self.ids_per_word = width

    def rows(self, words: Sequence[str]) -> np.ndarray:
        """(words, ids_per_word) int64."""
        try:
            places, inverse = _distinct(words)
        except TypeError:
            # Unhashable ones among them.
            wrong = next(word for word in words if not isinstance(word, str))
            raise TypeError(f"A word must be a `str`, was: {wrong!r}.") from None
        width = self.ids_per_word
        # A lone surrogate has no UTF-8 form: dropped, as in AllenNLP.
        encoded = [word.encode("utf-8", "ignore")[: width - 2] for word in places]
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))

        table = np.full((len(encoded), width), PADDING_CHARACTER, dtype=np.int64)
        table[:, 0] = BEGIN_WORD_CHARACTER
        is_byte = np.arange(width - 2) < lengths[:, None]
        table[:, 1:-1][is_byte] = np.frombuffer(b"".join(encoded), dtype=np.uint8).astype(np.int64) + _OFFSET
        table[np.arange(len(encoded)), lengths + 1] = END_WORD_CHARACTER
        for boundary, character in zip(
            self.boundaries, (BEGIN_SENTENCE_CHARACTER, END_SENTENCE_CHARACTER), strict=True
        ):
            if boundary in places:
                table[places[boundary], 1:] = (character, END_WORD_CHARACTER, *[PADDING_CHARACTER] * (width - 3))
        return table[inverse]

    def word(self, row: np.ndarray) -> str:
        """The word of a row. Bytes that are no UTF-8 (a word cut within a character) become U+FFFD."""
        for boundary, character in zip(
            self.boundaries, (BEGIN_SENTENCE_CHARACTER, END_SENTENCE_CHARACTER), strict=True
        ):
            if character in row:
                return boundary
        is_byte = (row >= _OFFSET) & (row < BEGIN_SENTENCE_CHARACTER)
        return bytes((row[is_byte] - _OFFSET).tolist()).decode("utf-8", "replace")

    def is_boundary(self, rows: np.ndarray) -> np.ndarray:
        """(words,) bool."""
        return np.asarray(np.isin(rows, _BOUNDARY_CHARACTERS).any(axis=1))

    def check(self, rows: np.ndarray):
        """Raises a ValueError for an id that is none of these."""
        _check_below(rows, len(self.names))


class LexiconSpelling:
    """
    A word by its row in a table of words, by its characters (code points) in a table of characters, or both, the row
    of the word first.

    Args:
        width: characters per word, marks included.
        words: the number of each word, from 0, or `None`; one is `unknown_word`.
        characters: the number of each character and mark, from 0, or `None`.
        boundaries: the words that begin and end a sentence.
        unknown_word: stands for words that are not in the table.
        unknown_character: stands for characters that are not in the table.
        begin_word: the mark before the characters of a word.
        end_word: the mark after them.
        fill: the mark that fills a word up.

    Raises:
        ValueError: a mark is missing, or a number is no number.
    """

    def __init__(
        self,
        width: int,
        words: Mapping[str, int] | None,
        characters: Mapping[str, int] | None,
        boundaries: Sequence[str],
        unknown_word: str | None = None,
        unknown_character: str | None = None,
        begin_word: str | None = None,
        end_word: str | None = None,
        fill: str | None = None,
    ):
        self.boundaries = tuple(boundaries)
        self.words = None if words is None else _numbers(words, (unknown_word, *self.boundaries))
        marks = (unknown_character, begin_word, end_word, fill, *self.boundaries)
        self.characters = None if characters is None else _numbers(characters, marks)
        if self.words is None and self.characters is None:
            raise ValueError("A lexicon must have words or characters, had neither.")
        self.width = 0 if self.characters is None else width
        self.ids_per_word = self.width + (self.words is not None)
        self._settings: dict[str, Any] = {
            "boundaries": list(self.boundaries),
            "unknown_word": unknown_word,
            "unknown_character": unknown_character,
            "begin_word": begin_word,
            "end_word": end_word,
            "fill": fill,
        }
        main = self.words if self.characters is None else self.characters
        assert main is not None
        named = {number: name for name, number in main.items()}
        self.names = tuple(named.get(number, f"<{number}>") for number in range(max(named) + 1))
        self._word_of = {number: word for word, number in (self.words or {}).items()}

    def _mark(self, name: str) -> int:
        assert self.characters is not None
        return self.characters[self._settings[name]]

    @property
    def fill_character(self) -> int:
        """The id that fills a word up; 0 without characters."""
        return 0 if self.characters is None else self._mark("fill")

    @property
    def boundary_ids(self) -> list[list[int]]:
        """The ids of both boundaries, without what fills them up."""
        length = (self.words is not None) + (0 if self.characters is None else 3)
        return self.rows(self.boundaries)[:, :length].tolist()

    @property
    def num_words(self) -> int:
        """Rows of the table of words, row 0 included."""
        return max(self.words.values()) + 1 if self.words else 0

    @property
    def num_characters(self) -> int:
        """Rows of the table of characters, row 0 included."""
        return max(self.characters.values()) + 1 if self.characters else 0

    def rows(self, words: Sequence[str]) -> np.ndarray:
        """(words, ids_per_word) int64."""
        places, inverse = _distinct(words)
        table = np.full((len(places), self.ids_per_word), self.fill_character, dtype=np.int64)
        for row, word in zip(table, places, strict=True):
            # A word is cut before it is looked up.
            letters = word if self.characters is None or word in self.boundaries else word[: self.width - 2]
            if self.words is not None:
                row[0] = self.words.get(letters, self.words[self._settings["unknown_word"]])
                row = row[1:]
            if self.characters is not None:
                unknown = self._mark("unknown_character")
                spelled = [word] if word in self.boundaries else letters
                row[0] = self._mark("begin_word")
                row[1 : len(spelled) + 1] = [self.characters.get(letter, unknown) for letter in spelled]
                row[len(spelled) + 1] = self._mark("end_word")
        return table[inverse] if len(places) else table

    def word(self, row: np.ndarray) -> str:
        """The word of a row; where characters are cut or unknown, what is left of it."""
        if self.words is not None and int(row[0]) != self.words[self._settings["unknown_word"]]:
            return self._word_of.get(int(row[0]), "\ufffd")
        if self.characters is None:
            return str(self._settings["unknown_word"])
        marks = [self._mark(name) for name in ("begin_word", "end_word", "fill")]
        unknown = self._mark("unknown_character")
        ids = [int(index) for index in row[self.words is not None :] if index not in marks]
        return "".join("\ufffd" if index == unknown else self.names[index] for index in ids)

    def is_boundary(self, rows: np.ndarray) -> np.ndarray:
        """(words,) bool."""
        boundaries = self.rows(self.boundaries)
        return (rows[:, None] == boundaries[None]).all(-1).any(-1)

    def check(self, rows: np.ndarray):
        """Raises a ValueError for an id that is none of these."""
        if rows.ndim > 1 and self.words is not None:
            _check_below(rows[:, :1], self.num_words)
            rows = rows[:, 1:]
        _check_below(rows, self.num_characters or self.num_words)

    def save(self, file: Path):
        """Writes what [`load_lexicon`] reads."""
        tables = {"words": self.words, "characters": self.characters}
        unshifted = {
            name: None if table is None else {key: number - _OFFSET for key, number in table.items()}
            for name, table in tables.items()
        }
        file.write_text(json.dumps({**self._settings, **unshifted}, ensure_ascii=False) + "\n", encoding="utf-8")


def load_lexicon(file: Path, width: int) -> LexiconSpelling:
    """
    Reads a `lexicon.json`.

    Raises:
        ValueError: it is damaged.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return LexiconSpelling(width, **values)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: must be the lexicon of a tokenizer, was damaged: {error}.") from None


def _numbers(table: Mapping[str, int], needed: Iterable[str | None]) -> dict[str, int]:
    """Checked, and one higher each: 0 means "no word here"."""
    for name in needed:
        if name not in table:
            raise ValueError(f"A lexicon must have {name!r}, had not.")
    for name, number in table.items():
        if not isinstance(name, str) or isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise ValueError(f"A lexicon must give each token a number from 0, {name!r} had: {number!r}.")
    return {name: number + _OFFSET for name, number in table.items()}


def _check_below(ids: np.ndarray, end: int):
    wrong = ids[(ids < 0) | (ids >= end)]
    if wrong.size:
        raise ValueError(f"A character id must be from 0 to {end - 1}, was: {wrong[0]}.")
