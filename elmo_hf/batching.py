"""Any number of sentences through a model: those of similar length together, results in order, in constant memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from .tokenization_elmo import ElmoTokenizer

# Words that are read ahead to find sentences of similar length: bounds the memory, results included.
WINDOW_WORDS = 16384
# Sentences a batch; products are at full speed there.
BATCH_SIZE = 128
# Words a batch, padding included: long sentences run in smaller batches.
BATCH_WORDS = 8192

Sentence = str | Sequence[str]
Result = TypeVar("Result")
Item = TypeVar("Item")


def as_words(sentence: Any, tokenizer: ElmoTokenizer) -> list[str]:
    """
    The words of a sentence that is text or a list of words.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(sentence, str):
        return tokenizer.tokenize(sentence)
    if isinstance(sentence, np.ndarray) and sentence.ndim == 1:
        return [str(word) for word in sentence]
    if not isinstance(sentence, Sequence):
        raise TypeError(f"A sentence must be text or a list of words, was: {sentence!r}.")
    return list(sentence)


def run_in_batches(
    sentences: Iterable[list[str]], run: Callable[[list[list[str]]], list[Result]], batch_size: int = BATCH_SIZE
) -> Iterator[Result]:
    """Yields what `run` returns for each sentence, in order, while it reads on."""
    for window in windows_of(sentences, len):
        results: dict[int, Result] = {}
        # Longest first, so that a machine with too little memory says so at once.
        order = sorted(range(len(window)), key=lambda index: -len(window[index]))
        while order:
            longest = max(len(window[order[0]]), 1)
            size = max(1, min(batch_size, BATCH_WORDS // longest))
            batch, order = order[:size], order[size:]
            results.update(zip(batch, run([window[index] for index in batch]), strict=True))
        yield from (results[index] for index in range(len(window)))


def windows_of(sentences: Iterable[Item], length: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Consecutive sentences of about `WINDOW_WORDS` words together."""
    window: list[Item] = []
    words = 0
    for sentence in sentences:
        window.append(sentence)
        # An empty sentence takes room, too.
        words += max(length(sentence), 1)
        if words >= WINDOW_WORDS:
            yield window
            window, words = [], 0
    if window:
        yield window
