"""The softmax over words, in full and sampled: against sums by hand and against the exact gradient."""

import math
from typing import Any

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


def inputs_of_a_sampled_loss(dtype: torch.dtype = torch.float64) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Features, weights, bias and true logits, and where right words are among the sampled ones."""
    generator = torch.Generator().manual_seed(2)
    shapes = ((11, 6), (9, 6), (9,), (11,))
    tensors = [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]
    return tensors, [torch.tensor([0, 3, 4, 10]), torch.tensor([8, 0, 5, 2])]


@pytest.mark.parametrize("rows", [1, 4, 256])
@pytest.mark.parametrize("needed", [(0, 1, 2, 3), (0,), (1,), (2, 3)])
def test_the_fused_loss_and_its_gradients_are_those_of_the_definition(
    rows: int, needed: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(softmax_elmo, "SAMPLED_ROWS", rows)
    tensors, places = inputs_of_a_sampled_loss()
    for index, tensor in enumerate(tensors):
        tensor.requires_grad_(index in needed)
    wanted = [tensors[index] for index in needed]
    found = softmax_elmo.SampledLossFunction.apply(*tensors, *places, tensors[0].dtype)
    expected = softmax_elmo._sampled_losses(*tensors, *places)
    torch.testing.assert_close(found, expected)
    outer = torch.arange(11, dtype=torch.float64)
    for _ in range(2):
        # What was kept is as it was after the first time.
        gradients = torch.autograd.grad(found, wanted, outer, retain_graph=True)
        right = torch.autograd.grad(expected, wanted, outer, retain_graph=True)
        for given, expected_gradient in zip(gradients, right, strict=True):
            torch.testing.assert_close(given, expected_gradient)


def test_the_fused_loss_can_be_differentiated_twice_and_for_several_gradients_at_once():
    tensors, places = inputs_of_a_sampled_loss()
    call = softmax_elmo.SampledLossFunction.apply
    assert torch.autograd.gradgradcheck(lambda *given: call(*given, *places, torch.float64), tensors)
    outer = torch.eye(11, dtype=torch.float64)
    losses = call(*tensors, *places, torch.float64)
    for given, expected in zip(
        torch.autograd.grad(losses, tensors, outer, is_grads_batched=True, retain_graph=True),
        torch.autograd.grad(softmax_elmo._sampled_losses(*tensors, *places), tensors, outer, is_grads_batched=True),
        strict=True,
    ):
        torch.testing.assert_close(given, expected)


def test_the_fused_loss_bears_any_scale_and_no_position():
    tensors, places = inputs_of_a_sampled_loss(torch.float32)
    large = [300.0 * tensor.detach() for tensor in tensors]
    found = softmax_elmo.SampledLossFunction.apply(*large, *places, torch.float32)
    torch.testing.assert_close(found, softmax_elmo._sampled_losses(*large, *places))
    assert bool(found.isfinite().all())
    none = [large[0][:0], large[1], large[2], large[3][:0], places[0][:0], places[1][:0]]
    assert softmax_elmo.SampledLossFunction.apply(*none, torch.float32).shape == (0,)


def test_training_takes_the_fused_loss_and_what_looks_at_tensors_the_definition(monkeypatch: pytest.MonkeyPatch):
    layer = softmax(num_sampled_words=9)
    features, labels = positions()
    labels[2] = -100
    calls: list[int] = []
    apply = softmax_elmo.SampledLossFunction.apply

    def counted(*given: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return apply(*given)

    monkeypatch.setattr(softmax_elmo.SampledLossFunction, "apply", counted)
    torch.manual_seed(0)
    found = layer.sampled_loss(features, labels)
    assert calls
    assert found[2] == 0
    del calls[:]
    torch.manual_seed(0)
    halves = layer.bfloat16().sampled_loss(features.bfloat16(), labels)
    assert calls
    assert halves.dtype == torch.float32
    torch.testing.assert_close(halves, found, rtol=0.05, atol=0.05)


def test_under_autocast_the_fused_loss_has_products_in_bfloat16_and_sums_in_float32(monkeypatch: pytest.MonkeyPatch):
    layer = ElmoSoftmax(tiny_config(word_vocab_size=400, num_sampled_words=60, projection_dim=32))
    torch.manual_seed(1)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    features, labels = torch.randn(300, 32, requires_grad=True), torch.randint(400, (300,))
    dtypes: list[torch.dtype] = []
    monkeypatch.setattr(softmax_elmo, "is_emulated", lambda dtype: False)
    apply = softmax_elmo.SampledLossFunction.apply

    def noted(*given: Any) -> torch.Tensor:
        dtypes.append(given[-1])
        return apply(*given)

    monkeypatch.setattr(softmax_elmo.SampledLossFunction, "apply", noted)
    wanted = [features, layer.weight, layer.bias]
    results = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            losses = layer.sampled_loss(features, labels)
        results.append([losses, *torch.autograd.grad(losses.sum(), wanted)])
    assert dtypes == [torch.float32, torch.bfloat16]
    for exact, rounded in zip(*results, strict=True):
        assert rounded.dtype == torch.float32
        assert not torch.equal(rounded, exact)
        assert torch.cosine_similarity(rounded.flatten(), exact.flatten(), dim=0) > 0.9999
