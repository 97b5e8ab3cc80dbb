"""Any mask, laid out for the LSTMs, against a construction row by row."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from elmo_hf.packing_elmo import BEGIN_OF_SENTENCE, END_OF_SENTENCE, FIRST_WORD, PackedWords, pack_words

BOOLEANS = st.booleans()


@st.composite
def masks(draw: st.DrawFn) -> Tensor:
    """Padding on either side, holes, empty rows, no rows, no columns."""
    batch, width = draw(st.integers(0, 5)), draw(st.integers(0, 6))
    values = draw(st.lists(BOOLEANS, min_size=batch * width, max_size=batch * width))
    return torch.tensor(values, dtype=torch.bool).view(batch, width)


def word_rows_of(mask: Tensor) -> Tensor:
    return FIRST_WORD + torch.arange(mask.numel()).view(mask.shape)


def pack(mask: Tensor, keep: bool = False, static: bool = False) -> PackedWords:
    return pack_words(mask, word_rows_of(mask), keep_sentence_boundaries=keep, static_shapes=static)


def sentences_of(mask: Tensor) -> list[list[int]]:
    """Rows of the table of word vectors that each sentence reads."""
    rows = word_rows_of(mask)
    return [[BEGIN_OF_SENTENCE, *rows[i][mask[i]].tolist(), END_OF_SENTENCE] for i in range(len(mask))]


def positions_of(packed: PackedWords, sentences: list[list[int]]) -> list[list[int]]:
    """For each row of the batch, where the packed order has each of its steps."""
    positions: list[list[int]] = [[] for _ in sentences]
    start = 0
    # With static shapes, every row runs in every step.
    steps = len(packed.forward_words) // max(1, len(sentences))
    for size in packed.batch_sizes or [len(sentences)] * steps:
        for rank, row in enumerate(packed.sorted_rows[:size].tolist()):
            if len(positions[row]) < len(sentences[row]):
                positions[row].append(start + rank)
        start += size
    return positions


@pytest.mark.parametrize("static", [False, True], ids=["exact", "static"])
@settings(deadline=None)
@given(mask=masks())
def test_each_direction_reads_every_sentence_between_its_own_boundaries(static: bool, mask: Tensor):
    packed, sentences = pack(mask, static=static), sentences_of(mask)
    for positions, sentence in zip(positions_of(packed, sentences), sentences, strict=True):
        assert packed.forward_words[positions].tolist() == sentence
        assert packed.backward_words[positions].tolist() == sentence[::-1]
        assert packed.forward_to_backward[positions].tolist() == positions[::-1]


@settings(deadline=None)
@given(mask=masks())
def test_exact_shapes_compute_no_padding_and_static_shapes_mark_it(mask: Tensor):
    exact, static = pack(mask), pack(mask, static=True)
    num_positions = sum(map(len, sentences_of(mask)))
    assert sum(exact.batch_sizes) == num_positions == len(exact.forward_words)
    assert exact.valid is None
    assert exact.lengths is None
    assert static.batch_sizes == []
    assert len(static.forward_words) == len(mask) * (mask.shape[1] + 2)
    assert static.valid is not None
    assert static.lengths is not None
    assert int(static.valid.sum()) == num_positions
    assert static.lengths.tolist() == [len(sentence) for sentence in sentences_of(mask)]


def plain_scatter(mask: Tensor, keep: bool) -> list[list[int]]:
    """Where each word goes, by its row in the table of word vectors; -1 where nothing goes."""
    output = []
    for row, sentence in enumerate(sentences_of(mask)):
        columns = mask[row].nonzero().flatten().tolist()
        line = [-1] * (mask.shape[1] + 2 * keep)
        for column, word in zip(columns, sentence[1:-1], strict=True):
            line[column + keep] = word
        if keep:
            first, last = (columns[0], columns[-1]) if columns else (0, -1)
            line[first], line[last + 2] = BEGIN_OF_SENTENCE, END_OF_SENTENCE
        output.append(line)
    return output


@pytest.mark.parametrize("keep", [False, True], ids=["without boundaries", "with boundaries"])
@pytest.mark.parametrize("static", [False, True], ids=["exact", "static"])
@settings(deadline=None)
@given(mask=masks())
def test_every_word_comes_back_to_its_column_and_padding_is_zero(static: bool, keep: bool, mask: Tensor):
    packed = pack(mask, keep, static)
    # One more than the row of the table, so that 0 is left for padding; the second feature tells a swap of features.
    values = torch.stack([packed.forward_words + 1, -(packed.forward_words + 1)], dim=1)
    scattered = packed.scatter(values).view(len(mask), mask.shape[1] + 2 * keep, 2)
    expected = torch.tensor(plain_scatter(mask, keep)).view(scattered.shape[:2]) + 1
    assert torch.equal(scattered[..., 0], expected)
    assert torch.equal(scattered[..., 1], -expected)


def test_boundaries_stand_beside_the_first_and_the_last_word_by_example():
    mask = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0]], dtype=torch.bool)
    packed = pack(mask, keep=True)
    lines = packed.scatter(packed.forward_words[:, None] + 1).view(4, 6).tolist()
    begin, end = BEGIN_OF_SENTENCE + 1, END_OF_SENTENCE + 1
    assert lines == [
        [begin, 3, 4, end, 0, 0],
        [0, 0, begin, 9, 10, end],
        [0, begin, 12, 0, 14, end],
        [begin, end, 0, 0, 0, 0],
    ]
