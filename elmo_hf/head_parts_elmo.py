# SPDX-License-Identifier: Apache-2.0
"""What the heads share: a BiLSTM, one vector for a sentence, losses."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from .configuration_elmo import ElmoConfig
from .engine_elmo import keeps_shapes
from .lstm_elmo import lstm
from .lstm_kernels_elmo import Clips, LstmWeights
from .packing_elmo import words_first
from .softmax_elmo import at_least_float32


class ElmoHeadLstm(nn.Module):
    """A BiLSTM over the mixed representations, as in the paper's tagger (section 4, named entity extraction)."""

    def __init__(self, config: ElmoConfig):
        super().__init__()
        self.lstm = nn.LSTM(config.hidden_size, config.head_lstm_size, bidirectional=True)

    def forward(self, hidden_states: Tensor, mask: Tensor) -> Tensor:
        """(..., words, hidden_size), (..., words) -> (..., words, 2 * head_lstm_size), zeros at padding."""
        if keeps_shapes(mask):
            outputs = self._run_padded(hidden_states.flatten(0, -3), mask.flatten(0, -2))
            return outputs.reshape(*mask.shape, outputs.shape[-1])
        lengths = [length for length in mask.sum(-1).flatten().tolist() if length > 0]
        outputs = hidden_states.new_zeros(*mask.shape, 2 * self.lstm.hidden_size)
        if not lengths:
            return outputs
        # Each sentence without its padding, wherever it stands.
        words = hidden_states[mask].to(next(self.lstm.parameters()).dtype)
        sentences = pack_sequence(words.split(lengths), enforce_sorted=False)
        # On a CPU without bfloat16, PyTorch's autocast takes a single sentence to an operator that refuses it.
        with torch.autocast("cpu", enabled=False):
            words = torch.cat(unpack_sequence(self.lstm(sentences)[0]))
        return outputs.to(words.dtype).masked_scatter(mask.unsqueeze(-1), words)

    def _run_padded(self, hidden_states: Tensor, mask: Tensor) -> Tensor:
        """The same of (batch, words, hidden_size) and (batch, words), without a shape that depends on the values."""
        batch, width = mask.shape
        columns, lengths = words_first(mask), mask.sum(1)
        step = torch.arange(width, device=mask.device)
        # Reversing a sentence is its own inverse.
        backward_step = torch.where(step < lengths[:, None], lengths[:, None] - 1 - step, step)
        size, dtype = self.lstm.hidden_size, next(self.lstm.parameters()).dtype
        hidden_states = hidden_states.to(dtype)
        # A layer of ours projects what it gives.
        identity = torch.eye(size, dtype=dtype, device=mask.device)
        directions = []
        for suffix, order in (("", columns), ("_reverse", columns.gather(1, backward_step))):
            weight_ih, weight_hh, *biases = (
                getattr(self.lstm, f"{name}_l0{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            # (words * batch, hidden_size), time-major
            inputs = hidden_states.gather(1, order.unsqueeze(-1).expand_as(hidden_states))
            inputs = inputs.transpose(0, 1).flatten(0, 1)
            state = inputs.new_zeros(batch, size)
            weights = LstmWeights(weight_ih, weight_hh, sum(biases), identity)
            outputs, _, _ = lstm(inputs, state, state, [], weights, Clips(None, None), lengths)
            outputs = outputs.unflatten(0, (width, batch)).transpose(0, 1)
            directions.append(torch.zeros_like(outputs).scatter(1, order.unsqueeze(-1).expand_as(outputs), outputs))
        return torch.where(mask.unsqueeze(-1), torch.cat(directions, dim=-1), 0.0)


def pool(features: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """(..., words, features), (..., words) -> (..., features), 0 for a sentence without words; `sentence_pooling`."""
    is_word, is_sentence = mask.unsqueeze(-1), mask.any(-1, keepdim=True)
    if pooling == "mean" or mask.shape[-1] == 0:
        return torch.where(is_word, features, 0.0).sum(-2) / mask.sum(-1, keepdim=True).clamp(min=1)
    if pooling == "max":
        pooled = features.masked_fill(~is_word, float("-inf")).amax(-2)
    else:
        positions = torch.arange(mask.shape[-1], device=mask.device)
        last, first = (positions * mask).amax(-1), mask.to(torch.uint8).argmax(-1)
        halves = features.chunk(2, dim=-1)
        # (..., 1, features / 2); not `take_along_dim`, which exporters take for shapes of their own.
        ends = [end[..., None, None].expand_as(halves[0][..., :1, :]) for end in (last, first)]
        pooled = torch.cat([half.gather(-2, end).squeeze(-2) for half, end in zip(halves, ends, strict=True)], dim=-1)
    return torch.where(is_sentence, pooled, 0.0)


def cross_entropy(scores: Tensor, labels: Tensor, num_items: Tensor | int | None = None) -> Tensor:
    """
    Mean over the labels other than -100, 0 if there is none.

    Args:
        scores: (..., classes).
        labels: (...) classes, -100 where there is nothing to learn.
        num_items: what to divide the sum by instead: `num_items_in_batch` of a `Trainer` that accumulates gradients.
    """
    labels = labels.to(scores.device, torch.long).flatten()
    total = F.cross_entropy(at_least_float32(scores).flatten(0, -2), labels, reduction="sum")
    return divided(total, labels.ne(-100).sum().clamp(min=1) if num_items is None else num_items)


def divided(total: Tensor, num_items: Tensor | int) -> Tensor:
    return total / (num_items.to(total.device) if isinstance(num_items, Tensor) else num_items)


def positions_of_words(positions: Tensor, mask: Tensor) -> Tensor:
    """(batch,) or (batch, 1) positions, -100 in place of those at which (batch, words) `mask` has no word."""
    positions = positions.to(mask.device, torch.long).reshape(-1, 1)
    words = mask.shape[-1]
    # One more column, without a word, for positions outside.
    is_word = F.pad(mask, (0, 1)).gather(1, torch.where((positions >= 0) & (positions < words), positions, words))
    return torch.where(is_word, positions, -100).squeeze(1)
