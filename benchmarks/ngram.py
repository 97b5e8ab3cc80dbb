"""
Perplexity of n-gram models with modified Kneser-Ney smoothing, to compare a biLM with that predicts the same words.

    python -m benchmarks.ngram TRAIN ... --eval FILE ... [--vocab vocab.txt]

TRAIN and the files after `--eval` are UTF-8 texts, a sentence per line, or folders of `.txt` files.
"""

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from rich.console import Console
from rich.table import Table

from elmo_hf.corpus import build_vocabulary, count_words
from elmo_hf.text_files import read_lines
from elmo_hf.tokenization_elmo import ElmoTokenizer

# Ids of <S>, </S> and <UNK>, in every vocabulary.
BEGIN, END, UNKNOWN = range(3)
# For counts of 1, 2 and more, where a text is too small to tell (the values that KenLM takes then).
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)


@dataclass
class _NGrams:
    """
    All distinct n-grams of one order. An n-gram is known by its place here, and its key is made of the place of its
    context, the n-gram without the last word one order lower, and of that word: `context * vocab_size + word`.

    Attributes:
        keys: (n-grams,) sorted int64.
        suffixes: (n-grams,) places of the n-grams without their first word, one order lower.
        counts: (n-grams,) occurrences.
        at_begin: (n-grams,) bool, whether the first word is `<S>`.
    """

    keys: np.ndarray
    suffixes: np.ndarray
    counts: np.ndarray
    at_begin: np.ndarray


@dataclass
class _Order:
    """
    What is left of the n-grams of one order after training.

    Attributes:
        keys: (n-grams,) as above.
        probabilities: (n-grams,) of the last word after its context, interpolated.
        backoffs: (contexts,) share of the order below after each n-gram of that order.
    """

    keys: np.ndarray
    probabilities: np.ndarray
    backoffs: np.ndarray


class KneserNey:
    """
    Interpolated modified Kneser-Ney smoothing (Chen and Goodman 1998, section 4.1.6).

    Each sentence stands on its own: the context of its first word is one `<S>`, predicted are its words and `</S>`.
    Orders below the highest count the distinct words before an n-gram instead of its occurrences; nothing stands
    before `<S>`, so n-grams that begin with it count occurrences (as in SRILM and KenLM). Below the unigrams all
    words but `<S>` are equally likely.

    Args:
        order: words of the longest n-grams, 1 or more.
    """

    def __init__(self, order: int):
        if order < 1:
            raise ValueError(f"`order` must be at least 1, was: {order}.")
        self.order = order
        self.vocab_size = 0
        self._orders: list[_Order] = []

    def fit(self, sentences: Iterable[Sequence[int]], vocab_size: int) -> Self:
        """
        Counts, and forgets what it was fitted to before.

        Args:
            sentences: ids of words, without `<S>` and `</S>`.
            vocab_size: ids are below; 0, 1 and 2 are `<S>`, `</S>` and `<UNK>`.

        Raises:
            ValueError: an id is not in the vocabulary, or is that of `<S>` or `</S>`.
        """
        self.vocab_size = vocab_size
        ngrams = self._count(self._stream(sentences))
        self._orders = []
        lower = np.full(1, 1 / (vocab_size - 1))
        for order, (grams, higher) in enumerate(zip(ngrams, [*ngrams[1:], None], strict=True), start=1):
            counts = grams.counts
            if higher is not None:
                distinct = np.bincount(higher.suffixes, minlength=len(counts))
                counts = np.where(grams.at_begin, counts, distinct)
            if order == 1:
                # <S> is a context and never predicted.
                counts = np.where(grams.at_begin, 0, counts)
            contexts = grams.keys // vocab_size
            discounts = np.array([0.0, *discounts_of(counts)])[np.minimum(counts, 3)]
            totals = np.bincount(contexts, counts, minlength=len(lower))
            # Nothing follows </S>: any share will do.
            totals[totals == 0] = 1.0
            backoffs = np.bincount(contexts, discounts, minlength=len(lower)) / totals
            lower = (counts - discounts) / totals[contexts] + backoffs[contexts] * lower[grams.suffixes]
            self._orders.append(_Order(grams.keys, lower, backoffs))
        return self

    def log_probabilities(self, sentence: Sequence[int]) -> np.ndarray:
        """(words + 1,) natural logarithms for each word of a sentence and for its end."""
        return self._log_probabilities([sentence])

    def perplexity(self, sentences: Iterable[Sequence[int]]) -> float:
        """Of all words and ends of sentences together."""
        return math.exp(-self._log_probabilities(sentences).mean())

    def _stream(self, sentences: Iterable[Sequence[int]]) -> np.ndarray:
        """(positions,) ids: `<S>`, the words and `</S>` of each sentence."""
        streams = [np.array([BEGIN, *sentence, END], dtype=np.int64) for sentence in sentences]
        words = np.concatenate(streams)
        ends = np.cumsum([len(stream) for stream in streams])
        inside = np.delete(words, np.concatenate([ends - 1, ends[:-1], [0]]))
        if len(wrong := inside[(inside < UNKNOWN) | (inside >= self.vocab_size)]):
            raise ValueError(f"Ids of words must be from {UNKNOWN} to {self.vocab_size - 1}, one was: {wrong[0]}.")
        return words

    def _count(self, words: np.ndarray) -> list[_NGrams]:
        """The n-grams of each order, from 1, in (positions,) ids."""
        positions = np.arange(len(words))
        # (positions,) number of words before this one in its sentence, <S> included
        depths = positions - np.maximum.accumulate(np.where(words == BEGIN, positions, 0))
        # (positions,) place of the n-gram that ends there, here that of no word; -1 if the sentence is too short
        places = np.zeros(len(words), dtype=np.int64)
        ngrams = []
        for order in range(1, self.order + 1):
            inside = np.flatnonzero(depths >= order - 1)
            contexts = places[inside - 1] if order > 1 else places
            keys, first, inverse, counts = np.unique(
                contexts * self.vocab_size + words[inside], return_index=True, return_inverse=True, return_counts=True
            )
            ngrams.append(_NGrams(keys, places[inside[first]], counts, depths[inside[first]] == order - 1))
            places = np.full(len(words), -1)
            places[inside] = inverse
        return ngrams

    def _log_probabilities(self, sentences: Iterable[Sequence[int]]) -> np.ndarray:
        words = self._stream(sentences)
        is_predicted = words != BEGIN
        # (positions,) each order improves on the one below
        probabilities = np.full(len(words), 1 / (self.vocab_size - 1))
        contexts = np.zeros(len(words), dtype=np.int64)
        for order in self._orders:
            keys = contexts * self.vocab_size + words
            places = np.minimum(order.keys.searchsorted(keys), len(order.keys) - 1)
            is_seen = (contexts >= 0) & (order.keys[places] == keys)
            backoffs = np.where(contexts >= 0, order.backoffs[contexts], 1.0)
            probabilities = np.where(is_seen, order.probabilities[places], backoffs * probabilities)
            # Of the order above: the n-gram that ended one word before, in the same sentence and seen in training.
            contexts = np.where(is_predicted, np.roll(np.where(is_seen, places, -1), 1), -1)
        return np.log(probabilities[is_predicted])


def discounts_of(counts: np.ndarray) -> tuple[float, float, float]:
    """What modified Kneser-Ney takes from counts of 1, of 2 and of more, estimated from (n-grams,) counts."""
    once, twice, thrice, four_times = (int(np.count_nonzero(counts == number)) for number in (1, 2, 3, 4))
    if not (once and twice and thrice and four_times):
        return FALLBACK_DISCOUNTS
    share = once / (once + 2 * twice)
    discounts = (
        1 - 2 * share * twice / once,
        2 - 3 * share * thrice / twice,
        3 - 4 * share * four_times / thrice,
    )
    return discounts if min(discounts) > 0 else FALLBACK_DISCOUNTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, nargs="+")
    parser.add_argument("--eval", type=Path, nargs="+", required=True)
    vocabulary = parser.add_mutually_exclusive_group()
    vocabulary.add_argument("--vocab", type=Path, help="a word per line, <S>, </S> and <UNK> first")
    vocabulary.add_argument("--vocab-size", type=int, default=24_000, help="without --vocab: most frequent words kept")
    parser.add_argument("--orders", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--tokenised", action="store_true", help="the files have spaces between all words")
    arguments = parser.parse_args()

    tokenizer = ElmoTokenizer(word_vocab_file=arguments.vocab)
    split = str.split if arguments.tokenised else tokenizer.tokenize
    texts = [[split(line) for line in read_lines(paths)] for paths in (arguments.train, arguments.eval)]
    if arguments.vocab is None:
        tokenizer.word_vocabulary = build_vocabulary(count_words(texts[0]), max_size=arguments.vocab_size)
    vocab_size = len(tokenizer.word_vocabulary)
    train, evaluation = ([tokenizer.words_to_labels(sentence).astype(np.int32) for sentence in text] for text in texts)
    table = Table("order", "forward", "backward", title="Perplexity, modified Kneser-Ney")
    for order in arguments.orders:
        table.add_row(str(order), *(f"{value:.1f}" for value in perplexities(order, train, evaluation, vocab_size)))
    for column in table.columns:
        column.justify = "right"
    console = Console(soft_wrap=True)
    console.print(table)
    for name, text in (("training", train), ("evaluation", evaluation)):
        num_predictions = sum(map(len, text)) + len(text)
        num_unknown = sum(np.count_nonzero(sentence == UNKNOWN) for sentence in text)
        console.print(f"{name}: {len(text):,} sentences, {num_predictions:,} predictions, their ends included", end="")
        console.print(f", {num_unknown / num_predictions:.2%} <UNK>")
    console.print(f"vocabulary: {vocab_size:,} words, <S> included")


def perplexities(
    order: int, train: Sequence[np.ndarray], evaluation: Sequence[np.ndarray], vocab_size: int
) -> tuple[float, float]:
    """Forward, and backward: of a model of reversed sentences on reversed sentences."""
    forward = KneserNey(order).fit(train, vocab_size).perplexity(evaluation)
    train, evaluation = ([sentence[::-1] for sentence in text] for text in (train, evaluation))
    return forward, KneserNey(order).fit(train, vocab_size).perplexity(evaluation)


if __name__ == "__main__":
    main()
