# SPDX-License-Identifier: Apache-2.0
"""The softmax over words that trains and reads out a biLM: in full, or against a sample of the vocabulary."""

import math
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_elmo import ElmoConfig
from .engine_elmo import is_batch_of_gradients, runs_plainly
from .products_elmo import is_emulated

# Logits that are held at once (256 MB of float32), however large the vocabulary is.
LOGITS_PER_CHUNK = 1 << 26
# Rows of the sampled softmax that are made at once on a CPU: with 2,048 samples, 2 MB.
SAMPLED_ROWS = 256


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
        bias = bias.to(weight.dtype)
        given, has_label = features.dtype, labels >= 0
        words = labels.clamp(min=0)
        true_logits = (at_least_float32(features) * at_least_float32(self.weight[words])).sum(-1) + self.bias[words]
        true_logits = true_logits - _log_expected_count(words, tries, len(self.bias)).to(true_logits.dtype)
        # A sampled word that is the right one does not stand against itself.
        place = torch.full_like(self.bias, -1, dtype=torch.long)
        place[sampled] = torch.arange(len(sampled), device=place.device)
        row = torch.nonzero(place[words] >= 0).squeeze(-1)
        # Of one dtype from here on.
        features, weight, bias = map(at_least_float32, (features, weight, bias))
        tensors = features, weight, bias, true_logits
        column, device_type = place[words[row]], features.device.type
        if runs_plainly(*tensors) and len({tensor.dtype for tensor in tensors}) == 1:
            autocast = torch.is_autocast_enabled(device_type)
            dtype = torch.get_autocast_dtype(device_type) if autocast else given
            if device_type == "cpu" and is_emulated(dtype):
                dtype = tensors[0].dtype
            with torch.autocast(device_type, enabled=False) if autocast else nullcontext():
                losses = SampledLossFunction.apply(*tensors, row, column, dtype)
        else:
            losses = _sampled_losses(*tensors, row, column)
        return torch.where(has_label, losses, 0.0)


def _sampled_losses(
    features: Tensor, weight: Tensor, bias: Tensor, true_logits: Tensor, row: Tensor, column: Tensor
) -> Tensor:
    """
    The definition.

    Args:
        features: (N, projection_dim).
        weight: (samples, projection_dim) of the sampled words.
        bias: (samples,).
        true_logits: (N,) of the right words.
        row: where the right word is among the sampled ones, its position, rising.
        column: there, its place among them.

    Returns:
        (N,) losses.
    """
    logits = at_least_float32(F.linear(features, weight, bias))
    logits = logits.index_put((row, column), logits.new_tensor(torch.finfo(logits.dtype).min))
    return torch.logaddexp(true_logits, torch.logsumexp(logits, dim=-1)) - true_logits


class SampledLossFunction(torch.autograd.Function):
    """
    `_sampled_losses` with one tensor of (N, samples), which is made some rows at a time, while they are in the cache,
    and which the backward pass only multiplies with. `dtype` is that of the products and of this tensor.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        true_logits: Tensor,
        row: Tensor,
        column: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        # (N, samples) probabilities of the sampled words among each other
        shares = features.new_empty(len(features), len(weight), dtype=dtype)
        # (N,) logarithm of the sum of the exponentials of their logits
        sums = torch.empty_like(true_logits)
        rows = SAMPLED_ROWS if features.device.type == "cpu" else max(1, len(features))
        starts = range(0, len(features), rows)
        bounds = torch.searchsorted(row, torch.tensor([*starts, len(features)], device=row.device)).tolist()
        read, words = features.to(dtype), weight.to(dtype).t()
        for start, (first, last) in zip(starts, pairwise(bounds), strict=True):
            at = slice(start, start + rows)
            if dtype == features.dtype:
                logits = torch.addmm(bias, read[at], words)
            else:
                logits = torch.mm(read[at], words).to(features.dtype).add_(bias)
            logits[row[first:last] - start, column[first:last]] = torch.finfo(logits.dtype).min
            # In one go over a row, and faster than `exp` alone (`benchmarks/functions.py`).
            if dtype == features.dtype:
                of_rows = torch.softmax(logits, 1, out=shares[at])
            else:
                of_rows = torch.softmax(logits, 1)
                shares[at] = of_rows
            # The share of the highest is 1 by the sum of what the others are to it.
            sums[at] = logits.amax(1) - of_rows.amax(1).log()
        losses = torch.logaddexp(true_logits, sums) - true_logits
        ctx.save_for_backward(features, weight, bias, true_logits, row, column, shares, sums, losses)
        return losses

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, bias, true_logits, row, column, shares, sums, losses = ctx.saved_tensors
        if torch.is_grad_enabled() or is_batch_of_gradients(gradient):
            # It is to be differentiated itself, or is several at once.
            with torch.enable_grad():
                tensors = [tensor.view_as(tensor) for tensor in (features, weight, bias, true_logits)]
                expected = _sampled_losses(tensors[0], tensors[1], tensors[2], tensors[3], row, column)
                found = torch.autograd.grad(expected, tensors, gradient, create_graph=True)
            return *found, None, None, None
        # (N, 1) the gradient by the logarithm of the sum: the share of all sampled words beside the right one
        scale = (gradient * torch.exp(sums - true_logits - losses))[:, None]
        needs_features, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        dtype = shares.dtype
        return (
            torch.mm(shares, weight.to(dtype)).to(scale.dtype).mul_(scale) if needs_features else None,
            torch.mm(shares.t(), (features * scale).to(dtype)).to(scale.dtype) if needs_weight else None,
            torch.mm(shares.t(), scale.to(dtype))[:, 0].to(scale.dtype) if needs_bias else None,
            gradient * torch.expm1(-losses),
            None,
            None,
            None,
        )


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
