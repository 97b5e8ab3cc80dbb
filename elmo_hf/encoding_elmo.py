# SPDX-License-Identifier: Apache-2.0
"""Words with their character ids on the way to a batch: windows, pairs, padding, offsets, tensors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import BatchEncoding
from transformers.tokenization_utils_base import PaddingStrategy, TruncationStrategy
from transformers.utils import TensorType

# Ids per word where nothing says otherwise.
DEFAULT_WIDTH = 50


@dataclass(eq=False)
class SplitText:
    """One text or list of words: the words, `(start, end)` of each in characters, and `(words, 50)` character ids."""

    tokens: list[str]
    offsets: list[tuple[int, int]]
    character_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def windows(self, max_length: int, stride: int, side: str) -> "list[tuple[int, SplitText]]":
        """
        Cuts of at most `max_length` words, each with the index of its first word, `stride` words of a cut repeated in
        the next. With `side="left"` they are counted from the end.
        """
        length = len(self)
        if length <= max_length:
            return [(0, self)]
        if max_length == 0:
            bounds = [(0, 0), (0, length)]
        elif stride >= max_length:
            raise ValueError(
                f"`stride` must be less than the {max_length} words that `max_length` leaves, was: {stride}."
            )
        else:
            count = 1 + -((max_length - length) // (max_length - stride))
            starts = [index * (max_length - stride) for index in range(count)]
            bounds = [(start, min(start + max_length, length)) for start in starts]
            if side == "left":
                bounds = [(length - end, length - start) for start, end in bounds]
        return [
            (start, SplitText(self.tokens[start:end], self.offsets[start:end], self.character_ids[start:end]))
            for start, end in bounds
        ]


@dataclass(eq=False)
class ElmoEncoding:
    """
    One encoded sequence, with the attributes and methods of a `tokenizers.Encoding` that `BatchEncoding` asks for.

    A token is a word, so tokens and words differ only in counting: a word counts from the start of its text or list,
    a token from the start of the encoding. Boundaries and padding belong to no sequence and no word, their offsets are
    `(0, 0)`.

    Attributes:
        tokens (list of `str`): The words as they stand in the text.
        character_ids (`np.ndarray`): Their ids, `(len(tokens), 50)` int64.
        offsets (list of `(start, end)`): In characters of the text, or of the word itself if words were given.
        word_ids (list of `int` or `None`): Which word of the text or list.
        sequence_ids (list of `int` or `None`): 0, or 1 in the second text of a pair.
        type_ids (list of `int`): The same with boundaries counted in: `</S>` in the first text, `<S>` in the second.
        attention_mask (list of `int`): 0 at padding.
        n_sequences (`int`): 2 for a pair.
        overflowing (list of `ElmoEncoding`): What truncation cut off, in windows.
    """

    tokens: list[str]
    character_ids: np.ndarray
    offsets: list[tuple[int, int]]
    word_ids: list[int | None]
    sequence_ids: list[int | None]
    type_ids: list[int]
    attention_mask: list[int]
    n_sequences: int = 1
    overflowing: "list[ElmoEncoding]" = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def ids(self) -> list[list[int]]:
        return self.character_ids.tolist()

    @property
    def words(self) -> list[int | None]:
        return self.word_ids

    @property
    def special_tokens_mask(self) -> list[int]:
        return [int(sequence is None) for sequence in self.sequence_ids]

    def token_to_sequence(self, token_index: int) -> int | None:
        return self.sequence_ids[token_index] if 0 <= token_index < len(self) else None

    def token_to_word(self, token_index: int) -> int | None:
        return self.word_ids[token_index] if 0 <= token_index < len(self) else None

    def token_to_chars(self, token_index: int) -> tuple[int, int] | None:
        return None if self.token_to_sequence(token_index) is None else self.offsets[token_index]

    def word_to_tokens(self, word_index: int, sequence_index: int = 0) -> tuple[int, int] | None:
        for token_index, place in enumerate(zip(self.word_ids, self.sequence_ids, strict=True)):
            if place == (word_index, sequence_index):
                return token_index, token_index + 1
        return None

    def word_to_chars(self, word_index: int, sequence_index: int = 0) -> tuple[int, int] | None:
        span = self.word_to_tokens(word_index, sequence_index)
        return None if span is None else self.offsets[span[0]]

    def char_to_token(self, char_index: int, sequence_index: int = 0) -> int | None:
        for token_index, (start, end) in enumerate(self.offsets):
            if start <= char_index < end and self.sequence_ids[token_index] == sequence_index:
                return token_index
        return None

    def char_to_word(self, char_index: int, sequence_index: int = 0) -> int | None:
        token_index = self.char_to_token(char_index, sequence_index)
        return None if token_index is None else self.word_ids[token_index]

    def padded(self, character_ids: np.ndarray, side: str, pad_token: str) -> "ElmoEncoding":
        """This encoding as long as `character_ids`, its own with padding on the given side."""
        number = len(character_ids) - len(self)
        return ElmoEncoding(
            padded_list(self.tokens, number, side, pad_token),
            character_ids,
            padded_list(self.offsets, number, side, (0, 0)),
            padded_list(self.word_ids, number, side, None),
            padded_list(self.sequence_ids, number, side, None),
            padded_list(self.type_ids, number, side, 0),
            padded_list(self.attention_mask, number, side, 0),
            self.n_sequences,
        )


def padded_list(values: list, number: int, side: str, value: Any) -> list:
    return [value] * number + values if side == "left" else values + [value] * number


def padded_rows(
    sequences: Sequence[np.ndarray] | np.ndarray, length: int, side: str
) -> Sequence[np.ndarray] | np.ndarray:
    """
    Sequences of `(words, 50)` ids with rows of zeros, "no word here", up to `length` words. One array
    `(sequences, length, 50)`, which a tensor then shares, unless some are longer already.
    """
    if any(len(rows) > length for rows in sequences):
        return [padded_rows([rows], max(length, len(rows)), side)[0] for rows in sequences]
    width = sequences[0].shape[1] if sequences else DEFAULT_WIDTH
    padded = np.zeros((len(sequences), length, width), dtype=np.int64)
    for target, rows in zip(padded, sequences, strict=True):
        start = length - len(rows) if side == "left" else 0
        target[start : start + len(rows)] = rows
    return padded


def _stacked(values: list, name: str, row_shape: tuple[int, ...] = ()) -> np.ndarray:
    """One array `(sequences, words, *row_shape)` of int64 from arrays or lists of `words` rows."""
    lengths = sorted({len(value) for value in values})
    if len(lengths) > 1:
        raise ValueError(
            f"`{name}` must have one length to become a tensor, has: {', '.join(map(str, lengths))}. "
            "Pass `padding=True`, or `truncation=True` and `max_length` as well."
        )
    stacked = np.asarray(values, dtype=np.int64)
    return stacked.reshape(len(values), *(lengths or [0]), *row_shape)


# Columns of an encoding beside `input_ids`: what to pad them with, and the shape of one entry.
COLUMNS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "token_type_ids": (0, ()),
    "attention_mask": (0, ()),
    "special_tokens_mask": (1, ()),
    "offset_mapping": ((0, 0), (2,)),
}


def samples_of(text: Any, text_pair: Any, is_split_into_words: bool) -> tuple[list[tuple], bool]:
    """Samples of one or two texts (or lists of words), and whether they came as a batch."""
    if isinstance(text, str) and is_split_into_words:
        raise TypeError(f"`text` must be a list of words if `is_split_into_words=True`, was: {text!r}.")
    is_batch = isinstance(text, (list, tuple)) and (
        (len(text) > 0 and _is_sequence(text[0])) if is_split_into_words else True
    )
    if not is_batch:
        return [(text,) if text_pair is None else (text, text_pair)], False
    if text_pair is None:
        return [_sample(item, is_split_into_words) for item in text], True
    if not isinstance(text_pair, (list, tuple)):
        raise TypeError(f"`text_pair` must be a list as long as the batch `text`, was: {text_pair!r}.")
    if len(text_pair) != len(text):
        raise ValueError(f"`text_pair` must be as long as the batch `text`, {len(text)}, was: {len(text_pair)}.")
    return list(zip(text, text_pair, strict=True)), True


def _sample(item: Any, is_split_into_words: bool) -> tuple:
    """One item of a batch, `(text,)` or `(text, text_pair)`."""
    if not _is_sequence(item) or (is_split_into_words and not any(map(_is_sequence, item))):
        return (item,)
    if len(item) != 2:
        raise ValueError(f"A pair must have two texts, was: {item!r}.")
    return tuple(item)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray))


def kept_lengths(lengths: list[int], max_length: int, strategy: TruncationStrategy) -> list[int]:
    """Words to keep of each of one or two texts, `max_length` in all, fewer than there are."""
    if max_length == 0:
        return [0] * len(lengths)
    if strategy == TruncationStrategy.LONGEST_FIRST and len(lengths) == 2:
        # The shorter text stays whole if the longer one stays longer; else both get half, the longer the odd word.
        shorter = min(*lengths, max_length // 2)
        longer = max_length - shorter
        return [shorter, longer] if lengths[0] <= lengths[1] else [longer, shorter]
    index = int(strategy == TruncationStrategy.ONLY_SECOND)
    if index >= len(lengths):
        raise ValueError("`truncation='only_second'` needs a `text_pair`, was: None.")
    kept = max_length - (sum(lengths) - lengths[index])
    if kept <= 0:
        raise ValueError(
            f"`max_length` must leave a word of the text that {strategy.value!r} cuts; the other has "
            f"{sum(lengths) - lengths[index]} words, `max_length` without boundaries was: {max_length}."
        )
    return [kept if place == index else length for place, length in enumerate(lengths)]


def padded_length(
    lengths: Iterable[int], strategy: PaddingStrategy, max_length: int | None, multiple: int | None
) -> int:
    """Words to pad each sequence to, 0 for no padding."""
    if strategy == PaddingStrategy.DO_NOT_PAD:
        return 0
    longest = max(lengths, default=0)
    length = max_length if strategy == PaddingStrategy.MAX_LENGTH and max_length is not None else longest
    return -(-length // multiple) * multiple if multiple else length


def encoding_of(words: SplitText, start: int, sequence: int) -> ElmoEncoding:
    """A cut of one text that begins at its word `start`."""
    length = len(words)
    word_ids: list[int | None] = list(range(start, start + length))
    return ElmoEncoding(
        words.tokens,
        words.character_ids,
        words.offsets,
        word_ids,
        [sequence] * length,
        [sequence] * length,
        [1] * length,
    )


def concatenated(parts: list[ElmoEncoding]) -> ElmoEncoding:
    """The encoding of a pair."""
    return ElmoEncoding(
        [token for part in parts for token in part.tokens],
        np.concatenate([part.character_ids for part in parts]),
        [offset for part in parts for offset in part.offsets],
        [word for part in parts for word in part.word_ids],
        [sequence for part in parts for sequence in part.sequence_ids],
        [type_id for part in parts for type_id in part.type_ids],
        [mask for part in parts for mask in part.attention_mask],
        n_sequences=2,
    )


def as_lists(data: dict[str, list]) -> dict[str, list]:
    return {**data, "input_ids": [rows.tolist() for rows in data["input_ids"]]}


def as_batch(data: dict[str, list], return_tensors: Any, encodings: Any = None) -> BatchEncoding:
    """Columns of a batch as lists or tensors. Character ids become tensors directly: lists would take far longer."""
    tensor_type = None if return_tensors is None else TensorType(return_tensors)
    if tensor_type not in (TensorType.PYTORCH, TensorType.NUMPY):
        return BatchEncoding(as_lists(data), encodings, tensor_type=tensor_type)
    converted: dict[str, Any] = dict(data)
    width = data["input_ids"][0].shape[1] if len(data["input_ids"]) else DEFAULT_WIDTH
    shapes = {"input_ids": (width,), **{name: shape for name, (_, shape) in COLUMNS.items()}}
    for name in filter(data.__contains__, shapes):
        stacked = _stacked(data[name], name, shapes[name])
        converted[name] = torch.from_numpy(stacked) if tensor_type == TensorType.PYTORCH else stacked
    return BatchEncoding(converted, encodings, tensor_type=tensor_type)


def transposed(encoded_inputs: Any) -> dict[str, Any]:
    """Columns of a mapping or of a list of mappings."""
    if isinstance(encoded_inputs, (list, tuple)):
        names = encoded_inputs[0] if encoded_inputs else ()
        columns = {name: [example[name] for example in encoded_inputs] for name in names}
    else:
        columns = dict(encoded_inputs)
    if "input_ids" not in columns:
        raise ValueError(f"`encoded_inputs` must have `input_ids`, has: {', '.join(columns) or 'nothing'}.")
    return columns


def is_batch_of_rows(ids: Any) -> bool:
    """Whether ids are (sentences, words, 50) rather than (words, 50). An empty list is a sentence, never a row."""
    if hasattr(ids, "ndim"):
        return ids.ndim > 2
    if not isinstance(ids, (list, tuple)):
        return False
    return any(
        item.ndim > 1 if hasattr(item, "ndim") else isinstance(item, (list, tuple)) and (not item or _is_row(item[0]))
        for item in ids
    )


def _is_row(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) == 1


def tensor_type_of(values: Any) -> TensorType | None:
    """The kind of array that nested lists hold."""
    while isinstance(values, (list, tuple)) and values:
        values = values[0]
    if isinstance(values, torch.Tensor):
        return TensorType.PYTORCH
    return TensorType.NUMPY if isinstance(values, np.ndarray) else None
