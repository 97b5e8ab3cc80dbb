"""The softmax over words, in full and sampled: against sums by hand and against the exact gradient."""

import math

import pytest
import torch

from elmo_hf import softmax_elmo
from elmo_hf.softmax_elmo import ElmoSoftmax, sample_words
from tests.tiny import tiny_config

WORDS = 40


def softmax(num_sampled_words: int | None = None) -> ElmoSoftmax:
    layer = ElmoSoftmax(tiny_config(word_vocab_size=WORDS, num_sampled_words=num_sampled_words))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=generator)
    return layer


def positions(number: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(number, 6, generator=generator), torch.arange(number) * 5 % WORDS


def test_sampled_words_differ_from_each_other():
    for _ in range(50):
        words, tries = sample_words(20, WORDS)
        assert len(set(words.tolist())) == 20
        assert tries >= 20
        assert words.min() >= 0
        assert words.max() < WORDS


def test_words_are_drawn_log_uniformly():
    torch.manual_seed(0)
    counts = torch.zeros(WORDS)
    for _ in range(2000):
        # One word, so that the distribution is that of a single try.
        counts[sample_words(1, WORDS)[0]] += 1
    expected = torch.log1p(1 / torch.arange(1.0, WORDS + 1)) / math.log(WORDS + 1)
    # Four standard deviations of a share of 2,000 draws are at most 0.035, and 0.19 of the draws give the first word.
    torch.testing.assert_close(counts / 2000, expected, atol=0.035, rtol=0)


def test_sample_larger_than_the_vocabulary_is_refused():
    with pytest.raises(ValueError, match="`number` must be from 1 to 39"):
        sample_words(WORDS, WORDS)


def test_sampled_loss_is_the_sum_by_hand(monkeypatch: pytest.MonkeyPatch):
    layer = softmax(num_sampled_words=3)
    features, labels = positions(2)
    sampled, tries = [0, 5, 9], 4
    monkeypatch.setattr(softmax_elmo, "sample_words", lambda *_: (torch.tensor(sampled), tries))

    def expected_count(word: int) -> float:
        probability = math.log((word + 2) / (word + 1)) / math.log(WORDS + 1)
        return 1 - (1 - probability) ** tries

    expected = []
    for feature, label in zip(features, labels.tolist(), strict=True):

        def score(word: int, feature: torch.Tensor = feature) -> float:
            logit = layer.weight[word] @ feature + layer.bias[word]
            return logit.item() - math.log(expected_count(word))

        # The second label, 5, is in the sample and must not stand against itself.
        against = [word for word in sampled if word != label]
        total = sum(math.exp(score(word)) for word in [label, *against])
        expected.append(math.log(total) - score(label))
    torch.testing.assert_close(layer.sampled_loss(features, labels), torch.tensor(expected))


def test_gradient_of_the_sampled_loss_approaches_the_exact_one():
    torch.manual_seed(0)
    layer = softmax(num_sampled_words=WORDS - 1)
    features, labels = positions()

    def gradient(loss: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(loss.mean(), layer.weight)[0]

    exact = gradient(layer.loss(features, labels))
    sampled = sum(gradient(layer.sampled_loss(features, labels)) for _ in range(300)) / 300
    assert torch.cosine_similarity(exact.flatten(), sampled.flatten(), dim=0) > 0.99


def test_sample_of_only_the_right_word_has_a_finite_gradient(monkeypatch: pytest.MonkeyPatch):
    layer = softmax(num_sampled_words=1)
    monkeypatch.setattr(softmax_elmo, "sample_words", lambda *_: (torch.tensor([5]), 1))
    loss = layer.sampled_loss(torch.ones(1, 6), torch.tensor([5]))
    loss.sum().backward()
    assert loss.item() == 0.0
    assert layer.weight.grad.isfinite().all()


def test_full_loss_in_chunks_is_that_of_the_probabilities(monkeypatch: pytest.MonkeyPatch):
    layer = softmax()
    features, labels = positions()
    expected = -layer(features)[torch.arange(7), labels]
    monkeypatch.setattr(softmax_elmo, "LOGITS_PER_CHUNK", 2 * WORDS)
    torch.testing.assert_close(layer.loss(features, labels), expected)
    torch.testing.assert_close(layer(features).exp().sum(-1), torch.ones(7))


@pytest.mark.parametrize("method", ["loss", "sampled_loss"])
def test_positions_without_a_label_lose_nothing(method: str):
    layer = softmax(num_sampled_words=5)
    features, labels = positions()
    labels[2] = -100
    losses = getattr(layer, method)(features, labels)
    losses.sum().backward()
    assert losses[2] == 0.0
    assert (losses[labels >= 0] > 0.0).all()


def test_vocabulary_is_asked_for():
    with pytest.raises(ValueError, match="`word_vocab_size` must be the number of words"):
        ElmoSoftmax(tiny_config())
