"""
The checkpoints of bilm-tf and AllenNLP, an options.json and an hdf5 file of weights, in and out.

Reading order: the table of tensors, the options, the weights in, the weights out, and on top of them the conversion of
a checkpoint into a Hub folder and back. Both files come from strangers, so nothing in them is believed before it is
checked, and whatever is wrong with them is told in one line that names the file and the key.
"""

import hashlib
import json
import math
import os
import re
import reprlib
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from transformers.utils import logging

from ..configuration_elmo import ElmoConfig
from ..modeling_elmo import ElmoModel
from ..tokenization_elmo import ElmoTokenizer
from .reference import reference_layers

logger = logging.get_logger(__name__)

PathLike = str | os.PathLike[str]
# Called with the name of a step, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]


# ---------------------------------------------------------------------------------------------------------------------
# The table
# ---------------------------------------------------------------------------------------------------------------------


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
    """

    dataset: str
    parameters: tuple[str, ...]
    shape: tuple[int, ...]
    layout: Layout


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


AS_IT_IS = Layout("as it is", lambda x: (x,), lambda x: x)
TRANSPOSED = Layout("transposed", lambda x: (x.T,), lambda x: x.T)
# The file has 261 rows, ids start at 1: row 0 is ours.
CHARACTERS = Layout("zeros above", lambda x: (np.pad(x, ((1, 0), (0, 0))),), _table_to_file)
# (1, width, dim, number) in the file, (number, dim, width) in torch.
CONVOLUTION = Layout("convolution", lambda x: (x[0].transpose(2, 1, 0),), lambda x: x.transpose(2, 1, 0)[None])
LSTM_KERNEL = Layout("LSTM kernel", _kernel_to_ours, _kernel_to_file)
# The 1 that TensorFlow adds to the forget gate is not in the file, nor in the parameter: the model adds it too.
LSTM_BIAS = Layout("LSTM bias", lambda x: (_swap_gates(x),), _swap_gates)

# The output layer of the language model. bilm-tf dumps it with the rest, the released checkpoints come without it, and
# [`ElmoModel`] has no place for it.
SOFTMAX_DATASETS = ("softmax/W", "softmax/b")


def tensor_table(config: ElmoConfig) -> list[TensorEntry]:
    """
    Lists every dataset of a checkpoint with the parameters that it holds, in the order of the data flow.

    Each dataset and each parameter of the biLM occurs once. The scalar mixes of [`ElmoModel`] are not in these files.

    Args:
        config ([`ElmoConfig`]): the sizes. Nothing else is read: the table is the same for every file of these sizes.
    """
    filters, width, cell = config.num_filters, config.projection_dim, config.cell_size

    def entry(dataset: str, parameters: str | tuple[str, ...], shape: tuple[int, ...], layout: Layout = AS_IT_IS):
        return TensorEntry(dataset, (parameters,) if isinstance(parameters, str) else parameters, shape, layout)

    ours = "character_encoder"
    characters = (config.vocab_size - 1, config.char_embedding_dim)
    table = [entry("char_embed", f"{ours}.embeddings.weight", characters, CHARACTERS)]
    for i, (size, number) in enumerate(config.char_cnn_filters):
        shape = (1, size, config.char_embedding_dim, number)
        table += [
            entry(f"CNN/W_cnn_{i}", f"{ours}.convolutions.{i}.weight", shape, CONVOLUTION),
            entry(f"CNN/b_cnn_{i}", f"{ours}.convolutions.{i}.bias", (number,)),
        ]
    for k in range(config.num_highway_layers):
        high, layer = f"CNN_high_{k}", f"{ours}.highways.{k}"
        table += [
            entry(f"{high}/W_transform", f"{layer}.transform.weight", (filters, filters), TRANSPOSED),
            entry(f"{high}/b_transform", f"{layer}.transform.bias", (filters,)),
            entry(f"{high}/W_carry", f"{layer}.carry_gate.weight", (filters, filters), TRANSPOSED),
            entry(f"{high}/b_carry", f"{layer}.carry_gate.bias", (filters,)),
        ]
    table += [
        entry("CNN_proj/W_proj", f"{ours}.projection.weight", (filters, width), TRANSPOSED),
        entry("CNN_proj/b_proj", f"{ours}.projection.bias", (width,)),
    ]
    for direction, layers in enumerate(("forward_layers", "backward_layers")):
        for index in range(config.num_hidden_layers):
            lstm, layer = f"RNN_{direction}/RNN/MultiRNNCell/Cell{index}/LSTMCell", f"encoder.{layers}.{index}"
            kernel = (f"{layer}.weight_ih", f"{layer}.weight_hh")
            table += [
                entry(f"{lstm}/W_0", kernel, (2 * width, 4 * cell), LSTM_KERNEL),
                entry(f"{lstm}/B", f"{layer}.bias", (4 * cell,), LSTM_BIAS),
                entry(f"{lstm}/W_P_0", f"{layer}.weight_hr", (cell, width), TRANSPOSED),
            ]
    return table


# ---------------------------------------------------------------------------------------------------------------------
# options.json
# ---------------------------------------------------------------------------------------------------------------------

_REQUIRED = object()


class Option(NamedTuple):
    """A key of options.json, its name in [`ElmoConfig`] and, where bilm-tf has one, its value when absent."""

    key: str
    field: str
    default: Any = _REQUIRED
    # Far above every published model: a damaged number ends here and not in a table of a billion lines.
    maximum: int | None = None


OPTIONS = (
    Option("char_cnn.activation", "char_cnn_activation"),
    Option("char_cnn.embedding.dim", "char_embedding_dim", maximum=1_000_000),
    Option("char_cnn.filters", "char_cnn_filters"),
    Option("char_cnn.max_characters_per_token", "max_characters_per_token", maximum=1_000),
    Option("char_cnn.n_characters", "vocab_size"),
    Option("char_cnn.n_highway", "num_highway_layers", default=0, maximum=100),
    Option("lstm.cell_clip", "cell_clip", default=None),
    Option("lstm.dim", "cell_size", maximum=1_000_000),
    Option("lstm.n_layers", "num_hidden_layers", default=1, maximum=100),
    Option("lstm.proj_clip", "proj_clip", default=None),
    Option("lstm.projection_dim", "projection_dim", maximum=1_000_000),
    Option("lstm.use_skip_connections", "use_skip_connections", default=False),
)

# What bilm-tf's training keeps beside the sizes. It does not change what the model computes and is not read.
TRAINING_OPTIONS = frozenset(
    {
        "all_clip_norm_val",
        "batch_size",
        "bidirectional",
        "dropout",
        "learning_rate",
        "n_epochs",
        "n_negative_samples_batch",
        "n_tokens_vocab",
        "n_train_tokens",
        "sample_softmax",
        "share_embedding_softmax",
        "unroll_steps",
    }
)

_MAX_OPTIONS_BYTES = 1 << 20


def read_options(options_file: PathLike, **behaviours: Any) -> ElmoConfig:
    """
    Reads an options.json of bilm-tf or AllenNLP into an [`ElmoConfig`].

    A clip of 0 or `null`, or none at all, is off, as in AllenNLP. `n_characters` is 261 in options of training and 262
    in those of inference; both mean the same table. The keys of `TRAINING_OPTIONS` may be there and are not read.

    Args:
        options_file (`str` or `os.PathLike`): the options.json.
        behaviours: further arguments of [`ElmoConfig`], `do_layer_norm` for example: an options.json has only sizes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, a key is missing, unknown or given twice, or a value is out of range.
        TypeError: a value has the wrong type.
    """
    values = _flatten_options(options_file, _load_json(options_file))
    sizes = {}
    for option in OPTIONS:
        value = values.pop(option.key, option.default)
        if value is _REQUIRED:
            raise ValueError(f"{options_file}: `{option.key}` must be given, was missing.")
        sizes[option.field] = _checked_option(options_file, option, value)
    if values:
        raise ValueError(
            f"{options_file}: `{min(values)}` must be a key of bilm-tf's options.json, was unknown. "
            "Take it out if it does not change what the model computes."
        )
    try:
        return ElmoConfig(**sizes, **behaviours)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{options_file}: {_in_their_words(str(error))}") from None


def write_options(config: ElmoConfig, options_file: PathLike):
    """
    Writes the sizes of `config` as an options.json that AllenNLP and bilm-tf read, in one step: the file is complete
    or untouched. What only [`ElmoConfig`] knows (mixes, dropout) has no place there. AllenNLP itself refuses a model
    without skip connections; bilm-tf reads it.

    Raises:
        ValueError: `vocab_size` is not 262, the only character table of bilm-tf.
    """
    if config.vocab_size != 262:
        raise ValueError(f"`vocab_size` must be 262 in an options.json, was: {config.vocab_size}.")
    options: dict[str, Any] = {}
    for option in OPTIONS:
        *groups, name = option.key.split(".")
        group = options
        for part in groups:
            group = group.setdefault(part, {})
        group[name] = getattr(config, option.field)
    with _replaced_when_complete(options_file) as temporary:
        temporary.write_text(json.dumps(options, indent=2) + "\n", encoding="utf-8")


def _load_json(path: PathLike) -> dict[str, Any]:
    _check_is_file(path)
    if os.path.getsize(path) > _MAX_OPTIONS_BYTES:
        raise ValueError(f"{path}: must be at most {_MAX_OPTIONS_BYTES} bytes long, was: {os.path.getsize(path)}.")

    def refuse_constant(name: str):
        raise ValueError(f"numbers must be finite, one was: {name}")

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            raise ValueError("every key must occur once, one did not")
        return mapping

    try:
        text = Path(path).read_text(encoding="utf-8")
        value = json.loads(text, parse_constant=refuse_constant, object_pairs_hook=refuse_duplicates)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: must be JSON in UTF-8, was not: {_one_line(error)}.") from None
    if not isinstance(value, dict):
        raise TypeError(f"{path}: must hold a JSON object, was: {_short(value)}.")
    return value


def _flatten_options(path: PathLike, options: dict[str, Any]) -> dict[str, Any]:
    """`{"lstm": {"dim": 4096}}` as `{"lstm.dim": 4096}`, without what training alone wants."""
    if "char_cnn" not in options:
        raise ValueError(
            f"{path}: `char_cnn` must be given, was missing. A biLM over whole words has no characters to read."
        )
    if options.get("bidirectional", True) is not True:
        raise ValueError(f"{path}: `bidirectional` must be true, was: {_short(options['bidirectional'])}.")
    groups = {"char_cnn", "char_cnn.embedding", "lstm"}
    flat: dict[str, Any] = {}

    def visit(prefix: str, group: dict[str, Any]):
        for name, value in group.items():
            key = prefix + name
            if key not in groups:
                flat[key] = value
            elif isinstance(value, dict):
                visit(key + ".", value)
            else:
                raise TypeError(f"{path}: `{key}` must be a JSON object, was: {_short(value)}.")

    visit("", {name: value for name, value in options.items() if name not in TRAINING_OPTIONS})
    return flat


def _checked_option(path: PathLike, option: Option, value: Any) -> Any:
    """The value as [`ElmoConfig`] takes it. Types and ranges are left to that class, but it knows no upper limits."""
    if option.field == "vocab_size":
        if isinstance(value, bool) or value not in (261, 262):
            raise ValueError(f"{path}: `{option.key}` must be 261 or 262, was: {_short(value)}.")
        return 262
    if option.field in ("cell_clip", "proj_clip") and _is_number(value):
        if not abs(value) < 1e30:
            raise ValueError(f"{path}: `{option.key}` must be finite, was: {_short(value)}.")
        return value or None
    if option.field == "num_highway_layers" and value is None:
        return 0
    if option.field == "char_cnn_filters":
        _check_filters_are_small(path, option, value)
    if option.maximum is not None and _is_number(value) and value > option.maximum:
        raise ValueError(f"{path}: `{option.key}` must be at most {option.maximum}, was: {_short(value)}.")
    return value


def _check_filters_are_small(path: PathLike, option: Option, filters: Any):
    for pair in filters if isinstance(filters, list) else []:
        for value in pair if isinstance(pair, list) else []:
            if _is_number(value) and value > 1_000_000:
                raise ValueError(f"{path}: `{option.key}` must be at most 1000000 each, one was: {_short(value)}.")


def _in_their_words(message: str) -> str:
    """An error of [`ElmoConfig`] with the key of options.json in the place of the field's name."""
    for option in OPTIONS:
        if message.startswith(f"`{option.field}"):
            message = f"`{option.key}{message.removeprefix('`' + option.field)}"
    return message if len(message) <= 300 else message[:297] + "..."


# ---------------------------------------------------------------------------------------------------------------------
# hdf5, in
# ---------------------------------------------------------------------------------------------------------------------

# What h5py packs with. Other filters need plug-ins, which are not loaded for a stranger's file, or pack without limit.
_FILTERS = frozenset(
    {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}
)
# Deflate packs zeros about 1 to 1030: a dataset that claims to hold more than this is lying about its size.
_MAX_COMPRESSION = 1100


class _Found(NamedTuple):
    """What a file says about one of its names, gathered without reading a number of it."""

    kind: str  # "dataset", or what stands there instead
    shape: tuple[int, ...] | None = None
    dtype: np.dtype | None = None
    problem: str | None = None


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
    table = tensor_table(config)
    tensors: dict[str, torch.Tensor] = {}
    with _opened(weight_file) as file:
        _check_datasets(weight_file, _survey(weight_file, file, table), table)
        for done, entry in enumerate(table, start=1):
            values = _read_dataset(weight_file, file, entry)
            for name, array in zip(entry.parameters, entry.layout.to_ours(values), strict=True):
                tensors[name] = torch.from_numpy(np.ascontiguousarray(array))
            if progress is not None:
                progress("Reading", done, len(table))
    return tensors


@contextmanager
def _opened(weight_file: PathLike) -> Iterator[h5py.File]:
    _check_is_file(weight_file)
    with open(weight_file, "rb") as stream:
        start = stream.read(16)
    with _plain_errors(weight_file, "hdf5 file"):
        is_hdf5 = h5py.is_hdf5(weight_file)
    if not is_hdf5:
        raise ValueError(f"{weight_file}: must be an hdf5 file, starts with: {start!r}.")
    with _plain_errors(weight_file, "hdf5 file"):
        file = h5py.File(weight_file, "r")
    with file:
        yield file


@contextmanager
def _plain_errors(weight_file: PathLike, what: str) -> Iterator[None]:
    try:
        yield
    # A damaged file may raise any class out of h5py, MemoryError and RuntimeError among them.
    except Exception as error:
        raise ValueError(f"{weight_file}: {what} must be readable, was damaged: {_one_line(error)}.") from None


def _survey(weight_file: PathLike, file: h5py.File, table: list[TensorEntry]) -> dict[str, _Found]:
    """Everything in the file, by name. Only groups that the table knows are entered, so a circle of links ends."""
    names = {entry.dataset for entry in table} | set(SOFTMAX_DATASETS)
    groups = {name[:end] for name in names for end in range(len(name)) if name[end] == "/"}
    found: dict[str, _Found] = {}
    size = os.path.getsize(weight_file)

    def visit(prefix: str, group: h5py.Group):
        for name in group:
            path = prefix + name
            link = group.get(name, getlink=True)
            if path not in names and path not in groups:
                found[path] = _Found("unknown")
                continue
            # A link to another file, or to nowhere, is never followed.
            node = group[name] if isinstance(link, h5py.HardLink) else link
            if path in groups and isinstance(node, h5py.Group):
                visit(path + "/", node)
            elif path in names and isinstance(node, h5py.Dataset):
                found[path] = _facts(node, size)
            else:
                found[path] = _Found(type(node).__name__)

    with _plain_errors(weight_file, "list of datasets"):
        visit("", file)
    return found


def _facts(dataset: h5py.Dataset, file_size: int) -> _Found:
    """Shape, type and, where the numbers cannot safely be had from this file, the reason."""
    shape, dtype = dataset.shape, dataset.dtype
    storage = dataset.id.get_storage_size()
    properties = dataset.id.get_create_plist()
    filters = {properties.get_filter(index)[0] for index in range(properties.get_nfilters())}
    elements = math.prod(shape or ())
    if dataset.is_virtual or dataset.external:
        problem = "kept in another file"
    elif not filters <= _FILTERS:
        problem = f"packed by a filter with the number {max(filters - _FILTERS)}"
    elif elements and not storage:
        problem = "declared and never written"
    elif storage > file_size or elements * dtype.itemsize > _MAX_COMPRESSION * storage:
        problem = f"{elements} numbers in {min(storage, file_size)} bytes"
    elif dataset.chunks and math.prod(dataset.chunks) > max(elements, 1) * 16:
        problem = f"cut into chunks of {dataset.chunks}"
    else:
        problem = None
    return _Found("dataset", shape, dtype, problem)


def _check_datasets(weight_file: PathLike, found: dict[str, _Found], table: list[TensorEntry]):
    known = {entry.dataset for entry in table}
    for name, fact in found.items():
        if fact.kind == "unknown":
            raise ValueError(
                f"{weight_file}: every dataset must be one that the options ask for, {_short(name)} was not. "
                "Do the options belong to these weights?"
            )
        if fact.kind != "dataset":
            expected = "dataset" if name in known or name in SOFTMAX_DATASETS else "group"
            raise ValueError(f"{weight_file}: `{name}` must be a {expected} of this file, was: {fact.kind}.")
    for entry in table:
        if entry.dataset not in found:
            raise ValueError(f"{weight_file}: `{entry.dataset}` must have shape {entry.shape}, was missing.")
        _check_dataset(weight_file, entry, found[entry.dataset])
    if left_out := [name for name in SOFTMAX_DATASETS if name in found]:
        logger.warning(f"{weight_file}: {' and '.join(left_out)}, the language model's output layer, are left out.")


def _check_dataset(weight_file: PathLike, entry: TensorEntry, fact: _Found):
    where = f"{weight_file}: `{entry.dataset}`"
    if fact.shape != entry.shape:
        raise ValueError(f"{where} must have shape {entry.shape} by the options, was: {fact.shape}.")
    if fact.dtype is None or fact.dtype.kind != "f" or fact.dtype.itemsize not in (2, 4, 8):
        raise ValueError(f"{where} must hold floats of 16, 32 or 64 bits, was: {fact.dtype}.")
    if fact.problem is not None:
        raise ValueError(f"{where} must be a complete dataset of this file, was: {fact.problem}.")


def _read_dataset(weight_file: PathLike, file: h5py.File, entry: TensorEntry) -> np.ndarray:
    values = np.empty(entry.shape, dtype=np.float32)
    with _plain_errors(weight_file, f"`{entry.dataset}`"):
        file[entry.dataset].read_direct(values)
    finite = np.isfinite(values)
    if not finite.all():
        place = tuple(int(index) for index in np.argwhere(~finite)[0])
        raise ValueError(
            f"{weight_file}: `{entry.dataset}` must hold finite float32 numbers, was: {values[place]} at {place}."
        )
    return values


# ---------------------------------------------------------------------------------------------------------------------
# hdf5, out
# ---------------------------------------------------------------------------------------------------------------------


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
    state = getattr(model, "base_model", model).state_dict() if isinstance(model, torch.nn.Module) else model
    table = tensor_table(config)
    known = {name for entry in table for name in entry.parameters}
    for name in state:
        if name not in known and not name.startswith("scalar_mixes."):
            raise ValueError(f"`{name}` must be a parameter of the biLM, was unknown.")
    with _replaced_when_complete(weight_file) as temporary, h5py.File(temporary, "w") as file:
        for entry in table:
            file.create_dataset(entry.dataset, data=_in_file_layout(entry, state))


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


@contextmanager
def _replaced_when_complete(path: PathLike) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends well, and goes away when it does not."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------------------------
# A Hub folder, in and out
# ---------------------------------------------------------------------------------------------------------------------

# What verification reads: several scripts, a word whose cut falls within a letter, the literal boundaries, one word
# alone, and different lengths side by side.
VERIFICATION_SENTENCES = (
    ("The", "river", "bank", "was", "muddy", ",", "the", "bank", "raised", "its", "rates", "."),
    (
        "Größe",
        "naïve",
        "東京",
        "Ελλάδα",
        "🙂",
        "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkß" + "ü" * 9,
        "don",
        "'t",
    ),
    ("Yes",),
    ("<S>", "$", "5.2", "</S>", "a" * 60),
)
# float32 against float64 stays below 1e-5 of a layer's largest value; a wrong tensor is off by about 1.
MAX_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class Conversion:
    """
    What [`convert_checkpoint`] did.

    Attributes:
        folder: the Hub folder.
        config: its configuration.
        num_parameters: numbers in the model, the scalar mix included.
        num_bytes: size of model.safetensors.
        sha256: hash of options.json and of the hdf5 file, by file name.
        difference: largest difference of any layer from the plain computation, relative to the largest value of that
            layer; `None` when it was not verified.
    """

    folder: Path
    config: ElmoConfig
    num_parameters: int
    num_bytes: int
    sha256: dict[str, str]
    difference: float | None


def read_model(
    options_file: PathLike, weight_file: PathLike, progress: Progress | None = None, **behaviours: Any
) -> ElmoModel:
    """
    Reads a checkpoint into an [`ElmoModel`], in eval mode, with new scalar mixes.

    Takes `behaviours` as [`read_options`] and raises what it and [`read_weights`] raise.
    """
    return _read_model(read_options(options_file, **behaviours), weight_file, progress)


def _read_model(config: ElmoConfig, weight_file: PathLike, progress: Progress | None) -> ElmoModel:
    return ElmoModel.from_pretrained(None, config=config, state_dict=read_weights(weight_file, config, progress))


def convert_checkpoint(
    options_file: PathLike,
    weight_file: PathLike,
    output_dir: PathLike,
    *,
    overwrite: bool = False,
    verify: bool = True,
    license: str | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """
    Turns a checkpoint of bilm-tf or AllenNLP into a folder that `from_pretrained` loads and the Hub takes as it is.

    The folder is made beside its place under another name, verified, and moved. An interruption, SIGTERM included,
    leaves nothing behind, and what stood in the place before stays there until then.

    Args:
        options_file (`str` or `os.PathLike`): the options.json.
        weight_file (`str` or `os.PathLike`): the hdf5 file that belongs to it.
        output_dir (`str` or `os.PathLike`): the folder to make, new or empty.
        overwrite (`bool`): whether an ELMo folder in that place is replaced. Any other folder never is.
        verify (`bool`): whether to load the folder and hold it against [`reference_layers`].
        license (`str`, *optional*): what the model card says, a licence identifier of the Hub. The files do not tell.
        progress (`Callable`, *optional*): called with a step, what is done of it and how much there is.

    Raises:
        FileNotFoundError: one of the files is missing.
        FileExistsError: `output_dir` is taken.
        ValueError, TypeError: the files are wrong ([`read_options`], [`read_weights`]), or the verification failed.
    """
    if license is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", license):
        raise ValueError(f"`license` must be an identifier as the Hub knows it (apache-2.0), was: {license!r}.")
    progress = progress or _no_progress
    with _folder_moved_into_place(output_dir, overwrite) as folder:
        config = read_options(options_file)
        model = _read_model(config, weight_file, progress)
        num_parameters = model.num_parameters()
        progress("Writing", 0, 1)
        model.save_pretrained(folder)
        # Let go of it before it is loaded again.
        del model
        ElmoTokenizer(max_characters_per_token=config.max_characters_per_token).save_pretrained(folder)
        progress("Writing", 1, 1)
        difference = verify_folder(folder, options_file, weight_file, progress) if verify else None
        conversion = Conversion(
            folder=Path(output_dir),
            config=config,
            num_parameters=num_parameters,
            num_bytes=(folder / "model.safetensors").stat().st_size,
            sha256=_sha256([options_file, weight_file], progress),
            difference=difference,
        )
        (folder / "README.md").write_text(model_card(conversion, license), encoding="utf-8")
    return conversion


def verify_folder(
    model_dir: PathLike, options_file: PathLike, weight_file: PathLike, progress: Progress | None = None
) -> float:
    """
    Loads a Hub folder and compares each layer of `VERIFICATION_SENTENCES` with the plain computation from the hdf5.

    Returns:
        `float`: the largest difference, relative to the largest value of its layer.

    Raises:
        ValueError: it is more than `MAX_DIFFERENCE`, so the folder is not this checkpoint.
    """
    progress = progress or _no_progress
    sentences = [list(sentence) for sentence in VERIFICATION_SENTENCES]
    progress("Verifying", 0, 2)
    references = reference_layers(options_file, weight_file, sentences)
    progress("Verifying", 1, 2)
    model = ElmoModel.from_pretrained(model_dir)
    inputs = ElmoTokenizer.from_pretrained(model_dir)(
        sentences, is_split_into_words=True, padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        hidden_states = model(**inputs, output_hidden_states=True).hidden_states
    # (layers, sentences, words, features)
    layers = torch.stack(hidden_states).double().numpy()
    difference = 0.0
    for index in range(layers.shape[0]):
        scale = max(np.abs(reference[index]).max() for reference in references)
        for row, reference in enumerate(references):
            gap = np.abs(layers[index, row, : reference.shape[1]] - reference[index]).max()
            # Never smaller for a NaN: it must not pass.
            difference = float(np.maximum(difference, gap / scale if scale else gap))
    if not difference <= MAX_DIFFERENCE:
        raise ValueError(
            f"{model_dir}: layers must differ from a plain computation from {weight_file} by at most "
            f"{MAX_DIFFERENCE:.0e} of their scale, was: {difference:.1e}."
        )
    progress("Verifying", 2, 2)
    return difference


def export_checkpoint(
    model_dir: PathLike, options_file: PathLike, weight_file: PathLike, *, overwrite: bool = False
) -> ElmoConfig:
    """
    Writes the biLM of a Hub folder, an [`ElmoModel`] or a fine-tuned head, as files that AllenNLP and bilm-tf read.

    The scalar mixes have no place in them. A converted checkpoint of float32 comes back bit-equal.

    Args:
        model_dir (`str` or `os.PathLike`): a folder on this machine, written by `save_pretrained` or by conversion.
        options_file (`str` or `os.PathLike`): the options.json to write.
        weight_file (`str` or `os.PathLike`): the hdf5 file to write.
        overwrite (`bool`): whether files in these places are replaced.

    Returns:
        [`ElmoConfig`]: the configuration of the folder.

    Raises:
        FileNotFoundError: `model_dir` is not a folder with a config.json.
        FileExistsError: one of the files is there already.
        ValueError: the folder does not hold a complete biLM, or one that the format has no place for.
    """
    if not (Path(model_dir) / "config.json").is_file():
        raise FileNotFoundError(f"{model_dir}: must be a folder with a config.json, was not.")
    for path in (options_file, weight_file):
        if os.path.exists(path) and not overwrite:
            raise FileExistsError(f"{path}: must be a new file, was there already.")
    with _plain_errors(model_dir, "model"):
        loaded: Any = ElmoModel.from_pretrained(
            model_dir, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    model, info = loaded
    if info["missing_keys"]:
        raise ValueError(f"{model_dir}: `{min(info['missing_keys'])}` must be among the weights, was missing.")
    write_weights(model, model.config, weight_file)
    write_options(model.config, options_file)
    return model.config


def model_card(conversion: Conversion, license: str | None = None) -> str:
    """README.md of a converted checkpoint: what the files say of it, how to load it and where it is from."""
    config, name = conversion.config, conversion.folder.absolute().name
    filters = ", ".join(f"{number} of width {width}" for width, number in config.char_cnn_filters)
    clips = [("cell", config.cell_clip), ("projection", config.proj_clip)]
    hashes = "\n".join(f"| `{file}` | `{sha256}` |" for file, sha256 in conversion.sha256.items())
    return f"""\
---
{f"license: {license}" if license else "# license: not known from the files"}
library_name: transformers
pipeline_tag: feature-extraction
tags:
- elmo
- bilm
- word-embeddings
---

# {name}

ELMo: a bidirectional language model that reads words as characters and gives each word a vector that depends on its
sentence ([Deep contextualized word representations](https://arxiv.org/abs/1802.05365), Peters et al., 2018).

## Use

```python
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({json.dumps(name)}, trust_remote_code=True)
model = AutoModel.from_pretrained({json.dumps(name)}, trust_remote_code=True)
inputs = tokenizer(["The river bank was muddy."], return_tensors="pt")
outputs = model(**inputs, output_hidden_states=True)
outputs.last_hidden_state  # (1, words, {config.hidden_size})
outputs.hidden_states      # {config.num_hidden_layers + 1} layers of that shape
```

With `pip install elmo-hf` and `import elmo_hf` it loads without `trust_remote_code`. The scalar mix that makes
`last_hidden_state` is untrained and weighs the layers equally: train it with the task, or choose a layer.

## Sizes

| part | size |
|---|---|
| parameters | {conversion.num_parameters:,} |
| width of the output | {config.hidden_size} (2 directions of {config.projection_dim}) |
| LSTM layers in each direction | {config.num_hidden_layers}, {config.cell_size} cells each |
| character convolutions | {config.num_filters} filters ({filters}), {config.char_cnn_activation} |
| highway layers | {config.num_highway_layers} |
| characters a word | {config.max_characters_per_token}, vectors of {config.char_embedding_dim} |
| clips | {", ".join(f"{part} {'none' if clip is None else f'{clip:g}'}" for part, clip in clips)} |
| skip connections | {"yes" if config.use_skip_connections else "no"} |

## Source

Converted from a checkpoint of bilm-tf by `elmo-hf convert`.

| file | sha256 |
|---|---|
{hashes}

{_verification_line(conversion)}
"""


def _verification_line(conversion: Conversion) -> str:
    if conversion.difference is None:
        return "The conversion was not verified."
    layers = conversion.config.num_hidden_layers + 1
    return (
        f"Verified: on {len(VERIFICATION_SENTENCES)} sentences all {layers} layers agree with a plain float64 "
        f"computation\nfrom the hdf5 file to {conversion.difference:.1e} of their scale."
    )


@contextmanager
def _folder_moved_into_place(output_dir: PathLike, overwrite: bool) -> Iterator[Path]:
    """A folder beside `output_dir` that takes its place when the block ends well, and goes away when it does not."""
    target = Path(os.path.realpath(output_dir))
    _check_is_free(target, overwrite)
    # On the same file system, where a move is one step.
    home = next(parent for parent in target.parents if parent.is_dir())
    temporary = home / f".{target.name}.{uuid.uuid4().hex[:8]}"
    with _sigterm_as_exit():
        try:
            temporary.mkdir()
            yield temporary
            target.parent.mkdir(parents=True, exist_ok=True)
            _exchange(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _check_is_free(target: Path, overwrite: bool):
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(f"{target}: must be a new or empty folder, was there already. `overwrite` replaces it.")
    try:
        model_type = json.loads((target / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        model_type = None
    if model_type != ElmoConfig.model_type:
        raise FileExistsError(f"{target}: must be an ELMo folder to be overwritten, was something else.")


def _exchange(new: Path, target: Path):
    """Moves the folder `new` to `target`. One that is there comes back if that fails and is deleted if it does not."""
    if not target.exists():
        new.rename(target)
        return
    old = new.with_name(new.name + ".old")
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old)


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """SIGTERM, which would end the process on the spot, ends it as an exception does, so that clean-up runs."""
    # Python lets the main thread alone set handlers.
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: object):
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _sha256(paths: Sequence[PathLike], progress: Progress) -> dict[str, str]:
    hashes, done, total = {}, 0, sum(os.path.getsize(path) for path in paths)
    for path in paths:
        digest = hashlib.sha256()
        with open(path, "rb") as stream:
            while block := stream.read(1 << 23):
                digest.update(block)
                done += len(block)
                progress("Hashing", done, total)
        hashes[Path(path).name] = digest.hexdigest()
    return hashes


def _no_progress(step: str, done: int, total: int):
    pass


# ---------------------------------------------------------------------------------------------------------------------
# Small things
# ---------------------------------------------------------------------------------------------------------------------


def _check_is_file(path: PathLike):
    if not os.path.exists(path):
        raise FileNotFoundError(f"{path}: must be a file, was missing.")
    if not os.path.isfile(path):
        raise ValueError(f"{path}: must be a file, was something else.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    # Unlike repr, it ends on nested and on long values.
    return reprlib.repr(value)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
