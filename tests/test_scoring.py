"""Perplexity and substitutes of texts."""

import math
from unittest import mock

import pytest
import torch

from elmo_hf import scoring
from elmo_hf.scoring import fit_initial_state, perplexity, score_sentences, substitutes
from tests.language_model import TEXT, language_model, word_tokenizer


def test_scores_come_in_the_order_of_the_sentences():
    model, tokenizer = language_model(), word_tokenizer()
    together = list(score_sentences(model, tokenizer, TEXT, batch_size=2))
    for words, scores in zip(TEXT, together, strict=True):
        (alone,) = score_sentences(model, tokenizer, [words])
        assert scores.words == alone.words == words
        assert scores.forward == pytest.approx(alone.forward, abs=1e-5)
        assert scores.backward == pytest.approx(alone.backward, abs=1e-5)
    assert [scores.num_unknown for scores in together] == [0, 0, 0, 1, 0]


def test_perplexity_is_that_of_the_scores():
    model, tokenizer = language_model(), word_tokenizer()
    scores = list(score_sentences(model, tokenizer, TEXT))
    values = [value for sentence in scores for value in sentence.forward]
    result = perplexity(model, tokenizer, [" ".join(TEXT[0]), *TEXT[1:], []])
    assert result.forward == pytest.approx(math.exp(-sum(values) / len(values)))
    assert (result.num_sentences, result.num_words, result.num_unknown) == (5, sum(map(len, TEXT)), 1)
    assert result.average == (result.forward + result.backward) / 2


def test_carried_state_changes_all_but_the_first_sentence():
    model, tokenizer = language_model(), word_tokenizer()
    alone = list(score_sentences(model, tokenizer, TEXT))
    carried = list(score_sentences(model, tokenizer, TEXT, carry_state=True))
    assert carried[0].forward == pytest.approx(alone[0].forward, abs=1e-5)
    assert carried[1].forward != pytest.approx(alone[1].forward, abs=1e-3)


def test_dropout_stays_out_of_scores():
    model, tokenizer = language_model(bilm_dropout=0.5).train(), word_tokenizer()
    assert perplexity(model, tokenizer, TEXT) == perplexity(model, tokenizer, TEXT)


def test_substitutes_are_words_with_falling_probabilities():
    model, tokenizer = language_model(), word_tokenizer()
    found = substitutes(model, tokenizer, "the river rose .", 1, top_k=100)
    words, probabilities = zip(*found, strict=True)
    # All but the boundaries and the unknown word.
    assert set(words) == set(tokenizer.word_vocabulary[3:])
    assert list(probabilities) == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1.0)
    # What stands there does not matter.
    best = substitutes(model, tokenizer, ["the", "light", "rose", "."], 1, top_k=3)
    assert [word for word, _ in best] == list(words[:3])


@pytest.mark.parametrize(("index", "top_k", "message"), [(4, 3, "from 0 to 3, was: 4"), (0, 0, "`top_k`")])
def test_impossible_substitutes_are_refused(index: int, top_k: int, message: str):
    with pytest.raises(ValueError, match=message):
        substitutes(language_model(), word_tokenizer(), "the river rose .", index, top_k)


def test_foreign_vocabulary_is_refused():
    tokenizer = word_tokenizer()
    tokenizer.word_vocabulary = tokenizer.word_vocabulary[:-1]
    with pytest.raises(ValueError, match="the 15 words of the model"):
        perplexity(language_model(), tokenizer, TEXT)


def test_text_without_a_word_has_no_perplexity():
    with pytest.raises(ValueError, match="must have a word"):
        perplexity(language_model(), word_tokenizer(), ["", []])


@torch.no_grad()
def test_warm_state_is_the_average_after_each_sentence():
    model, tokenizer = language_model(), word_tokenizer()
    after = [model(**tokenizer([words], is_split_into_words=True, return_tensors="pt")).lstm_states for words in TEXT]
    fit_initial_state(model.elmo, tokenizer, [*TEXT, []])
    hidden, cell = (torch.cat(states).mean(0) for states in zip(*after, strict=True))
    torch.testing.assert_close(model.elmo.initial_state.hidden, hidden)
    torch.testing.assert_close(model.elmo.initial_state.cell, cell)
    # From zeros again, not from where the first time ended.
    fit_initial_state(model.elmo, tokenizer, TEXT)
    torch.testing.assert_close(model.elmo.initial_state.hidden, hidden)


def test_nothing_and_a_text_without_lines_give_no_initial_state():
    with (
        mock.patch.object(scoring, "MAX_WORDS", 5),
        pytest.raises(
            ValueError, match=r"must have at most 5 words, number 2 has 6\. Texts have one sentence per line"
        ),
    ):
        fit_initial_state(language_model().elmo, word_tokenizer(), [["a"], ["a"] * 6])
    with pytest.raises(ValueError, match="must have a word to read"):
        fit_initial_state(language_model().elmo, word_tokenizer(), ["", []])
