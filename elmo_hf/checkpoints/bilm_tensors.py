"""
The tensors of bilm-tf and the parameters of [`ElmoModel`] that they become, in one table for all files that hold them:
hdf5, checkpoints of TensorFlow of any version, and modules of TF-Hub.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..configuration_elmo import WORD_VOCABULARY_START, ElmoConfig
from .errors import one_line, shortened

# Called with the name of a step, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]


class Layout(NamedTuple):
    """How a dataset lies in the file and in the model. Both ways only move numbers, so a round trip is bit-equal."""

    name: str
    to_ours: Callable[[np.ndarray], tuple[np.ndarray, ...]]
    to_file: Callable[..., np.ndarray]


class TensorEntry(NamedTuple):
    """
    One line of the table: a dataset of the file and the parameters of [`ElmoModel`] that it holds.

    Attributes:
        dataset: full name in the hdf5 file, without the leading slash.
        parameters: names in the state dict, in the order in which `layout` gives and takes them.
        shape: shape of the dataset in the file.
        layout: the way from one to the other.
        absent: makes what stands there in a file that has no such dataset because it would change nothing: a
            projection of as many features as it has outputs. `None` where the dataset must be there.
    """

    dataset: str
    parameters: tuple[str, ...]
    shape: tuple[int, ...]
    layout: Layout
    absent: Callable[[tuple[int, ...]], np.ndarray] | None = None


def _identity(shape: tuple[int, ...]) -> np.ndarray:
    return np.eye(*shape, dtype=np.float32)


def _zeros(shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, dtype=np.float32)


def _table_to_file(weight: np.ndarray) -> np.ndarray:
    if weight[0].any():
        raise ValueError('row 0 must be zeros (it means "no word here" and has no place in the file), was not.')
    return weight[1:]


# bilm-tf packs the gates as input, memory, forget, output; torch as input, forget, memory, output. Its own inverse.
def _swap_gates(packed: np.ndarray) -> np.ndarray:
    return packed.reshape(4, -1, *packed.shape[1:])[[0, 2, 1, 3]].reshape(packed.shape)


# The rows of the layer's input lie above those of its recurrent state, and the two are equally many.
def _kernel_to_ours(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    weight_ih, weight_hh = np.split(_swap_gates(kernel.T), 2, axis=1)
    return weight_ih, weight_hh


def _kernel_to_file(weight_ih: np.ndarray, weight_hh: np.ndarray) -> np.ndarray:
    return _swap_gates(np.concatenate([weight_ih, weight_hh], axis=1)).T


IDENTITY = Layout("as it is", lambda x: (x,), lambda x: x)
TRANSPOSED = Layout("transposed", lambda x: (x.T,), lambda x: x.T)
# In the file ids start at 0, here at 1: row 0 is ours.
EMBEDDING = Layout("zeros above", lambda x: (np.pad(x, ((1, 0), (0, 0))),), _table_to_file)
# (1, width, dim, number) in the file, (number, dim, width) in torch.
CONVOLUTION = Layout("convolution", lambda x: (x[0].transpose(2, 1, 0),), lambda x: x.transpose(2, 1, 0)[None])
LSTM_KERNEL = Layout("LSTM kernel", _kernel_to_ours, _kernel_to_file)
# The 1 that TensorFlow adds to the forget gate is not in the file, nor in the parameter: the model adds it too.
LSTM_BIAS = Layout("LSTM bias", lambda x: (_swap_gates(x),), _swap_gates)

# The output layer of the language model, in some files with the rest, in others alone, in most not at all.
SOFTMAX_DATASETS = ("softmax/W", "softmax/b")


def tensor_table(config: ElmoConfig) -> list[TensorEntry]:
    """
    Lists every dataset of a checkpoint with the parameters that it holds, in the order of the data flow, by the names
    that hdf5 files have ([`canonical_name`]).

    Each dataset and each parameter of the biLM occurs once. The scalar mixes of [`ElmoModel`] and the softmax of the
    language model are not in the table.

    Args:
        config ([`ElmoConfig`]): the sizes. Nothing else is read: the table is the same for every file of these sizes.
    """
    return [*_encoder_table(config), *_lstm_table(config)]


def _entry(
    dataset: str,
    parameters: str | tuple[str, ...],
    shape: tuple[int, ...],
    layout: Layout = IDENTITY,
    absent: Callable[[tuple[int, ...]], np.ndarray] | None = None,
) -> TensorEntry:
    return TensorEntry(dataset, (parameters,) if isinstance(parameters, str) else parameters, shape, layout, absent)


def _encoder_table(config: ElmoConfig) -> list[TensorEntry]:
    ours, filters, width, table = "character_encoder", config.num_filters, config.projection_dim, list[TensorEntry]()
    if config.word_embedding_dim:
        words = (config.word_lexicon_size - 1, config.word_embedding_dim)
        table.append(_entry("embedding", f"{ours}.word_embeddings.weight", words, EMBEDDING))
    if config.max_characters_per_token:
        characters = (config.vocab_size - 1, config.char_embedding_dim)
        table.append(_entry("char_embed", f"{ours}.embeddings.weight", characters, EMBEDDING))
    for i, (size, number) in enumerate(config.char_cnn_filters):
        shape = (1, size, config.char_embedding_dim, number)
        table += [
            _entry(f"CNN/W_cnn_{i}", f"{ours}.convolutions.{i}.weight", shape, CONVOLUTION),
            _entry(f"CNN/b_cnn_{i}", f"{ours}.convolutions.{i}.bias", (number,)),
        ]
    for k in range(config.num_highway_layers):
        high, layer = f"CNN_high_{k}", f"{ours}.highways.{k}"
        table += [
            _entry(f"{high}/W_transform", f"{layer}.transform.weight", (filters, filters), TRANSPOSED),
            _entry(f"{high}/b_transform", f"{layer}.transform.bias", (filters,)),
            _entry(f"{high}/W_carry", f"{layer}.carry_gate.weight", (filters, filters), TRANSPOSED),
            _entry(f"{high}/b_carry", f"{layer}.carry_gate.bias", (filters,)),
        ]
    features = config.word_embedding_dim + filters
    weight_absent, bias_absent = (_identity, _zeros) if features == width else (None, None)
    return [
        *table,
        _entry("CNN_proj/W_proj", f"{ours}.projection.weight", (features, width), TRANSPOSED, weight_absent),
        _entry("CNN_proj/b_proj", f"{ours}.projection.bias", (width,), absent=bias_absent),
    ]


def _lstm_table(config: ElmoConfig) -> list[TensorEntry]:
    width, cell, table = config.projection_dim, config.cell_size, list[TensorEntry]()
    absent = _identity if cell == width else None
    for direction, layers in enumerate(("forward_layers", "backward_layers")):
        for index in range(config.num_hidden_layers):
            lstm, layer = f"RNN_{direction}/RNN/MultiRNNCell/Cell{index}/LSTMCell", f"encoder.{layers}.{index}"
            kernel = (f"{layer}.weight_ih", f"{layer}.weight_hh")
            table += [
                _entry(f"{lstm}/W_0", kernel, (2 * width, 4 * cell), LSTM_KERNEL),
                _entry(f"{lstm}/B", f"{layer}.bias", (4 * cell,), LSTM_BIAS),
                _entry(f"{lstm}/W_P_0", f"{layer}.weight_hr", (cell, width), TRANSPOSED, absent),
            ]
    return table


_LSTM_NAME = re.compile(
    r"RNN_([01])/(?:RNN|rnn)/(?:(?:MultiRNNCell/Cell|multi_rnn_cell/cell_)(\d{1,3})/)?(?:rnn/)?(?:LSTMCell|lstm_cell)/(.+)"
)
# As TensorFlow 0.x called them (and hdf5 files for ever), 1.0 and 1.1, and 1.2 and later.
_LSTM_LEAVES = {
    **dict.fromkeys(("W_0", "weights", "kernel"), "W_0"),
    **dict.fromkeys(("B", "biases", "bias"), "B"),
    **dict.fromkeys(("W_P_0", "projection/weights", "projection/kernel"), "W_P_0"),
}


def canonical_name(name: str) -> str:
    """
    The name that a tensor has in an hdf5 file of two layers, from any of its names. The layer of an LSTM that has no
    other has no number in some.
    """
    found = _LSTM_NAME.fullmatch(name)
    if found is None or found[3] not in _LSTM_LEAVES:
        return name
    return f"RNN_{found[1]}/RNN/MultiRNNCell/Cell{int(found[2] or 0)}/LSTMCell/{_LSTM_LEAVES[found[3]]}"


# ---------------------------------------------------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """What a file says about one of its names, gathered without reading a number of it."""

    kind: str  # "dataset", or what stands there instead
    shape: tuple[int, ...] | None = None
    dtype: np.dtype | None = None
    problem: str | None = None  # why its numbers cannot safely be had


class ArrayFile(ABC):
    """
    A file of named arrays.

    Attributes:
        location: how messages call it.
        word: what messages call an array.
        found: what is in it, by canonical names. Ignored are what a training keeps beside the model.
    """

    location: str
    word = "dataset"
    found: dict[str, Found]

    @abstractmethod
    def rows(self, name: str, start: int = 0, end: int | None = None) -> np.ndarray:
        """
        float32 numbers of an array, or of some of its first axis.

        Raises:
            ValueError: they cannot be read.
        """

    def read(self, name: str) -> np.ndarray:
        """
        As `rows`.

        Raises:
            ValueError: they cannot be read, or one is not finite.
        """
        return self._finite(name, self.rows(name))

    def _finite(self, name: str, values: np.ndarray) -> np.ndarray:
        finite = np.isfinite(values)
        if not finite.all():
            place = tuple(int(index) for index in np.argwhere(~finite)[0])
            raise ValueError(
                f"{self.location}: `{name}` must hold finite float32 numbers, was: {values[place]} at {place}."
            )
        return values

    def check(self, name: str, shape: tuple[int, ...]):
        """Raises a ValueError if an array is missing, or is not floats of this shape, or cannot be had."""
        if name not in self.found:
            raise ValueError(f"{self.location}: `{name}` must have shape {shape}, was missing.")
        fact, where = self.found[name], f"{self.location}: `{name}`"
        if fact.kind != "dataset":
            raise ValueError(f"{where} must be a {self.word} of this file, was: {fact.kind}.")
        if fact.shape != shape:
            raise ValueError(f"{where} must have shape {shape} by the options, was: {fact.shape}.")
        if fact.dtype is None or fact.dtype.kind != "f" or fact.dtype.itemsize not in (2, 4, 8):
            raise ValueError(f"{where} must hold floats of 16, 32 or 64 bits, was: {fact.dtype}.")
        if fact.problem is not None:
            raise ValueError(f"{where} must be a complete {self.word} of this file, was: {fact.problem}.")


def settle(config: ElmoConfig, file: ArrayFile):
    """Turns off a clip that the options tell of and TensorFlow does not apply: that of a projection that is absent."""
    if not any(name.endswith("/W_P_0") for name in file.found):
        config.proj_clip = None


def read_tensors(
    file: ArrayFile, config: ElmoConfig, ignored: Sequence[str] = (), progress: Progress | None = None
) -> dict[str, torch.Tensor]:
    """
    The tensors of a file, with the names and shapes of [`ElmoModel`]'s state dict. Everything is checked before the
    first number is read.

    Args:
        file: of the biLM.
        config: the sizes.
        ignored: names that may be there and are not read here.
        progress: called with ("Reading", tensors read, tensors in all).

    Raises:
        ValueError: the file and `config` do not agree, or a number is not finite.
    """
    table = tensor_table(config)
    _check_names(file, table, ignored)
    tensors: dict[str, torch.Tensor] = {}
    for done, entry in enumerate(table, start=1):
        if entry.dataset in file.found:
            values = file.read(entry.dataset)
        else:
            assert entry.absent is not None
            values = entry.absent(entry.shape)
        for name, array in zip(entry.parameters, entry.layout.to_ours(values), strict=True):
            tensors[name] = torch.from_numpy(np.ascontiguousarray(array))
        if progress is not None:
            progress("Reading", done, len(table))
    return tensors


def _check_names(file: ArrayFile, table: list[TensorEntry], ignored: Sequence[str]):
    known = {entry.dataset for entry in table} | set(ignored)
    for name, fact in file.found.items():
        if name == "rnn" or name.startswith("rnn/"):
            raise ValueError(f"{file.location}: a biLM must have two directions, has the names of a single one.")
        if name not in known and fact.kind not in ("unknown", "dataset"):
            raise ValueError(f"{file.location}: `{shortened(name)}` must be a group of this file, was: {fact.kind}.")
        if name not in known:
            raise ValueError(
                f"{file.location}: every {file.word} must be one that the options ask for, '{shortened(name)}' was "
                "not. Do the options belong to these weights?"
            )
    # What may be absent must be so everywhere: a projection of each cell or of none, its weight with its bias.
    absent = {
        _kind(entry)
        for entry in table
        if entry.absent is not None
        and not any(_kind(other) == _kind(entry) and other.dataset in file.found for other in table)
    }
    for entry in table:
        if _kind(entry) not in absent:
            file.check(entry.dataset, entry.shape)


def _kind(entry: TensorEntry) -> str:
    return "W_P_0" if entry.dataset.endswith("W_P_0") else entry.dataset.partition("/")[0]


# ---------------------------------------------------------------------------------------------------------------------
# The words and the softmax of the language model
# ---------------------------------------------------------------------------------------------------------------------

# A line of bilm-tf's vocabularies that is no word.
_NO_WORD = "!!!MAXTERMID"


def read_words(location: str, content: bytes) -> list[str]:
    """
    The words of a vocabulary of bilm-tf, in the order of the rows of its softmax. Of a word that is there twice, the
    last place counts; the others get a name that no word has.

    Raises:
        ValueError: it is no text in UTF-8, or has no `<S>`, `</S>` or `<UNK>`.
    """
    try:
        lines = content.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{location}: must be words in UTF-8, was not: {one_line(error)}.") from None
    if lines and not lines[-1]:
        lines.pop()
    words = [word for word in (line.strip() for line in lines) if word != _NO_WORD]
    for special in WORD_VOCABULARY_START:
        if special not in words:
            raise ValueError(f"{location}: must have the word {special}, had not.")
    last = {word: place for place, word in enumerate(words)}
    return [word if last[word] == place else f"{word} (row {place})" for place, word in enumerate(words)]


def in_our_order(words: Sequence[str]) -> list[int]:
    """The places of `words` in the order of a model of ours: the special ones first, the others as they are."""
    first = [words.index(special) for special in WORD_VOCABULARY_START]
    special = set(first)
    return first + [place for place in range(len(words)) if place not in special]


def read_softmax(file: ArrayFile, words: Sequence[str], width: int) -> dict[str, torch.Tensor]:
    """
    The softmax of a file, with the names of [`ElmoForPreTraining`], its rows in our order.

    Args:
        file: has `softmax/W`, or `embedding` where both are shared, and `softmax/b`.
        words: in the order of its rows.
        width: of a row.

    Raises:
        ValueError: it has another shape, or is not finite.
    """
    weight_name, bias_name = SOFTMAX_DATASETS
    if weight_name not in file.found and "embedding" in file.found:
        weight_name = "embedding"
    file.check(weight_name, (len(words), width))
    file.check(bias_name, (len(words),))
    order = np.array(in_our_order(words))
    weight = np.empty((len(words), width), dtype=np.float32)
    # Rows that lie one after the other are read at once: a copy of all of them would be of gigabytes.
    ends = [*(np.flatnonzero(np.diff(order) != 1) + 1).tolist(), len(order)]
    start = 0
    for end in ends:
        weight[start:end] = file.rows(weight_name, int(order[start]), int(order[end - 1]) + 1)
        start = end
    weight = file._finite(weight_name, weight)
    bias = file.read(bias_name)[order]
    return {"softmax.weight": torch.from_numpy(weight), "softmax.bias": torch.from_numpy(bias)}
