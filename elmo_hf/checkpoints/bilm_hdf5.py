"""
The checkpoints of bilm-tf and AllenNLP, an options.json and an hdf5 file of weights, in and out.

Reading order: the table of tensors, the options, the weights in, the weights out. Both files come from strangers, so
nothing in them is believed before it is checked, and whatever is wrong with them is told in one line that names the
file and the key.
"""

import json
import math
import os
import reprlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from transformers.utils import logging

from ..configuration_elmo import ElmoConfig
from ..files import atomic_file, check_readable
from ..modeling_elmo import ElmoModel

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
    text = options_text(config)
    with atomic_file(options_file, overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def options_text(config: ElmoConfig) -> str:
    """The content of the file that [`write_options`] writes."""
    if config.vocab_size != 262:
        raise ValueError(f"`vocab_size` must be 262 in an options.json, was: {config.vocab_size}.")
    options: dict[str, Any] = {}
    for option in OPTIONS:
        *groups, name = option.key.split(".")
        group = options
        for part in groups:
            group = group.setdefault(part, {})
        group[name] = getattr(config, option.field)
    return json.dumps(options, indent=2) + "\n"


def _load_json(path: PathLike) -> dict[str, Any]:
    check_readable(path)
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
        raise ValueError(f"{path}: must be JSON in UTF-8, was not: {one_line(error)}.") from None
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

# Other filters need plug-ins, which are not loaded for a stranger's file, or pack without a limit that can be checked.
_FILTERS = frozenset({h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32})
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


def read_model(
    options_file: PathLike, weight_file: PathLike, progress: Progress | None = None, **behaviours: Any
) -> ElmoModel:
    """
    Reads a checkpoint into an [`ElmoModel`], in eval mode, with new scalar mixes.

    Takes `behaviours` as [`read_options`] and raises what it and [`read_weights`] raise.
    """
    config = read_options(options_file, **behaviours)
    return ElmoModel.from_pretrained(None, config=config, state_dict=read_weights(weight_file, config, progress))


@contextmanager
def _opened(weight_file: PathLike) -> Iterator[h5py.File]:
    check_readable(weight_file)
    with open(weight_file, "rb") as stream:
        start = stream.read(16)
    with plain_errors(weight_file, "hdf5 file"):
        is_hdf5 = h5py.is_hdf5(weight_file)
    if not is_hdf5:
        raise ValueError(f"{weight_file}: must be an hdf5 file, starts with: {start!r}.")
    with plain_errors(weight_file, "hdf5 file"):
        file = h5py.File(weight_file, "r")
    with file:
        yield file


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

    with plain_errors(weight_file, "list of datasets"):
        visit("", file)
    return found


def _facts(dataset: h5py.Dataset, file_size: int) -> _Found:
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
    dataset = file[entry.dataset]
    values = np.empty(entry.shape, dtype=np.float32)
    with plain_errors(weight_file, f"`{entry.dataset}`"):
        if dataset.compression == "gzip":
            _check_chunks_are_as_large_as_declared(dataset)
        dataset.read_direct(values)
    finite = np.isfinite(values)
    if not finite.all():
        place = tuple(int(index) for index in np.argwhere(~finite)[0])
        raise ValueError(
            f"{weight_file}: `{entry.dataset}` must hold finite float32 numbers, was: {values[place]} at {place}."
        )
    return values


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
    with atomic_file(weight_file, overwrite=True) as temporary:
        write_datasets(model, config, temporary)


def write_datasets(model: torch.nn.Module | Mapping[str, torch.Tensor], config: ElmoConfig, weight_file: PathLike):
    """As [`write_weights`], straight into the file."""
    state = getattr(model, "base_model", model).state_dict() if isinstance(model, torch.nn.Module) else model
    table = tensor_table(config)
    known = {name for entry in table for name in entry.parameters}
    for name in state:
        if name not in known and not name.startswith("scalar_mixes."):
            raise ValueError(f"`{name}` must be a parameter of the biLM, was unknown.")
    with h5py.File(weight_file, "w") as file:
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


# ---------------------------------------------------------------------------------------------------------------------
# Small things
# ---------------------------------------------------------------------------------------------------------------------


@contextmanager
def plain_errors(path: PathLike, what: str) -> Iterator[None]:
    """Whatever is raised while `what` of the file is read becomes one line."""
    try:
        yield
    except PermissionError as error:
        raise PermissionError(f"{path}: could not be read: {error.strerror}.") from None
    # A damaged file may raise any class out of h5py, MemoryError and RuntimeError among them.
    except Exception as error:
        raise ValueError(f"{path}: {what} must be readable, was damaged: {one_line(error)}.") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    # Unlike repr, it ends on nested and on long values.
    return reprlib.repr(value)


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
