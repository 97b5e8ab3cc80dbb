"""
Vectors of sentences on disk, one sentence after the other: hdf5 in the layout of bilm-tf and AllenNLP, parquet with
lists of fixed size, npz and safetensors. A file of each kind can be put together from parts.
"""

import json
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import torch
from safetensors.torch import save_file

from .files import PathLike

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass
class EmbeddedSentence:
    """
    Attributes:
        index: its place among all sentences, from 0.
        words: its words.
        offsets: where each stands in its text, (start, end) in characters; `None` of a list of words.
        text: as it was given, words joined by spaces.
        vectors: (words, hidden_size) or (layers, words, hidden_size); without the words where they are pooled.
    """

    index: int
    words: list[str]
    offsets: list[tuple[int, int]] | None
    text: str
    vectors: torch.Tensor


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

    def __enter__(self) -> "VectorFile":
        return self

    def __exit__(self, *error: Any) -> None:
        self.close(error[0] is None)

    @abstractmethod
    def write(self, sentences: Sequence[EmbeddedSentence]):
        """Adds sentences."""

    @abstractmethod
    def close(self, is_complete: bool):
        """Ends the file."""

    @classmethod
    @abstractmethod
    def join(cls, parts: Sequence[Path], path: Path):
        """Puts the sentences of parts, in their order, into one file."""


class Hdf5Vectors(VectorFile):
    """
    A dataset for each sentence, its name the number of the sentence; and `sentence_to_index`, a JSON object in a list
    of one, as AllenNLP 0.9 wrote it. Of sentences that are the same, it has the last.
    """

    suffixes = (".hdf5", ".h5")

    def __init__(self, path: PathLike, has_layers: bool = False, is_pooled: bool = False):
        super().__init__(path, has_layers, is_pooled)
        self._file = h5py.File(path, "w")
        self._names: dict[str, str] = {}

    def write(self, sentences: Sequence[EmbeddedSentence]):
        for sentence in sentences:
            name = str(sentence.index)
            self._file.create_dataset(name, data=sentence.vectors.numpy())
            self._names[sentence.text] = name

    def close(self, is_complete: bool):
        if is_complete:
            _write_names(self._file, self._names)
        self._file.close()

    @classmethod
    def join(cls, parts: Sequence[Path], path: Path):
        names: dict[str, str] = {}
        with h5py.File(path, "w") as file:
            for part in parts:
                with h5py.File(part, "r") as source:
                    own = json.loads(source["sentence_to_index"][0])
                    for name in sorted((name for name in source if name != "sentence_to_index"), key=int):
                        source.copy(name, file)
                    names |= own
            _write_names(file, names)


def _write_names(file: h5py.File, names: dict[str, str]):
    content = file.create_dataset("sentence_to_index", (1,), dtype=h5py.string_dtype(encoding="utf-8"))
    content[0] = json.dumps(names)


class ParquetVectors(VectorFile):
    """Columns `sentence`, `words`, `starts`, `ends` and `vectors`, or `layer_0`, ... where layers are several."""

    suffixes = (".parquet",)

    def __init__(self, path: PathLike, has_layers: bool = False, is_pooled: bool = False):
        super().__init__(path, has_layers, is_pooled)
        self._pa, self._pq = _arrow()
        self._stack, self._writer = ExitStack(), None  # type: tuple[ExitStack, Any]

    def write(self, sentences: Sequence[EmbeddedSentence]):
        if not sentences:
            return
        table = self._table(sentences)
        if self._writer is None:
            self._writer = self._stack.enter_context(_parquet_writer(self._pq, self.path, table.schema))
        self._writer.write_table(table)

    def _table(self, sentences: Sequence[EmbeddedSentence]) -> Any:
        pa = self._pa
        bounds = [sentence.offsets or [] for sentence in sentences]
        columns = {
            "sentence": pa.array([sentence.index for sentence in sentences], pa.int64()),
            "words": pa.array([sentence.words for sentence in sentences], pa.list_(pa.string())),
            "starts": pa.array([[start for start, _ in pairs] for pairs in bounds], pa.list_(pa.int32())),
            "ends": pa.array([[end for _, end in pairs] for pairs in bounds], pa.list_(pa.int32())),
        }
        vectors = [sentence.vectors.numpy() for sentence in sentences]
        for number in range(len(vectors[0]) if self.has_layers else 1):
            of_layer = [vector[number] for vector in vectors] if self.has_layers else vectors
            name = f"layer_{number}" if self.has_layers else "vectors"
            columns[name] = _lists(pa, of_layer, self.is_pooled)
        return pa.table(columns)

    def close(self, is_complete: bool):
        if is_complete and self._writer is None:
            # No sentence: a table without rows.
            empty = self._pa.table({"sentence": self._pa.array([], self._pa.int64())})
            self._writer = self._stack.enter_context(_parquet_writer(self._pq, self.path, empty.schema))
        self._stack.close()

    @classmethod
    def join(cls, parts: Sequence[Path], path: Path):
        _, pq = _arrow()
        with ExitStack() as stack:
            writer = None
            for part in parts:
                with pq.ParquetFile(part) as source:
                    if source.metadata.num_rows == 0 and len(parts) > 1:
                        continue
                    if writer is None:
                        writer = stack.enter_context(_parquet_writer(pq, path, source.schema_arrow))
                    for group in range(source.num_row_groups):
                        writer.write_table(source.read_row_group(group))


def _lists(pa: Any, vectors: Sequence[np.ndarray], is_pooled: bool) -> Any:
    size = vectors[0].shape[-1]
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate([v.reshape(-1) for v in vectors])), size)
    if is_pooled:
        return values
    ends = np.cumsum([0, *(len(vector) for vector in vectors)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), values)


def _parquet_writer(pq: Any, path: Path, schema: Any) -> Any:
    # Floats of a model do not pack, but their exponents do.
    leaves = []
    for name in schema.names:
        if name == "vectors" or name.startswith("layer_"):
            is_list_of_lists = str(schema.field(name).type).startswith("list<")
            leaves.append(f"{name}.list.element.list.element" if is_list_of_lists else f"{name}.list.element")
    return pq.ParquetWriter(
        path, schema, compression="zstd", compression_level=1, use_dictionary=["words.list.element"],
        use_byte_stream_split=leaves or False, write_statistics=False,
    )  # fmt: skip


def _arrow() -> tuple[Any, Any]:
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

    def write(self, sentences: Sequence[EmbeddedSentence]):
        for sentence in sentences:
            # A date of its own, so that the same vectors are the same bytes.
            entry = zipfile.ZipInfo(f"{sentence.index}.npy")
            with self._file.open(entry, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, sentence.vectors.numpy(), allow_pickle=False)

    def close(self, is_complete: bool):
        self._file.close()

    @classmethod
    def join(cls, parts: Sequence[Path], path: Path):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as file:
            for part in parts:
                with zipfile.ZipFile(part) as source:
                    for entry in source.infolist():
                        new = zipfile.ZipInfo(entry.filename)
                        with source.open(entry) as stream, file.open(new, "w", force_zip64=True) as target:
                            shutil.copyfileobj(stream, target, 1 << 20)


class SafetensorsVectors(VectorFile):
    """A tensor for each sentence, its name the number of the sentence."""

    suffixes = (".safetensors",)
    dtypes = ("float32", "float16", "bfloat16")

    def __init__(self, path: PathLike, has_layers: bool = False, is_pooled: bool = False):
        super().__init__(path, has_layers, is_pooled)
        self._tensors: dict[str, torch.Tensor] = {}

    def write(self, sentences: Sequence[EmbeddedSentence]):
        self._tensors |= {str(sentence.index): sentence.vectors.contiguous() for sentence in sentences}

    def close(self, is_complete: bool):
        if is_complete:
            save_file(self._tensors, self.path)

    @classmethod
    def join(cls, parts: Sequence[Path], path: Path):
        # Their headers into one, their numbers behind each other: nothing is held in memory.
        header: dict[str, Any] = {}
        bodies, offset = [], 0
        for part in parts:
            with part.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                own = json.loads(stream.read(length))
            size = part.stat().st_size - 8 - length
            for name, entry in own.items():
                if name != "__metadata__":
                    start, end = entry["data_offsets"]
                    header[name] = {**entry, "data_offsets": [start + offset, end + offset]}
            bodies.append((part, 8 + length))
            offset += size
        content = json.dumps(header, separators=(",", ":")).encode()
        content += b" " * (-len(content) % 8)
        with path.open("wb") as target:
            target.write(len(content).to_bytes(8, "little") + content)
            for part, start in bodies:
                with part.open("rb") as stream:
                    stream.seek(start)
                    shutil.copyfileobj(stream, target, 1 << 20)


_KINDS: tuple[type[VectorFile], ...] = (Hdf5Vectors, ParquetVectors, NpzVectors, SafetensorsVectors)


def kind_of_vectors(path: PathLike, dtype: str) -> type[VectorFile]:
    """
    The class that writes a file of this name.

    Raises:
        ValueError: there is none, or it cannot hold numbers of this type.
    """
    suffixes = [suffix for kind in _KINDS for suffix in kind.suffixes]
    kind = next((kind for kind in _KINDS if Path(path).suffix in kind.suffixes), None)
    if kind is None:
        raise ValueError(f"{path}: must end in {', '.join(suffixes)}, which tell the format.")
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, was: {dtype}.")
    if dtype not in kind.dtypes:
        raise ValueError(f"`dtype` must be {' or '.join(kind.dtypes)} in {Path(path).suffix}, was: {dtype}.")
    return kind
