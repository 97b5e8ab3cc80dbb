# SPDX-License-Identifier: Apache-2.0
"""Where each word of a batch stands: in the batch, in the time-major order of the LSTMs and in the output."""

import random
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

# Rows of the table of word vectors that hold the sentence boundaries; the words of the batch follow.
BEGIN_OF_SENTENCE, END_OF_SENTENCE, FIRST_WORD = 0, 1, 2


@dataclass
class PackedWords:
    """
    The order in which the LSTMs read a batch: time-major, longest sentence first, without padding (what
    `torch.nn.utils.rnn.PackedSequence` holds). Every sentence is `<S>`, its words, `</S>`; the backward direction
    starts at each sentence's own `</S>`. `N` is the number of positions of all sentences together.

    Attributes:
        batch_sizes: sentences that are still running at each step, never increasing. Sums to `N`. Empty where all
            sentences are laid out as long as the longest one, see `lengths`.
        sorted_rows: (batch,) the row of the batch that each running sentence is.
        forward_words: (N,) for each position in forward order, its row in the table of word vectors.
        backward_words: (N,) the same in backward order.
        forward_to_backward: (N,) for each position in forward order, where backward order has it.
        slots: (N,) for each position in forward order, its place in the flattened output; `num_slots` is a place
            that is thrown away.
        num_slots: places in the flattened output, `width` for each row of the batch.
        lengths: (batch,) sentence lengths with boundaries when each of `N / batch` steps has a position for each row
            of the batch, padding included, which must not reach the final state; else `None`.
        valid: (N,) which positions are no padding, or `None` when all are.
    """

    batch_sizes: list[int]
    sorted_rows: Tensor
    forward_words: Tensor
    backward_words: Tensor
    forward_to_backward: Tensor
    slots: Tensor
    num_slots: int
    width: int
    lengths: Tensor | None = None
    valid: Tensor | None = None

    def scatter(self, packed: Tensor) -> Tensor:
        """Takes (N, features) in forward order to (num_slots, features), with zeros where there is no word."""
        output = packed.new_zeros(self.num_slots + 1, packed.shape[-1])
        return output.index_copy(0, self.slots, packed)[:-1]

    def consecutive(self) -> tuple[Tensor, Tensor]:
        """(N - batch,) positions in forward order of the first and of the second of each two neighbours."""
        # Not `len`, which exporters take for a constant.
        batch = self.sorted_rows.shape[0]
        second = torch.arange(batch, self.slots.shape[0], device=self.slots.device)
        if self.lengths is not None:
            return second - batch, second
        # A sentence stands one step's running sentences further on at the next step.
        distances = [second.new_full((running,), before) for before, running in pairwise(self.batch_sizes)]
        return (second - torch.cat(distances) if distances else second), second

    def boundaries(self) -> tuple[Tensor, Tensor]:
        """(N,) which positions in forward order are `<S>`, and which are `</S>`."""
        return self.forward_words == BEGIN_OF_SENTENCE, self.forward_words == END_OF_SENTENCE

    def rows(self) -> Tensor:
        """(N,) the row of the batch for each position in forward order."""
        if self.lengths is not None:
            return self.sorted_rows.expand(self.slots.shape[0] // self.sorted_rows.shape[0], -1).flatten()
        return torch.cat([self.sorted_rows[:running] for running in self.batch_sizes])


def pack_words(mask: Tensor, word_rows: Tensor, keep_sentence_boundaries: bool, static_shapes: bool) -> PackedWords:
    """
    Lays out a batch for the LSTMs.

    Args:
        mask: (batch, words) which positions are words. Any pattern: padding on either side, holes, empty rows.
        word_rows: (batch, words) row of each word in the table of word vectors.
        keep_sentence_boundaries: whether `<S>` and `</S>` have places in the output, which then has words + 2 columns:
            `<S>` just before the first word and `</S>` just after the last one.
        static_shapes: lays out all sentences as if they were as long as the batch is wide, so that no shape depends on
            the values. Tracing needs it; it computes padding for nothing.
    """
    batch, width = mask.shape
    lengths = mask.sum(1) + 2
    # One more, so that any step finds a column.
    columns = F.pad(words_first(mask), (0, 1))
    batch_sizes, sorted_rows, offsets, step, rank = _order(lengths, width + 2, static_shapes)
    # (N,) the row of the batch and its length
    row = sorted_rows[rank]
    length = lengths[row]
    backward_step = length - 1 - step
    valid = step < length if static_shapes else None
    if valid is not None:
        backward_step = torch.where(valid, backward_step, step)
    forward_to_backward = offsets[backward_step] + rank

    # The k-th word stands at step k + 1.
    is_begin, is_end = step == 0, step == length - 1
    column = columns[row, (step - 1).clamp(min=0)]
    word_row = F.pad(word_rows, (0, 1))[row, column]
    forward_words = torch.where(is_begin, BEGIN_OF_SENTENCE, torch.where(is_end, END_OF_SENTENCE, word_row))

    if keep_sentence_boundaries:
        first, last = _boundary_columns(columns, lengths - 2)
        column = torch.where(is_begin, first[row], torch.where(is_end, last[row] + 2, column + 1))
        out_width, has_slot = width + 2, valid
    else:
        is_word = ~(is_begin | is_end)
        out_width, has_slot = width, is_word if valid is None else is_word & valid
    num_slots = batch * out_width
    slots = row * out_width + column
    if has_slot is not None:
        slots = torch.where(has_slot, slots, num_slots)

    return PackedWords(
        batch_sizes=batch_sizes,
        sorted_rows=sorted_rows,
        forward_words=forward_words,
        # Reversing a sentence is its own inverse: the same index serves both ways.
        backward_words=forward_words[forward_to_backward],
        forward_to_backward=forward_to_backward,
        slots=slots,
        num_slots=num_slots,
        width=out_width,
        lengths=lengths if static_shapes else None,
        valid=valid,
    )


def _order(lengths: Tensor, steps: int, static_shapes: bool) -> tuple[list[int], Tensor, Tensor, Tensor, Tensor]:
    """
    Returns:
        Running sentences at each step, none with `static_shapes`; (batch,) the rows in their order; (steps,) where
        each step begins among the positions; and for each position in forward order, (N,) its step, and the place of
        its row among those that run.
    """
    # Not `len`, which would make it a constant of a compiled program.
    batch, device = lengths.shape[0], lengths.device
    rows = torch.arange(batch, device=device)
    if static_shapes:
        numbers = torch.arange(steps, device=device)
        return (
            [],
            rows,
            numbers * batch,
            numbers[:, None].expand(-1, batch).flatten(),
            rows.expand(steps, -1).flatten(),
        )
    batch_sizes, sorted_rows = longest_first(lengths)
    offsets = _step_offsets(batch_sizes, device)
    step = torch.repeat_interleave(torch.tensor(batch_sizes, dtype=torch.long, device=device))
    return batch_sizes, sorted_rows, offsets, step, torch.arange(len(step), device=device) - offsets[step]


def _boundary_columns(columns: Tensor, num_words: Tensor) -> tuple[Tensor, Tensor]:
    """(batch,) columns of the first and of the last word; of an empty sentence such that its boundaries come first."""
    first = columns[:, 0]
    last = columns.gather(1, (num_words - 1).clamp(min=0)[:, None])[:, 0]
    return first, torch.where(num_words > 0, last, first - 1)


def words_first(mask: Tensor) -> Tensor:
    """(batch, width) -> (batch, width) the columns of the words of each row, in their order, then those of padding."""
    is_word = mask.long()
    places = torch.where(mask, is_word.cumsum(1), is_word.sum(1, keepdim=True) + (1 - is_word).cumsum(1)) - 1
    columns = torch.arange(mask.shape[1], device=mask.device)
    return torch.zeros_like(places).scatter(1, places, columns.expand_as(places))


def pack_streams(forward_rows: Tensor, backward_rows: Tensor, static_shapes: bool) -> PackedWords:
    """
    Lays out two streams a row, each in the order in which its direction reads it: no boundaries are added, and both
    directions' outputs stay in their own order.

    Args:
        forward_rows: (batch, words) row of each word in the table of word vectors.
        backward_rows: (batch, words) the same for the backward direction.
        static_shapes: as for [`pack_words`].
    """
    batch, words = forward_rows.shape
    positions = torch.arange(batch * words, device=forward_rows.device)
    return PackedWords(
        batch_sizes=[] if static_shapes else [batch] * words,
        sorted_rows=torch.arange(batch, device=forward_rows.device),
        forward_words=forward_rows.t().flatten(),
        backward_words=backward_rows.t().flatten(),
        forward_to_backward=positions,
        slots=positions,
        num_slots=batch * words,
        width=words,
        lengths=torch.full((batch,), words, device=forward_rows.device) if static_shapes else None,
    )


def unique_words(character_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the different rows of (words, characters) ids and the index of each word among them."""
    if len(character_ids) == 0:
        return character_ids, character_ids.new_zeros(0, dtype=torch.long)
    # Sorting one fingerprint for each word is far cheaper than sorting rows. Integer arithmetic wraps.
    factors = torch.tensor(_factors(character_ids.shape[1]), device=character_ids.device)
    fingerprints = (character_ids.long() * factors).sum(1)
    unique, rows = torch.unique(fingerprints, return_inverse=True)
    positions = torch.arange(len(rows), device=rows.device)
    table = character_ids[torch.empty_like(unique).index_copy_(0, rows, positions)]
    if not torch.equal(table[rows], character_ids):
        # Two words share a fingerprint; the slow way is always right.
        return torch.unique(character_ids, dim=0, return_inverse=True)
    return table, rows


@lru_cache(maxsize=8)
def _factors(number: int) -> list[int]:
    # Not drawn by PyTorch: a `vmap` would refuse to.
    generator = random.Random(0)
    return [generator.randrange(-(1 << 62), 1 << 62) for _ in range(number)]


def longest_first(lengths: Tensor) -> tuple[list[int], Tensor]:
    """The number of running sentences at each step, and rows by falling length."""
    sorted_lengths, sorted_rows = torch.sort(lengths, descending=True, stable=True)
    if len(lengths) == 0:
        return [], sorted_rows
    # The one copy to the host of a forward pass.
    of_each_length = torch.bincount(sorted_lengths.cpu())
    return of_each_length.flip(0).cumsum(0).flip(0)[1:].tolist(), sorted_rows


def _step_offsets(batch_sizes: list[int], device: torch.device) -> Tensor:
    """(steps,) where each step begins among the positions."""
    sizes = torch.tensor([0, *batch_sizes[:-1]], dtype=torch.long, device=device)
    return sizes.cumsum(0)
