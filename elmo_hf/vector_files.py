"""
Vectors of sentences on disk, one sentence after the other: hdf5 in the layout of bilm-tf and AllenNLP, parquet with
lists of fixed size, npz and safetensors.

What takes long to import is imported where it is used: a wrong name of a file is told at once.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .files import PathLike

if TYPE_CHECKING:
    import numpy as np
    import torch

# As PyTorch and as safetensors call them.
DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


@dataclass
class SplitSentence:
    """
    Attributes:
        index: its place among all sentences, from 0.
        words: its words.
        offsets: the start of each in its text, its end, the start of the next and so on, in characters; `None` of a
            list of words.
        text: as it was given, words joined by spaces.
    """

    index: int
    words: list[str]
    offsets: list[int] | None
    text: str


@dataclass
class EmbeddedSentences:
    """
    Some sentences, one after the other.

    Attributes:
        sentences: their words.
        vectors: (words of all, hidden_size) or (layers, words of all, hidden_size); where each sentence has one
            vector, (sentences, hidden_size) or (layers, sentences, hidden_size).
        is_pooled: whether each has one.
    """

    sentences: list[SplitSentence]
    vectors: torch.Tensor
    is_pooled: bool

    def each(self) -> Iterator[tuple[SplitSentence, torch.Tensor]]:
        """A sentence and its vectors, without an axis of words where they are pooled."""
        if self.is_pooled:
            yield from zip(self.sentences, self.vectors.unbind(-2), strict=True)
        else:
            lengths = [len(sentence.words) for sentence in self.sentences]
            yield from zip(self.sentences, self.vectors.split(lengths, -2), strict=True)


class VectorFile(ABC):
    """
    A file of vectors that is being written, a context; what it holds is complete when the context is left.

    Args:
        path: of the file.
        has_layers: whether vectors have an axis of layers in front.
        is_pooled: whether they have no axis of words.
    """

    suffixes: ClassVar[tuple[str, ...]]
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "float16")

    def __init__(self, path: PathLike, has_layers: bool = False, is_pooled: bool = False):
        self.path, self.has_layers, self.is_pooled = Path(path), has_layers, is_pooled

    def __enter__(self) -> VectorFile:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close(error[0] is None)

    @abstractmethod
    def write(self, block: EmbeddedSentences):
        """Adds sentences."""

    @abstractmethod
    def close(self, is_complete: bool):
        """Ends the file."""


class Hdf5Vectors(VectorFile):
    """
    A dataset for each sentence, its name the number of the sentence; and `sentence_to_index`, a JSON object in a list
    of one, as AllenNLP 0.9 wrote it. Of sentences that are the same, it has the last.
    """

    suffixes = (".hdf5", ".h5")

    def __init__(self, path: PathLike, has_layers: bool = False, is_pooled: bool = False):
        super().__init__(path, has_layers, is_pooled)
        import h5py

        self._h5py = h5py
        self._file = h5py.File(path, "w")
        self._names: dict[str, str] = {}
        self._properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        # Each number is written once, without zeros before, and the same vectors are the same bytes at any time.
        self._properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        self._properties.set_obj_track_times(False)

    def write(self, block: EmbeddedSentences):
        h5py, kind = self._h5py, None
        for sentence, vectors in block.each():
            name, values = str(sentence.index), vectors.contiguous().numpy()
            # `create_dataset` does the same in twice the time.
            kind = kind or h5py.h5t.py_create(values.dtype)
            space = h5py.h5s.create_simple(values.shape)
            dataset = h5py.h5d.create(self._file.id, name.encode(), kind, space, self._properties)
            dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, values)
            self._names[sentence.text] = name

    def close(self, is_complete: bool):
        if is_complete:
            names = self._file.create_dataset(
                "sentence_to_index", (1,), dtype=self._h5py.string_dtype(encoding="utf-8")
            )
            names[0] = json.dumps(self._names)
        self._file.close()


class ParquetVectors(VectorFile):
    """Columns `sentence`, `words`, `starts`, `ends` and `vectors`, or `layer_0`, ... where layers are several."""

    suffixes = (".parquet",)

    def __init__(self, path: PathLike, has_layers: bool = False, is_pooled: bool = False):
        super().__init__(path, has_layers, is_pooled)
        self._pa, self._pq = arrow()
        self._stack, self._writer = ExitStack(), None  # type: tuple[ExitStack, Any]

    def write(self, block: EmbeddedSentences):
        if not block.sentences:
            return
        indices = [sentence.index for sentence in block.sentences]
        columns = arrow_columns(block, self.has_layers)
        table = self._pa.table({"sentence": self._pa.array(indices, self._pa.int64()), **columns})
        if self._writer is None:
            self._writer = self._stack.enter_context(_parquet_writer(self._pq, self.path, table.schema))
        self._writer.write_table(table)

    def close(self, is_complete: bool):
        if is_complete and self._writer is None:
            # No sentence: a table without rows.
            empty = self._pa.table({"sentence": self._pa.array([], self._pa.int64())})
            self._writer = self._stack.enter_context(_parquet_writer(self._pq, self.path, empty.schema))
        self._stack.close()


def arrow_columns(block: EmbeddedSentences, has_layers: bool) -> dict[str, Any]:
    """The columns of a table of sentences, without their numbers: arrays of pyarrow."""
    import numpy as np

    pa, _ = arrow()
    sentences = block.sentences
    bounds = [sentence.offsets or [] for sentence in sentences]
    columns = {
        "words": pa.array([sentence.words for sentence in sentences], pa.list_(pa.string())),
        "starts": pa.array([offsets[::2] for offsets in bounds], pa.list_(pa.int32())),
        "ends": pa.array([offsets[1::2] for offsets in bounds], pa.list_(pa.int32())),
    }
    ends = None if block.is_pooled else np.cumsum([0, *(len(sentence.words) for sentence in sentences)])
    if has_layers:
        for number, vectors in enumerate(block.vectors):
            columns[f"layer_{number}"] = _lists(pa, vectors.numpy(), ends)
    else:
        columns["vectors"] = _lists(pa, block.vectors.numpy(), ends)
    return columns


def _lists(pa: Any, vectors: np.ndarray, ends: np.ndarray | None) -> Any:
    """A list of fixed size for each row, or a list of these for those between each two ends."""
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[-1])
    return values if ends is None else pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values)


def _parquet_writer(pq: Any, path: Path, schema: Any) -> Any:
    # Floats of a model pack to five sixths at half the speed: they are left as they are.
    packed = {name: "none" if name == "vectors" or name.startswith("layer_") else "zstd" for name in schema.names}
    return pq.ParquetWriter(
        path,
        schema,
        compression=packed,
        use_dictionary=["words.list.element"],
        write_statistics=False,
        # A tenth faster than with the 1,024 that are the default.
        write_batch_size=1 << 16,
    )


def arrow() -> tuple[Any, Any]:
    """
    pyarrow and its `parquet`.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError("Parquet needs pyarrow: pip install 'elmo-hf[corpus]'.") from None
    return pyarrow, pyarrow.parquet


class NpzVectors(VectorFile):
    """An array for each sentence, its name the number of the sentence, as `numpy.savez` writes them."""

    suffixes = (".npz",)

    def __init__(self, path: PathLike, has_layers: bool = False, is_pooled: bool = False):
        super().__init__(path, has_layers, is_pooled)
        self._file = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True)

    def write(self, block: EmbeddedSentences):
        from numpy.lib.format import write_array

        for sentence, vectors in block.each():
            # A date of its own, so that the same vectors are the same bytes.
            entry = zipfile.ZipInfo(f"{sentence.index}.npy")
            with self._file.open(entry, "w", force_zip64=True) as stream:
                write_array(stream, vectors.contiguous().numpy(), allow_pickle=False)

    def close(self, is_complete: bool):
        self._file.close()


class SafetensorsVectors(VectorFile):
    """
    A tensor for each sentence, its name the number of the sentence. Their header comes first and is complete last, so
    the numbers wait in a file beside it: nothing is held in memory.
    """

    suffixes = (".safetensors",)
    dtypes = ("float32", "float16", "bfloat16")

    def __init__(self, path: PathLike, has_layers: bool = False, is_pooled: bool = False):
        super().__init__(path, has_layers, is_pooled)
        self._header: dict[str, Any] = {}
        self._size = 0
        self._body = tempfile.TemporaryFile(dir=Path(path).parent)  # noqa: SIM115

    def write(self, block: EmbeddedSentences):
        for sentence, vectors in block.each():
            content = bytes_of(vectors)
            self._header[str(sentence.index)] = {
                "dtype": DTYPES[str(vectors.dtype).removeprefix("torch.")],
                "shape": list(vectors.shape),
                "data_offsets": [self._size, self._size + len(content)],
            }
            self._body.write(content)
            self._size += len(content)

    def close(self, is_complete: bool):
        with self._body:
            if is_complete:
                header = json.dumps(self._header, separators=(",", ":")).encode()
                header += b" " * (-len(header) % 8)
                self._body.seek(0)
                with self.path.open("wb") as target:
                    target.write(len(header).to_bytes(8, "little") + header)
                    shutil.copyfileobj(self._body, target, 1 << 20)


def bytes_of(vectors: torch.Tensor) -> memoryview:
    """The numbers of a tensor, row-major, little-endian."""
    import torch

    return vectors.contiguous().reshape(-1).view(torch.uint8).numpy().data


_KINDS: tuple[type[VectorFile], ...] = (Hdf5Vectors, ParquetVectors, NpzVectors, SafetensorsVectors)


def kind_of_vectors(path: PathLike, dtype: str) -> type[VectorFile]:
    """
    The class that writes a file of this name.

    Raises:
        ValueError: there is none, or it cannot hold numbers of this type.
        ImportError: what it needs is not installed.
    """
    suffixes = [suffix for kind in _KINDS for suffix in kind.suffixes]
    kind = next((kind for kind in _KINDS if Path(path).suffix in kind.suffixes), None)
    if kind is None:
        raise ValueError(f"{path}: must end in {', '.join(suffixes)}, which tell the format.")
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, was: {dtype}.")
    if dtype not in kind.dtypes:
        raise ValueError(f"`dtype` must be {' or '.join(kind.dtypes)} in {Path(path).suffix}, was: {dtype}.")
    if kind is ParquetVectors:
        # Before hours of work, not after.
        arrow()
    return kind
