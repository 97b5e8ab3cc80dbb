"""
Text for the training of a biLM: files to sentences, sentences to a corpus on disk, a corpus to the examples of a
`Trainer`, each as [`ElmoTokenizer`] spells it and with the vocabulary ids to predict.
"""

import mmap
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers.utils import logging

from .configuration_elmo import BEGIN_SENTENCE, END_SENTENCE, WORD_VOCABULARY_START
from .files import atomic_folder
from .tokenization_elmo import ElmoTokenizer

logger = logging.get_logger(__name__)

PathLike = str | os.PathLike[str]

# What losses leave out.
IGNORED_LABEL = -100

_SENTENCES_FILE, _INDEX_FILE = "sentences.txt", "index.npy"
_INDEX_ENTRY = struct.Struct("=2q")


# ---------------------------------------------------------------------------------------------------------------------
# Vocabulary
# ---------------------------------------------------------------------------------------------------------------------


def count_words(sentences: Iterable[Sequence[str]]) -> Counter[str]:
    """How often each word occurs, with words as [`write_corpus`] takes them; [`build_vocabulary`] orders them."""
    counts: Counter[str] = Counter()
    for sentence in sentences:
        counts.update(_split(sentence))
    return counts


def build_vocabulary(counts: Mapping[str, int], min_count: int = 1, max_size: int | None = None) -> list[str]:
    """
    The words that a biLM predicts, as in the vocabulary files of bilm-tf: `<S>`, `</S>` and `<UNK>`, then the others
    by falling number of occurrences. Words of equal number are in the order of their characters.

    Args:
        counts: how often each word occurs, see [`count_words`].
        min_count: leaves out words that occur less often.
        max_size: entries in all, the first three included; no limit when absent.

    Raises:
        ValueError: a limit is too low, or no word is left.
    """
    if min_count < 1:
        raise ValueError(f"`min_count` must be at least 1, was: {min_count}.")
    if max_size is not None and max_size <= len(WORD_VOCABULARY_START):
        raise ValueError(
            f"`max_size` must be more than the {len(WORD_VOCABULARY_START)} special words, was: {max_size}."
        )
    words = [word for word, count in counts.items() if count >= min_count and word not in WORD_VOCABULARY_START]
    if not words:
        raise ValueError(f"`counts` must have a word that occurs {min_count} times, `min_count`, has none.")
    words.sort(key=lambda word: (-counts[word], word))
    return [*WORD_VOCABULARY_START, *words][:max_size]


# ---------------------------------------------------------------------------------------------------------------------
# A corpus on disk
# ---------------------------------------------------------------------------------------------------------------------


def _split(sentence: Sequence[str]) -> list[str]:
    if isinstance(sentence, (str, bytes)):
        raise TypeError(f"A sentence must be a list of words, was: {sentence!r}.")
    try:
        return " ".join(sentence).split()
    except TypeError:
        raise TypeError(f"A sentence must be a list of words of type `str`, was: {sentence!r}.") from None


def write_corpus(
    sentences: Iterable[Sequence[str]], folder: PathLike, progress: Callable[[int], object] | None = None
) -> "Corpus":
    """
    Writes sentences for training, in one pass and in constant memory.

    White space in a word separates words, as it would in a file for bilm-tf; sentences without a word are left out; a
    lone surrogate, which has no UTF-8 form, becomes a question mark. The folder is there when it is complete or not at
    all.

    Args:
        sentences: lists of words, any iterable: `map(tokenizer.tokenize, read_lines(...))`, a stream of `datasets`.
        folder: the folder to make, new or empty.
        progress: called after each sentence with the number of sentences so far.

    Raises:
        FileExistsError: `folder` is a file or has something in it.
        TypeError: a sentence is a `str`, or one of its words is not.
        ValueError: there is no word in `sentences`.
    """
    with atomic_folder(folder) as complete:
        entries = complete / "entries"
        with open(complete / _SENTENCES_FILE, "wb") as text, open(entries, "wb") as index:
            count = _write_sentences(sentences, text, index, progress)
        if count == 0:
            raise ValueError(f"{folder}: a corpus must have at least one word, was given none.")
        # Through a map of the file, so that an index larger than the memory can be written.
        np.save(complete / _INDEX_FILE, np.memmap(entries, np.int64, "r", shape=(count + 1, 2)))
        entries.unlink()
    return Corpus(folder)


def _write_sentences(
    sentences: Iterable[Sequence[str]], text: BinaryIO, index: BinaryIO, progress: Callable[[int], object] | None
) -> int:
    """The number of sentences written: a line of `text` each, and an entry of `index` before each and at the end."""
    count = offset = position = 0
    index.write(_INDEX_ENTRY.pack(offset, position))
    for sentence in sentences:
        if not (words := _split(sentence)):
            continue
        offset += text.write(f"{' '.join(words)}\n".encode(errors="replace"))
        position += len(words) + 2
        index.write(_INDEX_ENTRY.pack(offset, position))
        count += 1
        if progress is not None:
            progress(count)
    return count


class Corpus:
    """
    Sentences on disk (what [`write_corpus`] makes), read where they are needed: `len(corpus)` of them, `corpus[i]` a
    list of words.

    Together they are one stream, in which a sentence is `<S>`, its words and `</S>`, and every one of these has a
    position. Processes share the memory; a pickle holds the path alone.

    Args:
        folder: holds `sentences.txt`, a sentence per line with one space between words, and `index.npy`, int64
            (sentences + 1, 2): at which byte and at which position of the stream a sentence begins.

    Attributes:
        num_positions: of the stream, boundaries included.
        num_words: without the boundaries.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: they do not belong together or are damaged. Not all of this is seen at once: a sentence is checked
            when it is read.
    """

    def __init__(self, folder: PathLike):
        self.folder = Path(folder)
        for name in (_SENTENCES_FILE, _INDEX_FILE):
            if not (self.folder / name).is_file():
                raise FileNotFoundError(f"{self.folder / name}: must be a file of a corpus, was missing.")
        try:
            # A plain array over the map: slices of a `np.memmap` cost far more.
            self._index = np.asarray(np.load(self.folder / _INDEX_FILE, mmap_mode="r"))
        except (ValueError, EOFError) as error:
            raise self._damaged(f"could not be read: {error}") from None
        size = (self.folder / _SENTENCES_FILE).stat().st_size
        if self._index.dtype != np.int64 or self._index.ndim != 2 or self._index.shape[1] != 2:
            raise self._damaged(f"must be int64 (sentences + 1, 2), was: {self._index.dtype} {self._index.shape}.")
        if len(self._index) < 2 or self._index[0].any() or self._index[-1, 0] != size:
            raise self._damaged(f"must go from (0, 0) to the end of {_SENTENCES_FILE} at byte {size}, does not.")
        with open(self.folder / _SENTENCES_FILE, "rb") as file:
            self._text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._transitions: np.ndarray | None = None
        self.num_positions = int(self._index[-1, 1])
        self.num_words = self.num_positions - 2 * len(self)

    def __reduce__(self) -> tuple:
        return Corpus, (self.folder,)

    def __len__(self) -> int:
        return len(self._index) - 1

    def __getitem__(self, index: int) -> list[str]:
        index = range(len(self))[index]
        (begin, position), (end, next_position) = self._index[index : index + 2].tolist()
        words = self._text[begin:end].decode(errors="replace").split()
        if len(words) != next_position - position - 2:
            raise self._damaged(
                f"must have {len(words)} + 2 positions for sentence {index}, has: {next_position - position}."
            )
        return words

    @property
    def lengths(self) -> np.ndarray:
        """(sentences,) int64 number of words of each."""
        return np.diff(self._index[:, 1]) - 2

    def positions(self, start: int, stop: int, backward: bool = False) -> list[str]:
        """
        Words and boundaries of the stream from position `start` up to `stop`.

        With `backward` every sentence is read from `</S>` to `<S>` and has the same positions: the sentences stay in
        order, and the two streams of bilm-tf are this one and that.
        """
        if not 0 <= start <= stop <= self.num_positions:
            raise ValueError(
                f"`start` and `stop` must be in order and within the {self.num_positions} positions, "
                f"were: {start} and {stop}."
            )
        first = int(self._index[:, 1].searchsorted(start, side="right")) - 1
        last = int(self._index[:, 1].searchsorted(stop))
        words: list[str] = []
        for index in range(first, last):
            sentence = [BEGIN_SENTENCE, *self[index], END_SENTENCE]
            words += reversed(sentence) if backward else sentence
        skipped = start - int(self._index[first, 1])
        return words[skipped : skipped + stop - start]

    def transitions(self, start: int, stop: int, backward: bool = False) -> tuple[list[str], list[str]]:
        """
        What bilm-tf reads and predicts: of each sentence all positions but the last, and all but the first, in the
        order of reading. `start` and `stop` count the positions that are read, one less per sentence.
        """
        if self._transitions is None:
            # (sentences + 1,) at which of them a sentence begins
            self._transitions = self._index[:, 1] - np.arange(len(self._index))
        first = int(self._transitions.searchsorted(start, side="right")) - 1
        last = int(self._transitions.searchsorted(stop))
        read: list[str] = []
        followed: list[str] = []
        for index in range(first, last):
            sentence = [BEGIN_SENTENCE, *self[index], END_SENTENCE][:: -1 if backward else 1]
            read += sentence[:-1]
            followed += sentence[1:]
        skipped = start - int(self._transitions[first])
        here = slice(skipped, skipped + stop - start)
        return read[here], followed[here]

    def _damaged(self, message: str) -> ValueError:
        return ValueError(f"{self.folder / _INDEX_FILE}: {message} Write the corpus again.")


# ---------------------------------------------------------------------------------------------------------------------
# Examples
# ---------------------------------------------------------------------------------------------------------------------


class BilmWindows(Dataset):
    """
    Windows for truncated back-propagation through time, as bilm-tf trains: the stream of a corpus in `rows` parts of
    equal length, side by side, each read window by window.

    Item `step * rows + row` is window `step` of part `row`. Read in order in batches of `rows`, each window goes on
    where the one at its place in the batch before ended, so that the state of the LSTMs can be carried. With several
    processes that take turns (`accelerate`), `rows` is the sum of their batches. What does not fill a window in every
    part is left out: less than `rows * unroll_steps` positions at the end of the corpus.

    An item has, for each direction in its reading order:

    - `input_ids`, `backward_input_ids`: (unroll_steps, 50) character ids.
    - `labels`, `backward_labels`: (unroll_steps,) vocabulary ids of the words that follow. Between two sentences it is
      -100: that another one begins is certain, and would only flatter the perplexity.

    All are int64 tensors; `default_data_collator` makes batches of them.

    By default each direction reads both boundaries of a sentence, as it does when the model is used: there, the
    forward LSTM reads `</S>` before the `<S>` of the next sentence. bilm-tf trains without: a direction predicts the
    boundary at its end and goes on with the next sentence, so that a sentence has one position less and no label is
    -100.

    Args:
        corpus: the text.
        tokenizer: spells the words, and has the vocabulary.
        rows: parts.
        unroll_steps: positions per window.
        read_last_boundary: whether a direction reads the boundary at its end; not in bilm-tf.

    Raises:
        ValueError: the corpus is too short for a window in each part.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: ElmoTokenizer,
        rows: int,
        unroll_steps: int = 20,
        read_last_boundary: bool = True,
    ):
        for name, value in (("rows", rows), ("unroll_steps", unroll_steps)):
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, was: {value}.")
        self.corpus, self.tokenizer, self.rows, self.unroll_steps = corpus, tokenizer, rows, unroll_steps
        self.read_last_boundary = read_last_boundary
        num_positions = corpus.num_positions if read_last_boundary else corpus.num_positions - len(corpus)
        self.windows_per_row = num_positions // (rows * unroll_steps)
        if self.windows_per_row == 0:
            raise ValueError(
                f"`rows` must be at most {num_positions // unroll_steps} for the {num_positions} "
                f"positions of {corpus.folder} in windows of {unroll_steps}, was: {rows}."
            )

    def __len__(self) -> int:
        return self.windows_per_row * self.rows

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])[0]

    # A `DataLoader` asks for a whole batch, of which each distinct word is spelled once.
    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Tensor]]:
        places = (divmod(range(len(self))[index], self.rows) for index in indices)
        starts = [(row * self.windows_per_row + step) * self.unroll_steps for step, row in places]
        windows = [self._window(start, backward) for backward in (False, True) for start in starts]
        read, followed = ([word for window in windows for word in window[side]] for side in (0, 1))
        shape = (2, len(starts), self.unroll_steps)
        labels = self.tokenizer.words_to_labels(followed).reshape(shape)
        # A sentence begins with <S>, and backward with </S>.
        first_words = self.tokenizer.words_to_labels([BEGIN_SENTENCE, END_SENTENCE]).reshape(2, 1, 1)
        columns = {
            "input_ids": self.tokenizer.words_to_character_ids(read).reshape(*shape, -1),
            "labels": np.where(labels == first_words, IGNORED_LABEL, labels),
        }
        both = {
            f"{prefix}{name}": torch.from_numpy(values[direction])
            for direction, prefix in enumerate(("", "backward_"))
            for name, values in columns.items()
        }
        return [{name: values[place] for name, values in both.items()} for place in range(len(starts))]

    def _window(self, start: int, backward: bool) -> tuple[list[str], list[str]]:
        """The words that are read, and the one that follows each."""
        stop = start + self.unroll_steps
        if not self.read_last_boundary:
            return self.corpus.transitions(start, stop, backward)
        words = self.corpus.positions(start, min(stop + 1, self.corpus.num_positions), backward)
        if len(words) == self.unroll_steps:
            # After the last sentence as after any other.
            words.append(END_SENTENCE if backward else BEGIN_SENTENCE)
        return words[:-1], words[1:]


class BilmSentences(Dataset):
    """
    Sentences one by one, without a state to carry: `input_ids` (words, 50) and `labels` (words,), the vocabulary ids
    of the same words, without boundaries. `DataCollatorForTokenClassification` makes batches of them.

    Args:
        corpus: the text.
        tokenizer: spells the words, and has the vocabulary.
        max_words: longer sentences are cut into items of at most this many words; none when absent.
    """

    def __init__(self, corpus: Corpus, tokenizer: ElmoTokenizer, max_words: int | None = None):
        if max_words is not None and max_words < 1:
            raise ValueError(f"`max_words` must be at least 1 or None, was: {max_words}.")
        self.corpus, self.tokenizer, self.max_words = corpus, tokenizer, max_words
        # (sentences,) number of the item after the last of each
        self._ends = None if max_words is None else np.cumsum(-(-corpus.lengths // max_words))

    def __len__(self) -> int:
        return len(self.corpus) if self._ends is None else int(self._ends[-1])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        words = self._words(range(len(self))[index])
        return {
            "input_ids": torch.from_numpy(self.tokenizer.words_to_character_ids(words)),
            "labels": torch.from_numpy(self.tokenizer.words_to_labels(words)),
        }

    def _words(self, index: int) -> list[str]:
        if self._ends is None or self.max_words is None:
            return self.corpus[index]
        sentence = int(self._ends.searchsorted(index, side="right"))
        words = self.corpus[sentence]
        # Counted from the last item of the sentence, whose number is known.
        begin = (index - int(self._ends[sentence])) * self.max_words + -(
            -len(words) // self.max_words
        ) * self.max_words
        return words[begin : begin + self.max_words]
