"""
Checkpoints of TensorFlow (version 2 of their format, since TensorFlow 0.12), read without TensorFlow: those that
bilm-tf trains, and the modules of TF-Hub that DeepPavlov made of them.

An index, `NAME.index`, tells where each tensor lies in the shards, `NAME.data-00000-of-00001`. The index is a table as
LevelDB writes them, its entries are messages of protocol buffers; both are read here only as far as they are needed.
"""

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from ..configuration_elmo import ElmoConfig
from ..spelling_elmo import LexiconSpelling
from .bilm_options import (
    ASSUMED,
    MAX_OPTIONS_BYTES,
    config_of_options,
    options_as_of_ai2,
    parse_options,
    read_vocabulary,
    spelling_of_words,
)
from .bilm_reference import plain_bilm_tf
from .bilm_tensors import (
    SOFTMAX_DATASETS,
    ArrayFile,
    Found,
    Progress,
    canonical_name,
    read_softmax,
    read_tensors,
    settle,
)
from .checkpoint import Checkpoint, Plain, options_of, vocabulary_of
from .crc32c import crc32c
from .errors import plain_errors, shortened
from .sources import Source

_MAGIC = bytes.fromhex("57fb808b247547db")
_FOOTER = 48
_MAX_INDEX_BYTES = 1 << 26
_MAX_TENSORS = 100_000
# The numbers of the types in TensorFlow. bfloat16 is read as the upper half of a float32.
_DTYPES: dict[int, np.dtype] = {1: np.dtype("<f4"), 2: np.dtype("<f8"), 19: np.dtype("<f2"), 14: np.dtype("<u2")}
_BFLOAT16 = 14


class _Entry(NamedTuple):
    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    is_sliced: bool


# ---------------------------------------------------------------------------------------------------------------------
# The index
# ---------------------------------------------------------------------------------------------------------------------


def read_index(content: bytes) -> tuple[int, dict[str, _Entry]]:
    """
    Reads an index.

    Returns:
        The number of shards, and where each tensor lies.

    Raises:
        ValueError: it is no index of version 2, or damaged.
    """
    if len(content) < _FOOTER or content[-8:] != _MAGIC:
        raise ValueError("it must end as an index of TensorFlow does, does not")
    _, place = _handle(content, len(content) - _FOOTER)
    (start, size), _ = _handle(content, place)
    shards, entries, last = 0, {}, None
    for _, value in _block(content, start, size):
        handle, _ = _handle(value, 0)
        for key, message in _block(content, *handle):
            if last is not None and key <= last:
                raise ValueError("its names must rise, do not")
            last = key
            if key == b"":
                shards = _header(message)
            elif not key.startswith(b"\0"):
                # Keys of slices begin with a zero; what they are slices of has an entry of its own.
                entries[key.decode("utf-8")] = _entry(message)
            if len(entries) > _MAX_TENSORS:
                raise ValueError(f"it must have at most {_MAX_TENSORS} tensors, has more")
    if not 0 < shards < _MAX_TENSORS:
        raise ValueError(f"it must tell of its shards, told of {shards}")
    return shards, entries


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(content):
            raise ValueError("it ends within a number")
        byte = content[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("it has a number of more than ten bytes")


def _handle(content: bytes, place: int) -> tuple[tuple[int, int], int]:
    """Offset and size of a block, and where the next thing begins."""
    offset, place = _varint(content, place)
    size, place = _varint(content, place)
    return (offset, size), place


def _block(content: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block."""
    end = start + size
    if end + 5 > len(content) - _FOOTER:
        raise ValueError("a block of it reaches beyond its end")
    if content[end] != 0:
        raise ValueError(f"its blocks must be unpacked, one was packed in the way {content[end]}")
    (crc,) = struct.unpack_from("<I", content, end + 1)
    if _masked(crc32c(content[start : end + 1])) != crc:
        raise ValueError("the checksum of a block is wrong")
    block = content[start:end]
    if len(block) < 4:
        raise ValueError("a block of it is empty")
    (restarts,) = struct.unpack_from("<I", block, len(block) - 4)
    stop, place, key = len(block) - 4 - 4 * restarts, 0, b""
    if stop < 0:
        raise ValueError("a block of it has more restarts than bytes")
    while place < stop:
        shared, place = _varint(block, place)
        unshared, place = _varint(block, place)
        length, place = _varint(block, place)
        if shared > len(key) or place + unshared + length > stop:
            raise ValueError("an entry of it reaches beyond its block")
        key = key[:shared] + block[place : place + unshared]
        place += unshared
        yield key, block[place : place + length]
        place += length


def _masked(crc: int) -> int:
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a message."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        value: Any
        if kind == 0:
            value, place = _varint(message, place)
        elif kind == 2:
            length, place = _varint(message, place)
            value = message[place : place + length]
            place += length
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
            value = int.from_bytes(message[place : place + length], "little")
            place += length
        else:
            raise ValueError(f"a field of it is of the kind {kind}")
        if place > len(message):
            raise ValueError("a field of it reaches beyond its message")
        yield number, value


def _number(value: Any) -> int:
    if not isinstance(value, int) or value >= 1 << 63:
        raise ValueError("a field of it must be a number from 0, was not")
    return value


def _message(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a field of it must be a message, was not")
    return value


def _header(message: bytes) -> int:
    shards = 0
    for number, value in _fields(message):
        if number == 1:
            shards = _number(value)
        elif number == 2 and value:
            raise ValueError("its numbers must be little-endian, were not")
    return shards


def _entry(message: bytes) -> _Entry:
    values, shape, is_sliced = dict.fromkeys((1, 3, 4, 5, 6), 0), [], False
    for number, value in _fields(message):
        if number in values:
            values[number] = _number(value)
        elif number == 2:
            for part, dimension in _fields(_message(value)):
                if part == 2:
                    shape.append(next((_number(size) for one, size in _fields(_message(dimension)) if one == 1), 0))
        elif number == 7:
            is_sliced = True
    return _Entry(values[1], tuple(shape), values[3], values[4], values[5], values[6], is_sliced)


# ---------------------------------------------------------------------------------------------------------------------
# The tensors
# ---------------------------------------------------------------------------------------------------------------------


class TensorBundle(ArrayFile):
    """
    The tensors of a checkpoint of TensorFlow below a prefix, by canonical names.

    What is not below the prefix, and what an optimizer keeps beside a tensor (`TENSOR/Adagrad`), is left out. Of a
    source that is packed, all that is wanted is read once, in the order in which it lies there.

    Attributes:
        entries: of all tensors, by their own names.
    """

    word = "tensor"

    def __init__(self, source: Source, name: str, prefix: str, ignored: str = ""):
        index = name + ".index"
        self.location = source.location(index)
        with plain_errors(self.location, "index"):
            shards, self.entries = read_index(source.read(index, _MAX_INDEX_BYTES))
        self._source = source
        self._shards = [f"{name}.data-{shard:05d}-of-{shards:05d}" for shard in range(shards)]
        self.files = [index, *self._shards]
        for shard in self._shards:
            if shard not in source.names:
                raise ValueError(f"{self.location}: must have {shard} beside it, had not.")
        self._own: dict[str, str] = {}
        self._kept: dict[str, np.ndarray] = {}
        self.found = {}
        for own, entry in self.entries.items():
            if not own.startswith(prefix) or own.rpartition("/")[0] in self.entries:
                continue
            canonical = canonical_name(own.removeprefix(prefix))
            if ignored and re.fullmatch(ignored, canonical):
                continue
            if canonical in self._own:
                raise ValueError(
                    f"{self.location}: must have each tensor once, has {shortened(own)} and "
                    f"{shortened(self._own[canonical])}."
                )
            self._own[canonical] = own
            self.found[canonical] = self._fact(entry)

    def _fact(self, entry: _Entry) -> Found:
        dtype = _DTYPES.get(entry.dtype)
        if dtype is None:
            return Found("dataset", entry.shape, None, None)
        size = dtype.itemsize
        for length in entry.shape:
            size *= length
        problem = None
        if entry.is_sliced:
            problem = "kept in slices"
        elif size != entry.size:
            problem = f"{size} bytes by its shape and {entry.size} by its size"
        elif entry.shard >= len(self._shards):
            problem = f"in shard {entry.shard} of {len(self._shards)}"
        elif entry.offset + entry.size > self._source.size(self._shards[entry.shard]):
            problem = "beyond the end of its shard"
        return Found("dataset", entry.shape, np.dtype("<f4") if entry.dtype == _BFLOAT16 else dtype, problem)

    def rows(self, name: str, start: int = 0, end: int | None = None) -> np.ndarray:
        if self._source.on_disk(self._shards[0]) is None:
            return self._all_in_memory()[name][start:end]
        entry = self.entries[self._own[name]]
        with self._source.opened(self._shards[entry.shard]) as stream:
            # The checksum is that of all rows: a part is read without it, and is read with it when it is converted.
            return self._numbers(name, entry, stream, start, end)

    def _numbers(self, name: str, entry: _Entry, stream: Any, start: int = 0, end: int | None = None) -> np.ndarray:
        dtype = _DTYPES[entry.dtype]
        shape = entry.shape or (1,)
        end = shape[0] if end is None else end
        step = entry.size // max(shape[0], 1)
        with plain_errors(self.location, f"`{name}`"):
            stream.seek(entry.offset + start * step)
            content = np.empty((end - start) * step, dtype=np.uint8)
            view, done = content.data, 0
            while done < len(view):
                number = stream.readinto(view[done:])
                if not number:
                    raise ValueError("its shard ends within it")
                done += number
            if done == entry.size and _masked(crc32c(content)) != entry.crc:
                raise ValueError("its checksum is wrong")
        values = content.view(dtype).reshape(end - start, *shape[1:])
        if entry.dtype == _BFLOAT16:
            values = (values.astype(np.uint32) << np.uint32(16)).view(np.float32)
        values = values.astype(np.float32, copy=False)
        return values if entry.shape else values.reshape(())

    def let_go(self):
        """Of what was read out of an archive."""
        self._kept = {}

    def _all_in_memory(self) -> dict[str, np.ndarray]:
        if not self._kept:
            wanted = sorted(self._own, key=lambda name: self.entries[self._own[name]][2:4])
            for number, shard in enumerate(self._shards):
                with self._source.opened(shard) as stream:
                    for name in wanted:
                        entry = self.entries[self._own[name]]
                        if entry.shard == number and self.found[name].problem is None and entry.dtype in _DTYPES:
                            self._kept[name] = self._numbers(name, entry, stream)
        return self._kept


# ---------------------------------------------------------------------------------------------------------------------
# What they are checkpoints of
# ---------------------------------------------------------------------------------------------------------------------


class BilmTensorflow(Checkpoint):
    """What bilm-tf's training leaves: the biLM with its softmax, options.json and the vocabulary."""

    title = "TensorFlow checkpoint of bilm-tf"

    @classmethod
    def names(cls, source: Source) -> list[str]:
        stems = [name.removesuffix(".index") for name in source.ending(".index")]
        shards = [name for name in source.names if ".data-" in name]
        return [
            stem
            for stem in stems
            if any(shard.startswith(stem + ".data-") for shard in shards) and not stem.endswith("variables/variables")
        ]

    @classmethod
    def default(cls, source: Source, names: list[str]) -> str | None:
        """The one that the file `checkpoint` names, which may tell of another machine's folders."""
        for name in source.ending("checkpoint"):
            text = source.read(name, 1 << 20).decode("utf-8", "replace")
            if found := re.search(r'^model_checkpoint_path: "(?:.*[/\\])?([^"/\\]+)"', text, re.MULTILINE):
                stem = (name.rpartition("/")[0] + "/" if "/" in name else "") + found[1]
                if stem in names:
                    return stem
        return super().default(source, names)

    @classmethod
    def open(cls, source: Source, name: str) -> "BilmTensorflow":
        return cls(source, name)

    def __init__(self, source: Source, name: str):
        self.source, self.notes = source, []
        options, vocabulary = options_of(source, name), vocabulary_of(source, name)
        if options is None:
            raise ValueError(f"{source.location(name + '.index')}: must have one options.json beside it, had not.")
        self._file = TensorBundle(source, name, "lm/")
        if not self._file.found:
            raise ValueError(f"{self._file.location}: must have the tensors of a biLM, lm/..., had none.")
        location = source.location(options)
        self.options = parse_options(location, source.read(options, MAX_OPTIONS_BYTES))
        words = None if vocabulary is None else read_vocabulary(source, vocabulary)
        self._lexicon = words if "char_cnn" not in self.options else None
        self.config = config_of_options(location, self.options, self._lexicon)
        settle(self.config, self._file)
        self.files = [options, *self._file.files]
        if words is not None:
            self.files.append(str(vocabulary))
            self.words = words
            self.config.word_vocab_size = len(words)
        else:
            self.notes.append("The softmax of its language model was left out: the vocabulary was not beside it.")

    def read(self, progress: Progress | None = None) -> dict[str, torch.Tensor]:
        state = read_tensors(self._file, self.config, SOFTMAX_DATASETS, progress)
        if self.words is not None:
            state |= read_softmax(self._file, self.words, self.config.projection_dim)
        self._file.let_go()
        return state

    @contextmanager
    def plain(self) -> Iterator[Plain]:
        file = self._file
        bilm = plain_bilm_tf(self.options, file.rows, file.found.__contains__, self._lexicon or ())
        softmax = "softmax/W" if "softmax/W" in file.found else "embedding"
        yield Plain(
            bilm,
            None
            if self.words is None
            else lambda start, end: (file.rows(softmax, start, end), file.rows("softmax/b", start, end)),
        )
        file.let_go()

    def spelling(self) -> LexiconSpelling | None:
        return None if self._lexicon is None else spelling_of_words("vocab.txt", self._lexicon)


class _HubBundle(TensorBundle):
    """The tensors of a module, whose table of characters has the row of zeros that a file of bilm-tf lacks."""

    def __init__(self, source: Source, name: str):
        super().__init__(source, name, "bilm/", r"Variable(_\d+)?")
        table = self.found.get("char_embed")
        if table is not None and table.shape is not None and table.shape[0] == 262:
            self.found["char_embed"] = table._replace(shape=(261, *table.shape[1:]))

    def rows(self, name: str, start: int = 0, end: int | None = None) -> np.ndarray:
        skip = name == "char_embed" and self.entries[self._own[name]].shape[0] == 262
        return super().rows(name)[1:][start:end] if skip else super().rows(name, start, end)


def options_of_shapes(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """
    The options.json of a biLM from the shapes of its tensors, see [`options_as_of_ai2`].

    Raises:
        ValueError: a tensor is missing.
    """
    cells = [name for name in shapes if re.fullmatch(r"RNN_0/RNN/MultiRNNCell/Cell\d+/LSTMCell/W_0", name)]
    filters = sorted((name for name in shapes if name.startswith("CNN/W_cnn_")), key=lambda name: int(name[10:]))
    if not cells or not filters or "char_embed" not in shapes:
        raise ValueError("it must have the tensors of a biLM over characters, has not")
    inputs, gates = shapes[cells[0]]
    return options_as_of_ai2(
        cell_size=gates // 4,
        projection_dim=inputs // 2,
        num_layers=len(cells),
        char_embedding_dim=shapes["char_embed"][1],
        filters=[[shapes[name][1], shapes[name][3]] for name in filters],
        num_highways=len([name for name in shapes if re.fullmatch(r"CNN_high_\d+/W_carry", name)]),
    )


class TfHubModule(Checkpoint):
    """A module of TF-Hub as DeepPavlov exported them: the biLM for inference, and one trained scalar mix."""

    title = "TF-Hub module of DeepPavlov"

    @classmethod
    def names(cls, source: Source) -> list[str]:
        return [name.removesuffix(".index") for name in source.ending("variables/variables.index")]

    @classmethod
    def open(cls, source: Source, name: str) -> "TfHubModule":
        return cls(source, name)

    def __init__(self, source: Source, name: str):
        self.source, self.notes = source, []
        self._file = _HubBundle(source, name)
        if not self._file.found:
            raise ValueError(f"{self._file.location}: must have the tensors of a biLM, bilm/..., had none.")
        self.files = self._file.files
        beside = options_of(source, name)
        if beside is None:
            with plain_errors(self._file.location, "list of tensors"):
                self.options = options_of_shapes({name: fact.shape or () for name, fact in self._file.found.items()})
            self.notes.append(ASSUMED)
        else:
            self.options = parse_options(source.location(beside), source.read(beside, MAX_OPTIONS_BYTES))
            self.files = [beside, *self.files]
        self.config: ElmoConfig = config_of_options(self._file.location, self.options)
        settle(self.config, self._file)
        self._mix = TensorBundle(source, name, "aggregation/")

    def _mix_values(self) -> tuple[np.ndarray, np.ndarray] | None:
        names = ("elmo_output_ELMo_W", "elmo_output_ELMo_gamma")
        if names[0] not in self._mix.found:
            return None
        for name, length in zip(names, (self.config.num_hidden_layers + 1, 1), strict=True):
            self._mix.check(name, (length,))
        weights, gamma = (self._mix.read(name) for name in names)
        return weights, gamma

    def read(self, progress: Progress | None = None) -> dict[str, torch.Tensor]:
        state = read_tensors(self._file, self.config, progress=progress)
        self._file.let_go()
        if (values := self._mix_values()) is not None:
            names = ("scalar_mixes.0.scalar_parameters", "scalar_mixes.0.gamma")
            state |= {name: torch.from_numpy(value.copy()) for name, value in zip(names, values, strict=True)}
        return state

    @contextmanager
    def plain(self) -> Iterator[Plain]:
        bilm = plain_bilm_tf(self.options, self._file.rows, self._file.found.__contains__)
        values = self._mix_values()
        yield Plain(bilm, mixes=() if values is None else [(values[0].tolist(), float(values[1][0]))])
        self._file.let_go()
