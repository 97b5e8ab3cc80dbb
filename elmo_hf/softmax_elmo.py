# SPDX-License-Identifier: Apache-2.0
"""The softmax over words that trains and reads out a biLM: in full, or against a sample of the vocabulary."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_elmo import ElmoConfig

# Logits that are held at once (256 MB of float32), however large the vocabulary is.
LOGITS_PER_CHUNK = 1 << 26


def at_least_float32(values: Tensor) -> Tensor:
    """`values`, in float32 if they are in half precision: losses are sums of many small numbers."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class ElmoSoftmax(nn.Module):
    """
    Word probabilities from the top of one direction. Both directions share its weights, as in bilm-tf
    (`softmax/W`, `softmax/b`); the word embeddings of the input are made of characters and share nothing with it.

    Words are ordered by falling count, which the sampling relies on.
    """

    def __init__(self, config: ElmoConfig):
        super().__init__()
        if config.word_vocab_size is None:
            raise ValueError(
                "`word_vocab_size` must be the number of words that the language model predicts, was: None. "
                "It is `len(tokenizer.word_vocabulary)`."
            )
        self.num_sampled_words = config.num_sampled_words
        self.weight = nn.Parameter(torch.empty(config.word_vocab_size, config.projection_dim))
        self.bias = nn.Parameter(torch.empty(config.word_vocab_size))

    @property
    def samples(self) -> bool:
        """Whether [`sampled_loss`] looks at fewer words than there are."""
        return self.num_sampled_words is not None and self.num_sampled_words < len(self.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(..., projection_dim) tops of either direction -> (..., word_vocab_size) logarithms of probabilities."""
        return torch.log_softmax(at_least_float32(F.linear(features, self.weight, self.bias)), dim=-1)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """
        Exact negative log-likelihood of each word, a slice of positions after the other.

        Args:
            features: (N, projection_dim).
            labels: (N,) words, -100 where there is none.

        Returns:
            (N,) in nats, 0 where there is no label.
        """
        if torch.compiler.is_compiling():
            # The number of slices would become part of the program; ONNX gives a cross entropy another shape.
            losses = -self(features).gather(1, labels.clamp(min=0).unsqueeze(1)).squeeze(1)
            return torch.where(labels >= 0, losses, 0.0)
        rows = max(1, LOGITS_PER_CHUNK // len(self.bias))
        pieces = [
            F.cross_entropy(at_least_float32(F.linear(part, self.weight, self.bias)), targets, reduction="none")
            for part, targets in zip(features.split(rows), labels.split(rows), strict=True)
        ]
        return torch.cat(pieces)

    def sampled_loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """
        As `loss`, against `num_sampled_words` words instead of all (Jean et al., 2015; `tf.nn.sampled_softmax_loss`).
        Smaller than `loss` and no likelihood: for gradients, never for a perplexity.
        """
        number = len(self.bias) - 1 if self.num_sampled_words is None else self.num_sampled_words
        sampled, tries = sample_words(number, len(self.bias), features.device)
        # Each logit less the logarithm of how often its word is expected in the sample.
        weight, bias = self.weight[sampled], self.bias[sampled] - _log_expected_count(sampled, tries, len(self.bias))
        logits = at_least_float32(F.linear(features, weight, bias.to(weight.dtype)))
        has_label = labels >= 0
        words = labels.clamp(min=0)
        true_logits = at_least_float32((features * self.weight[words]).sum(-1)) + self.bias[words]
        true_logits = true_logits - _log_expected_count(words, tries, len(self.bias)).to(true_logits.dtype)
        # A sampled word that is the right one does not stand against itself.
        place = torch.full_like(self.bias, -1, dtype=torch.long)
        place[sampled] = torch.arange(len(sampled), device=place.device)
        row = torch.nonzero(place[words] >= 0).squeeze(-1)
        logits = logits.index_put((row, place[words[row]]), logits.new_tensor(torch.finfo(logits.dtype).min))
        losses = torch.logaddexp(true_logits, torch.logsumexp(logits, dim=-1)) - true_logits
        return torch.where(has_label, losses, 0.0)


def sample_words(number: int, vocab_size: int, device: torch.device | None = None) -> tuple[Tensor, int]:
    """
    Draws distinct words from the log-uniform (Zipfian) distribution `P(k) = log((k + 2) / (k + 1)) / log(vocab_size +
    1)`, as `tf.random.log_uniform_candidate_sampler(unique=True)` does.

    Returns:
        (number,) words and how many draws it took to find that many different ones.
    """
    if not 0 < number < vocab_size:
        raise ValueError(f"`number` must be from 1 to {vocab_size - 1}, one less than there are words, was: {number}.")
    draws = torch.empty(0, dtype=torch.long)
    while True:
        uniform = torch.rand(2 * number, dtype=torch.float64)
        words = (torch.exp(uniform * math.log(vocab_size + 1)).long() - 1).clamp_(0, vocab_size - 1)
        draws = torch.cat([draws, words])
        # (vocab_size,) where each word was drawn first, the end where it was not.
        first = torch.full((vocab_size,), len(draws))
        first.scatter_reduce_(0, draws, torch.arange(len(draws)), "amin")
        firsts = first[first < len(draws)].sort().values
        if len(firsts) >= number:
            return draws[firsts[:number]].to(device), int(firsts[number - 1]) + 1


def _log_expected_count(words: Tensor, tries: int, vocab_size: int) -> Tensor:
    """Logarithm of the probability that a word is among the different ones of `tries` draws."""
    # In float64: the probability of a rare word is close to 0.
    words = words.double()
    probability = torch.log1p(1.0 / (words + 1.0)) / math.log(vocab_size + 1)
    return torch.log(-torch.expm1(tries * torch.log1p(-probability)))
