"""`benchmarks/ngram.py`: modified Kneser-Ney, by hand, against a slow twin, and as a probability distribution."""

import math
import random
import sys
from collections import Counter

import numpy as np
import pytest

from benchmarks import ngram
from benchmarks.ngram import FALLBACK_DISCOUNTS, KneserNey, discounts_of

# The numbers of tests by hand: <S>, </S> and <UNK> are 0, 1 and 2.
A, B, C = 3, 4, 5
TEXT = [[A, B], [A, B], [A, C]]
VOCAB_SIZE = 6

# Long enough for the formula of the discounts: frequent words and rare ones, 59 none, and an empty sentence.
_random = random.Random(0)
WORDS = range(2, 60)


def random_words(number: int) -> list[int]:
    return [min(1 + int(_random.paretovariate(0.6)), 58) for _ in range(number)]


PHRASES = [random_words(number % 5) for number in range(30)]
LONG_TEXT = [[*_random.choice(PHRASES), *random_words(2), *_random.choice(PHRASES)] for _ in range(150)] + [[]]


def test_discounts_by_hand():
    # Share 8 / (8 + 2 * 4) = 1/2; 1 - 2/2 * 4/8, 2 - 3/2 * 2/4, 3 - 4/2 * 1/2.
    assert discounts_of(np.repeat([0, 1, 2, 3, 4, 7], [9, 8, 4, 2, 1, 5])) == (0.5, 1.25, 2.0)


@pytest.mark.parametrize("counts", [[1, 1, 1, 2, 2, 3], [1, 2, 3, 3, 3, 3, 3, 4]])
def test_a_text_too_small_for_the_formula_has_fixed_discounts(counts):
    assert discounts_of(np.array(counts)) == FALLBACK_DISCOUNTS


def test_bigrams_by_hand():
    # Words before </S>: b, c; before each of a, b, c: one. Of 5 in all (0.5 + 0.5 + 0.5 + 1) / 5 goes to the 5 words.
    unigrams = {A: 0.2, B: 0.2, C: 0.2, 1: 0.3, 2: 0.1}
    model = KneserNey(2).fit(TEXT, VOCAB_SIZE)
    expected = [
        (3 - 1.5) / 3 + 1.5 / 3 * unigrams[A],  # <S> a
        (1 - 0.5) / 3 + (1 + 0.5) / 3 * unigrams[C],  # a c
        0.5 * unigrams[2],  # c <UNK>, not seen
        unigrams[1],  # <UNK> </S>, nothing seen after <UNK>
    ]
    np.testing.assert_allclose(np.exp(model.log_probabilities([A, C, 2])), expected, rtol=1e-12)


def test_unigrams_count_occurrences_when_there_is_no_higher_order():
    # Of 9 occurrences a and </S> have three, b two and c one: 1.5 + 1.5 + 1 + 0.5 are shared by 5 words.
    model = KneserNey(1).fit(TEXT, VOCAB_SIZE)
    shared = 4.5 / 9 / 5
    np.testing.assert_allclose(
        np.exp(model.log_probabilities([C, B])), [0.5 / 9 + shared, 1 / 9 + shared, 1.5 / 9 + shared]
    )


class SlowKneserNey:
    """The same by recursion over dictionaries, an n-gram a tuple."""

    def __init__(self, order: int, sentences: list[list[int]], vocab_size: int):
        self.vocab_size = vocab_size
        texts = [(0, *sentence, 1) for sentence in sentences]
        self.counts = [
            Counter(text[i : i + n] for text in texts for i in range(len(text) - n + 1)) for n in range(1, order + 1)
        ]
        for lower, higher in zip(self.counts, self.counts[1:], strict=False):
            distinct = Counter(gram[1:] for gram in higher)
            for gram in lower:
                lower[gram] = lower[gram] if gram[0] == 0 else distinct[gram]
        del self.counts[0][(0,)]
        self.discounts = [(0, *discounts_of(np.array(list(counts.values())))) for counts in self.counts]

    def probability(self, word: int, context: tuple[int, ...]) -> float:
        counts, discounts = self.counts[len(context)], self.discounts[len(context)]
        lower = self.probability(word, context[1:]) if context else 1 / (self.vocab_size - 1)
        after = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == context}
        if not after:
            return lower
        share = sum(discounts[min(count, 3)] for count in after.values()) / sum(after.values())
        count = after.get(word, 0)
        return (count - discounts[min(count, 3)]) / sum(after.values()) + share * lower


def test_the_long_text_has_estimated_discounts_and_fixed_ones():
    discounts = SlowKneserNey(5, LONG_TEXT, 60).discounts
    assert (0, *FALLBACK_DISCOUNTS) in discounts
    assert len(set(discounts)) > 2


@pytest.mark.parametrize("order", range(1, 6))
def test_a_slow_twin_gives_the_same_probabilities(order):
    model, twin = KneserNey(order).fit(LONG_TEXT, 60), SlowKneserNey(order, LONG_TEXT, 60)
    for sentence in [*LONG_TEXT[:5], [59, 59], [2, 3, 59, 4, 5, 6, 7], []]:
        text = (0, *sentence, 1)
        expected = [twin.probability(text[i], text[max(0, i - order + 1) : i]) for i in range(1, len(text))]
        np.testing.assert_allclose(np.exp(model.log_probabilities(sentence)), expected, rtol=1e-12)


@pytest.mark.parametrize("order", range(1, 6))
@pytest.mark.parametrize(
    "context", [[], [3], LONG_TEXT[0], LONG_TEXT[1][:3], [8, 9], [9, 9, 9, 9, 9], [3, 9, 4, 5, 6]]
)
def test_probabilities_of_all_words_add_up_to_1(order, context):
    model = KneserNey(order).fit(LONG_TEXT, 60)
    end = model.log_probabilities(context)[-1]
    words = [model.log_probabilities([*context, word])[len(context)] for word in WORDS]
    assert sum(map(math.exp, [end, *words])) == pytest.approx(1, abs=1e-12)


def test_each_sentence_stands_on_its_own():
    model = KneserNey(3).fit(LONG_TEXT, 60)
    both = model.perplexity([[3, 4], [5, 6, 7]])
    logarithms = [*model.log_probabilities([3, 4]), *model.log_probabilities([5, 6, 7])]
    assert len(logarithms) == 7
    assert both == pytest.approx(math.exp(-sum(logarithms) / 7), rel=1e-12)
    assert KneserNey(3).fit(LONG_TEXT[::-1], 60).perplexity([[5, 6, 7], [3, 4]]) == pytest.approx(both, rel=1e-12)


@pytest.mark.parametrize("word", [-1, 0, 1, 6])
def test_ids_that_are_no_words_are_refused(word):
    with pytest.raises(ValueError, match=f"from 2 to 5, one was: {word}"):
        KneserNey(2).fit([[A], [B, word]], VOCAB_SIZE)


def test_the_script_prints_forward_and_backward_perplexities(tmp_path, monkeypatch, capsys):
    # "d" is not among the words of `--vocab`, "a b" in training is "b a" backward.
    for name, text in (("train", "a b\na b\na c\n"), ("eval", "a c d\n"), ("vocab", "<S>\n</S>\n<UNK>\na\nb\nc\n")):
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    files = [str(tmp_path / f"{name}.txt") for name in ("train", "eval", "vocab")]
    monkeypatch.setattr(sys, "argv", ["ngram.py", files[0], "--eval", files[1], "--vocab", files[2], "--orders", "2"])
    ngram.main()
    printed = capsys.readouterr().out
    forward = KneserNey(2).fit(TEXT, VOCAB_SIZE).perplexity([[A, C, 2]])
    backward = KneserNey(2).fit([text[::-1] for text in TEXT], VOCAB_SIZE).perplexity([[2, C, A]])
    assert forward != pytest.approx(backward)
    row = next(line for line in printed.splitlines() if line.startswith("│"))
    assert row.split() == ["│", "2", "│", f"{forward:.1f}", "│", f"{backward:.1f}", "│"]
    assert "evaluation: 1 sentences, 4 predictions, their ends included, 25.00% <UNK>" in printed
