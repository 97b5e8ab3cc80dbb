"""What a language model says of a text: the probability of each word, perplexity, and words that could stand there."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from .batching import BATCH_SIZE, Sentence, as_words, run_in_batches
from .configuration_elmo import UNKNOWN_WORD, WORD_VOCABULARY_START
from .modeling_elmo import ElmoForPreTraining, ElmoModel
from .tokenization_elmo import ElmoTokenizer


class SentenceScores(NamedTuple):
    """Logarithms of probabilities in nats, exact (full softmax). A word outside the vocabulary counts as `<UNK>`."""

    words: list[str]
    # Of each word after those before it, then of the end of the sentence.
    forward: list[float]
    # Of each word before those after it, then of the beginning of the sentence.
    backward: list[float]
    num_unknown: int


class Perplexity(NamedTuple):
    """`exp` of the average negative log-likelihood of words and sentence ends (beginnings, for `backward`)."""

    forward: float
    backward: float
    num_sentences: int
    num_words: int
    num_unknown: int

    @property
    def average(self) -> float:
        """Of the two directions."""
        return (self.forward + self.backward) / 2


# Longer than any sentence; the states of all its words are held at once.
MAX_WORDS = 100_000


def _words_of(sentences: Iterable[Sentence], tokenizer: ElmoTokenizer) -> Iterator[list[str]]:
    for number, sentence in enumerate(sentences, 1):
        words = as_words(sentence, tokenizer)
        if len(words) > MAX_WORDS:
            raise ValueError(
                f"A sentence must have at most {MAX_WORDS:,} words, number {number:,} has {len(words):,}. "
                "Texts have one sentence per line."
            )
        yield words


def score_sentences(
    model: ElmoForPreTraining,
    tokenizer: ElmoTokenizer,
    sentences: Iterable[Sentence],
    carry_state: bool = False,
    batch_size: int = BATCH_SIZE,
) -> Iterator[SentenceScores]:
    """
    Yields the scores of each sentence, while it reads on.

    Args:
        model: the language model; dropout has no effect here.
        tokenizer: with the word vocabulary of the model.
        sentences: text, or lists of words, of any number.
        carry_state: whether each sentence starts from the state that the one before it left, as a text that belongs
            together; one at a time, therefore several times slower. Else each stands alone.
        batch_size: sentences per batch, at most.

    Raises:
        ValueError: the vocabulary of the tokenizer is missing or is not that of the model, or a sentence has more than
            100,000 words.
        TypeError: a sentence is neither text nor a list of words.
    """
    check_vocabulary(model, tokenizer)
    model.eval()
    words = _words_of(sentences, tokenizer)
    if carry_state:
        return _score_in_a_row(model, tokenizer, words)
    return run_in_batches(words, lambda batch: _score(model, tokenizer, batch)[0], batch_size)


def perplexity(
    model: ElmoForPreTraining,
    tokenizer: ElmoTokenizer,
    sentences: Iterable[Sentence],
    carry_state: bool = False,
    batch_size: int = BATCH_SIZE,
) -> Perplexity:
    """
    The perplexity of a text; arguments as for [`score_sentences`]. Empty sentences are left out.

    Raises:
        ValueError: there is no word in `sentences`.
    """
    words = (words for sentence in sentences if (words := as_words(sentence, tokenizer)))
    return perplexity_of_scores(score_sentences(model, tokenizer, words, carry_state, batch_size))


def perplexity_of_scores(sentences: Iterable[SentenceScores]) -> Perplexity:
    """
    What the scores of a text amount to.

    Raises:
        ValueError: there is no word in `sentences`.
    """
    totals = [0.0, 0.0]
    num_sentences = num_words = num_unknown = 0
    for scores in sentences:
        totals = [total + sum(half) for total, half in zip(totals, (scores.forward, scores.backward), strict=True)]
        num_sentences += 1
        num_words += len(scores.words)
        num_unknown += scores.num_unknown
    if num_words == 0:
        raise ValueError("`sentences` must have a word to have a perplexity, had none.")
    forward, backward = (math.exp(-total / (num_words + num_sentences)) for total in totals)
    return Perplexity(forward, backward, num_sentences, num_words, num_unknown)


def substitutes(
    model: ElmoForPreTraining, tokenizer: ElmoTokenizer, sentence: Sentence, index: int, top_k: int = 10
) -> list[tuple[str, float]]:
    """
    The words that both directions together expect most in the place of one, see `ElmoForPreTraining.substitutes`.

    Args:
        model: the language model; dropout has no effect here.
        tokenizer: with the word vocabulary of the model.
        sentence: text or a list of words.
        index: which of its words, from 0.
        top_k: how many.

    Returns:
        Words of the vocabulary, the word itself if it is among them, with their probabilities, highest first.

    Raises:
        ValueError: there is no such word, or the vocabulary does not fit.
    """
    check_vocabulary(model, tokenizer)
    words = as_words(sentence, tokenizer)
    if not 0 <= index < len(words):
        raise ValueError(f"`index` must be one of the {len(words)} words, from 0 to {len(words) - 1}, was: {index}.")
    if top_k < 1:
        raise ValueError(f"`top_k` must be at least 1, was: {top_k}.")
    model.eval()
    inputs = tokenizer([words], is_split_into_words=True, return_tensors="pt").to(model.device)
    scores = model.substitutes(**inputs, columns=torch.tensor([index]))[0]
    # Boundaries and the unknown word cannot be read as a word.
    scores[: len(WORD_VOCABULARY_START)] = -math.inf
    best = torch.log_softmax(scores, dim=0).topk(min(top_k, len(scores) - len(WORD_VOCABULARY_START)))
    vocabulary = tokenizer.word_vocabulary or []
    return [
        (vocabulary[label], math.exp(score))
        for score, label in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


@torch.no_grad()
def fit_initial_state(model: ElmoModel, tokenizer: ElmoTokenizer, sentences: Iterable[Sentence]):
    """
    Makes `model` start every sentence from the average of what each of `sentences` leaves behind, started from zeros.

    Raises:
        ValueError: there is no word in `sentences`, or one of them has more than 100,000.
    """
    words = list(filter(None, _words_of(sentences, tokenizer)))
    if not words:
        raise ValueError("`sentences` must have a word to read, had none.")
    model.eval()

    def final_states(batch: list[list[str]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        inputs = tokenizer(batch, is_split_into_words=True, padding=True, return_tensors="pt").to(model.device)
        config, number = model.config, len(batch)
        zeros = [
            torch.zeros(number, config.num_hidden_layers, 2, size)
            for size in (config.projection_dim, config.cell_size)
        ]
        return list(zip(*model(**inputs, lstm_states=zeros).lstm_states, strict=True))

    hidden, cell = (torch.stack(states) for states in zip(*run_in_batches(words, final_states), strict=True))
    model.set_initial_state((hidden, cell))


def check_vocabulary(model: ElmoForPreTraining, tokenizer: ElmoTokenizer):
    """Raises ValueError if the words of the tokenizer cannot be those that the model predicts."""
    number = len(tokenizer.word_vocabulary or ())
    if number != model.config.word_vocab_size:
        raise ValueError(
            f"The tokenizer must have the {model.config.word_vocab_size} words of the model in its `vocab.txt`, "
            f"had {number}."
        )


def _score_in_a_row(
    model: ElmoForPreTraining, tokenizer: ElmoTokenizer, sentences: Iterable[list[str]]
) -> Iterator[SentenceScores]:
    states = None
    for words in sentences:
        (scores,), states = _score(model, tokenizer, [words], states)
        yield scores


@torch.inference_mode()
def _score(
    model: ElmoForPreTraining,
    tokenizer: ElmoTokenizer,
    sentences: list[list[str]],
    lstm_states: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> tuple[list[SentenceScores], tuple[torch.Tensor, torch.Tensor]]:
    inputs = tokenizer(sentences, is_split_into_words=True, padding=True, padding_side="right", return_tensors="pt")
    labels = [torch.from_numpy(tokenizer.words_to_labels(words)) for words in sentences]
    padded = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100)
    inputs = inputs.to(model.device)
    result = model.log_probabilities(**inputs, labels=padded.to(model.device), lstm_states=lstm_states)
    unknown = WORD_VOCABULARY_START.index(UNKNOWN_WORD)
    scores = [
        SentenceScores(
            words,
            [*result.forward[row, : len(words)].tolist(), result.forward_end[row].item()],
            [*result.backward[row, : len(words)].tolist(), result.backward_begin[row].item()],
            int((labels[row] == unknown).sum()),
        )
        for row, words in enumerate(sentences)
    ]
    return scores, result.lstm_states
