"""Files of hdf5 with the weights of a biLM, as bilm-tf and AllenNLP write and read them, in and out."""

import math
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, Any

import h5py
import numpy as np
import torch
from transformers.utils import logging

from ..configuration_elmo import ElmoConfig
from ..files import PathLike, atomic_file, check_readable
from ..modeling_elmo import ElmoModel
from ..spelling_elmo import LexiconSpelling
from .bilm_options import (
    MAX_OPTIONS_BYTES,
    config_of_options,
    parse_options,
    read_options,
    read_vocabulary,
    spelling_of_words,
)
from .bilm_reference import plain_bilm_tf
from .bilm_tensors import (
    SOFTMAX_DATASETS,
    ArrayFile,
    Found,
    Progress,
    TensorEntry,
    canonical_name,
    read_softmax,
    read_tensors,
    settle,
    tensor_table,
)
from .checkpoint import Checkpoint, Plain, options_of, vocabulary_of
from .errors import plain_errors
from .sources import InMemory, Source

logger = logging.get_logger(__name__)

# Other filters need plug-ins, which are not loaded for a stranger's file, or pack without a limit that can be checked.
_FILTERS = frozenset({h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32})
# Deflate packs zeros about 1 to 1030: a dataset that claims to hold more than this is lying about its size.
_MAX_COMPRESSION = 1100


# Only groups that a biLM has are entered, so a circle of links ends.
_GROUP = re.compile(
    r"CNN|CNN_proj|CNN_high_\d{1,3}|softmax|RNN_[01](/RNN(/MultiRNNCell(/Cell\d{1,3})?)?(/LSTMCell(/projection)?)?)?"
)
# Of those, what a biLM of any size and spelling may have; everything else is told by its name.
_DATASET = re.compile(
    r"char_embed|embedding|CNN/[Wb]_cnn_\d{1,3}|CNN_proj/[Wb]_proj|CNN_high_\d{1,3}/[Wb]_(transform|carry)|softmax/[Wb]"
    r"|RNN_[01]/RNN/(MultiRNNCell/Cell\d{1,3}/)?LSTMCell/(W_0|B|W_P_0|kernel|bias|projection/kernel)"
)


class Hdf5Arrays(ArrayFile):
    """
    An open hdf5 file; `size` is its length in bytes, and `stream` where it is read from. Out of an archive, each array
    can be read once: its bytes are let go.
    """

    def __init__(self, location: str, file: h5py.File, size: int, stream: Any = None):
        self.location, self.file = location, file
        self._stream = stream if isinstance(stream, InMemory) else None
        self._names: dict[str, str] = {}
        self._checked: set[str] = set()
        self.found = {}
        with plain_errors(location, "list of datasets"):
            self._visit("", file, size)

    def _visit(self, prefix: str, group: h5py.Group, size: int):
        for name in group:
            path = prefix + name
            if not _GROUP.fullmatch(path) and not _DATASET.fullmatch(path):
                self.found[path] = Found("unknown")
                continue
            link = group.get(name, getlink=True)
            # A link to another file, or to nowhere, is never followed.
            node = group[name] if isinstance(link, h5py.HardLink) else link
            if _GROUP.fullmatch(path) and isinstance(node, h5py.Group):
                self._visit(path + "/", node, size)
            elif _DATASET.fullmatch(path) and isinstance(node, h5py.Dataset):
                canonical = canonical_name(path)
                if canonical in self._names:
                    raise ValueError(f"{path} and {self._names[canonical]} are the same tensor")
                self._names[canonical], self.found[canonical] = path, _facts(node, size)
            else:
                self.found[canonical_name(path)] = Found(type(node).__name__)

    def read(self, name: str) -> np.ndarray:
        values = super().read(name)
        if self._stream is not None:
            dataset = self.file[self._names[name]].id
            if (start := dataset.get_offset()) is not None:
                self._stream.release(start, start + dataset.get_storage_size())
        return values

    def rows(self, name: str, start: int = 0, end: int | None = None) -> np.ndarray:
        dataset = self.file[self._names[name]]
        with plain_errors(self.location, f"`{name}`"):
            if dataset.compression == "gzip" and name not in self._checked:
                _check_chunks_are_as_large_as_declared(dataset)
            self._checked.add(name)
            rows = slice(start, dataset.shape[0] if end is None else end)
            values = np.empty((rows.stop - rows.start, *dataset.shape[1:]), dtype=np.float32)
            dataset.read_direct(values, np.s_[rows])
        return values


@contextmanager
def opened_arrays(location: str, stream: PathLike | IO[bytes], size: int) -> Iterator[Hdf5Arrays]:
    """
    Opens an hdf5 file by its path, or a stream that can be read in any order.

    Raises:
        ValueError: it is none, or damaged.
    """
    with plain_errors(location, "hdf5 file"):
        if isinstance(stream, (str, os.PathLike)):
            with open(stream, "rb") as content:
                start = content.read(16)
            is_hdf5 = h5py.is_hdf5(stream)
        else:
            stream.seek(0)
            start = stream.read(16)
            is_hdf5 = start.startswith(b"\x89HDF\r\n\x1a\n")
    if not is_hdf5:
        raise ValueError(f"{location}: must be an hdf5 file, starts with: {start!r}.")
    with plain_errors(location, "hdf5 file"):
        file = h5py.File(stream, "r")
    with file:
        yield Hdf5Arrays(location, file, size, stream)


def read_weights(
    weight_file: PathLike, config: ElmoConfig, progress: Progress | None = None
) -> dict[str, torch.Tensor]:
    """
    Reads an hdf5 file of bilm-tf or AllenNLP into tensors with the names and shapes of [`ElmoModel`]'s state dict.

    Everything is checked before the first number is read: each dataset of [`tensor_table`] is there once, as floats of
    16, 32 or 64 bits, in the expected shape, inside this file, and nothing else is there. Half and double precision
    become float32. The output layer of the language model (`SOFTMAX_DATASETS`) may be there and is left out.

    Args:
        weight_file (`str` or `os.PathLike`): the hdf5 file.
        config ([`ElmoConfig`]): the sizes, usually from [`read_options`].
        progress (`Callable`, *optional*): called with ("Reading", datasets read, datasets in all).

    Returns:
        `dict[str, torch.Tensor]`: contiguous float32 tensors, without the scalar mixes, which are not in these files.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not hdf5 or is damaged, or it and `config` do not agree, or a number is not finite.
    """
    with _opened(weight_file) as file:
        return _read(file, config, progress)


def read_model(
    options_file: PathLike, weight_file: PathLike, progress: Progress | None = None, **behaviours: Any
) -> ElmoModel:
    """
    Reads a checkpoint into an [`ElmoModel`], in eval mode, with new scalar mixes.

    Takes `behaviours` as [`read_options`] and raises what it and [`read_weights`] raise.
    """
    config = read_options(options_file, **behaviours)
    with _opened(weight_file) as file:
        settle(config, file)
        state = _read(file, config, progress)
    return ElmoModel.from_pretrained(None, config=config, state_dict=state)


def _read(file: Hdf5Arrays, config: ElmoConfig, progress: Progress | None) -> dict[str, torch.Tensor]:
    if left_out := [name for name in SOFTMAX_DATASETS if name in file.found]:
        logger.warning(f"{file.location}: {' and '.join(left_out)}, the language model's output layer, are left out.")
    return read_tensors(file, config, SOFTMAX_DATASETS, progress)


class BilmHdf5(Checkpoint):
    """An options.json and an hdf5 file, the softmax and its vocabulary if they are there."""

    title = "hdf5 of bilm-tf or AllenNLP"

    @classmethod
    def names(cls, source: Source) -> list[str]:
        return [name for name in source.ending(".hdf5", ".h5") if "softmax" not in name.rpartition("/")[2]]

    @classmethod
    def open(cls, source: Source, name: str) -> "BilmHdf5":
        options = options_of(source, name)
        if options is None:
            raise ValueError(f"{source.location(name)}: must have one options.json beside it, had none or several.")
        return cls(source, options, name)

    def __init__(
        self,
        source: Source,
        options: str,
        weights: str,
        softmax: str | None = None,
        vocabulary: str | None = None,
    ):
        self.source, self.notes = source, []
        self.files = [options, weights]
        self._weights = weights
        location = source.location(options)
        self.options = parse_options(location, source.read(options, MAX_OPTIONS_BYTES))
        vocabulary = vocabulary_of(source, weights) if vocabulary is None else vocabulary
        words = None if vocabulary is None else read_vocabulary(source, vocabulary)
        self._lexicon = words if "char_cnn" not in self.options else None
        self.config = config_of_options(location, self.options, self._lexicon)
        self._softmax = self._softmax_file(words) if softmax is None else softmax
        with self._opened(weights) as file:
            settle(self.config, file)
            if self._softmax is None and words is not None and SOFTMAX_DATASETS[1] in file.found:
                self._softmax = weights
            elif SOFTMAX_DATASETS[1] in file.found:
                logger.warning(
                    f"{file.location}: the softmax of its language model is left out, for want of a vocabulary."
                )
        if self._softmax is not None:
            self.words = words
            self.config.word_vocab_size = len(words or ())
        if vocabulary is not None and words in (self.words, self._lexicon):
            self.files += [name for name in (vocabulary, self._softmax) if name not in (None, weights)]

    def _softmax_file(self, words: list[str] | None) -> str | None:
        """The file of the softmax alone, if there is one."""
        found = [name for name in self.source.ending(".hdf5", ".h5") if "softmax" in name.rpartition("/")[2]]
        if len(found) == 1 and words is None:
            logger.warning(f"{self.source.location(found[0])} is left out: its words, vocab*.txt, are not beside it.")
        return found[0] if len(found) == 1 and words is not None else None

    @contextmanager
    def _opened(self, name: str) -> Iterator[Hdf5Arrays]:
        # Out of an archive it comes into the memory, because hdf5 is read in any order.
        path = self.source.on_disk(name)
        stream: Any = InMemory(self.source, name) if path is None else path
        with opened_arrays(self.source.location(name), stream, self.source.size(name)) as file:
            yield file

    def read(self, progress: Progress | None = None) -> dict[str, torch.Tensor]:
        with self._opened(self._weights) as file:
            state = read_tensors(file, self.config, SOFTMAX_DATASETS, progress)
            if self._softmax == self._weights:
                state |= read_softmax(file, self.words or (), self.config.projection_dim)
        if self._softmax not in (None, self._weights):
            with self._opened(str(self._softmax)) as file:
                state |= read_softmax(file, self.words or (), self.config.projection_dim)
        return state

    @contextmanager
    def plain(self) -> Iterator[Plain]:
        with ExitStack() as stack:
            file = stack.enter_context(self._opened(self._weights))
            plain = Plain(plain_bilm_tf(self.options, file.rows, file.found.__contains__, self._lexicon or ()))
            if self._softmax is not None:
                own = self._softmax == self._weights
                softmax = file if own else stack.enter_context(self._opened(self._softmax))
                plain.softmax = lambda start, end: (
                    softmax.rows("softmax/W", start, end),
                    softmax.rows("softmax/b", start, end),
                )
            yield plain

    def spelling(self) -> LexiconSpelling | None:
        return None if self._lexicon is None else spelling_of_words("vocab.txt", self._lexicon)


@contextmanager
def _opened(weight_file: PathLike) -> Iterator[Hdf5Arrays]:
    check_readable(weight_file)
    with opened_arrays(str(weight_file), weight_file, os.path.getsize(weight_file)) as file:
        yield file


def _facts(dataset: h5py.Dataset, file_size: int) -> Found:
    """Shape, type and, where the numbers cannot safely be had from this file, the reason."""
    shape, dtype = dataset.shape, dataset.dtype
    storage = dataset.id.get_storage_size()
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    num_chunks = math.prod(-(-size // step) for size, step in zip(shape or (), dataset.chunks or (), strict=False))
    elements = math.prod(shape or ())
    if dataset.is_virtual or dataset.external:
        problem = "kept in another file"
    elif unknown := set(filters) - _FILTERS:
        problem = f"packed by a filter with the number {max(unknown)}"
    elif len(filters) > len(set(filters)):
        problem = "packed several times by the same filter"
    elif elements and not storage:
        problem = "declared and never written"
    elif storage > file_size or elements * dtype.itemsize > _MAX_COMPRESSION * storage:
        problem = f"{elements} numbers in {min(storage, file_size)} bytes"
    elif dataset.chunks and math.prod(dataset.chunks) > max(elements, 1) * 16:
        problem = f"cut into chunks of {dataset.chunks}"
    elif dataset.chunks and elements and dataset.id.get_num_chunks() < num_chunks:
        problem = f"written in {dataset.id.get_num_chunks()} of its {num_chunks} chunks"
    else:
        problem = None
    return Found("dataset", shape, dtype, problem)


def _check_chunks_are_as_large_as_declared(dataset: h5py.Dataset):
    """HDF5 itself inflates a chunk to whatever size it has."""
    declared = math.prod(dataset.chunks) * dataset.dtype.itemsize
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]
    # A chunk has a bit for each filter that was left out for it.
    deflate = 1 << filters.index(h5py.h5z.FILTER_DEFLATE)
    for index in range(dataset.id.get_num_chunks()):
        chunk = dataset.id.get_chunk_info(index)
        if not chunk.filter_mask & deflate:
            _, packed = dataset.id.read_direct_chunk(chunk.chunk_offset)
            if len(zlib.decompressobj().decompress(packed, declared + 9)) > declared + 8:
                raise ValueError(f"a chunk of {declared} bytes inflates to more")


def write_weights(model: torch.nn.Module | Mapping[str, torch.Tensor], config: ElmoConfig, weight_file: PathLike):
    """
    Writes the biLM as an hdf5 file that AllenNLP and bilm-tf read, in one step: the file is complete or untouched.

    What [`read_weights`] read from a float32 file comes back bit-equal. The scalar mixes have no place in the format
    and are left out, and so are the heads of a fine-tuned model.

    Args:
        model ([`ElmoModel`], a model with a head, or the state dict of an [`ElmoModel`]): weights of any float type.
        config ([`ElmoConfig`]): the sizes.
        weight_file (`str` or `os.PathLike`): the file to write; an old one is replaced.

    Raises:
        ValueError: a parameter is missing, unknown, of the wrong shape or not finite, or row 0 of the character table
            is not zeros.
    """
    with atomic_file(weight_file, overwrite=True) as temporary:
        write_datasets(model, config, temporary)


def write_datasets(model: torch.nn.Module | Mapping[str, torch.Tensor], config: ElmoConfig, weight_file: PathLike):
    """As [`write_weights`], straight into the file."""
    state = getattr(model, "base_model", model).state_dict() if isinstance(model, torch.nn.Module) else model
    table = [entry for entry in tensor_table(config) if not _is_absent(entry, config, state)]
    known = {name for entry in tensor_table(config) for name in entry.parameters}
    for name in state:
        if name not in known and not name.startswith("scalar_mixes."):
            raise ValueError(f"`{name}` must be a parameter of the biLM, was unknown.")
    with h5py.File(weight_file, "w") as file:
        for entry in table:
            file.create_dataset(entry.dataset, data=_in_file_layout(entry, state))


def write_softmax(weight: torch.Tensor, bias: torch.Tensor, order: Sequence[int], softmax_file: PathLike):
    """Writes the softmax of a language model as AI2 released it, straight into the file; its rows in that order."""
    rows = torch.as_tensor(order)
    with h5py.File(softmax_file, "w") as file:
        for name, values in zip(SOFTMAX_DATASETS, (weight, bias), strict=True):
            file.create_dataset(name, data=values.detach().to("cpu", torch.float32)[rows].numpy())


def _is_absent(entry: TensorEntry, config: ElmoConfig, state: Mapping[str, torch.Tensor]) -> bool:
    """Whether bilm-tf has no such tensor: a projection that changes nothing, and has no clip."""
    if entry.absent is None or (entry.dataset.endswith("W_P_0") and config.proj_clip is not None):
        return False
    kind = entry.dataset.endswith("W_P_0")
    return all(
        np.array_equal(state[name].float().cpu().numpy(), other.layout.to_ours(other.absent(other.shape))[0])
        for other in tensor_table(config)
        if other.absent is not None and other.dataset.endswith("W_P_0") == kind
        for name in other.parameters
        if name in state
    )


def _in_file_layout(entry: TensorEntry, state: Mapping[str, torch.Tensor]) -> np.ndarray:
    arrays = []
    for name in entry.parameters:
        if name not in state:
            raise ValueError(f"`{name}` must be given (for the dataset `{entry.dataset}`), was missing.")
        array = state[name].detach().to("cpu", torch.float32).numpy()
        if not np.isfinite(array).all():
            raise ValueError(f"`{name}` must be finite, was not.")
        arrays.append(array)
    try:
        values = entry.layout.to_file(*arrays)
    except ValueError as error:
        raise ValueError(f"`{', '.join(entry.parameters)}`: {error}") from None
    if values.shape != entry.shape:
        names = ", ".join(entry.parameters)
        raise ValueError(f"`{names}` must give `{entry.dataset}` the shape {entry.shape}, was: {values.shape}.")
    return np.ascontiguousarray(values)
