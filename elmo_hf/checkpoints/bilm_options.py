"""An options.json of bilm-tf or AllenNLP, in and out."""

import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers.utils import logging

from ..configuration_elmo import UNKNOWN_WORD, WORD_VOCABULARY_START, ElmoConfig
from ..files import PathLike, atomic_file, check_readable
from ..spelling_elmo import LexiconSpelling
from .bilm_tensors import read_words
from .errors import one_line, plain_errors, shortened, shown
from .sources import Source

logger = logging.get_logger(__name__)

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

MAX_OPTIONS_BYTES, MAX_VOCABULARY_BYTES = 1 << 20, 1 << 28


def read_options(options_file: PathLike, **behaviours: Any) -> ElmoConfig:
    """
    Reads an options.json of bilm-tf or AllenNLP into an [`ElmoConfig`].

    A clip of 0 or `null`, or none at all, is off, as in AllenNLP. `n_characters` is 261 in options of training and 262
    in those of inference; both mean the same table. The keys of `TRAINING_OPTIONS` may be there and are not read;
    others that are unknown give a warning, as the original readers ignore them.

    Args:
        options_file (`str` or `os.PathLike`): the options.json.
        behaviours: further arguments of [`ElmoConfig`], `do_layer_norm` for example: an options.json has only sizes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, a key is missing or given twice, or a value is out of range; or the biLM reads
            whole words, which only [`convert_checkpoint`] takes, because it needs their vocabulary.
        TypeError: a value has the wrong type.
    """
    check_readable(options_file)
    size = Path(options_file).stat().st_size
    if size > MAX_OPTIONS_BYTES:
        raise ValueError(f"{options_file}: must be at most {MAX_OPTIONS_BYTES} bytes long, was: {size}.")
    options = parse_options(str(options_file), Path(options_file).read_bytes())
    return config_of_options(str(options_file), options, **behaviours)


def config_of_options(
    location: str, options: Mapping[str, Any], words: Sequence[str] | None = None, **behaviours: Any
) -> ElmoConfig:
    """As [`read_options`], from the content of the file; `words` are the vocabulary of a biLM without characters."""
    values = _flatten_options(location, options)
    has_characters = "char_cnn" in options
    sizes: dict[str, Any] = {}
    for option in OPTIONS:
        if not has_characters and option.key.startswith("char_cnn."):
            continue
        value = values.pop(option.key, option.default)
        if value is _REQUIRED:
            raise ValueError(f"{location}: `{option.key}` must be given, was missing.")
        sizes[option.field] = _checked_option(location, option, value)
    if values:
        unknown = ", ".join(f"`{shortened(key, 40)}`" for key in sorted(values)[:5])
        logger.warning(f"{location}: {unknown} is unknown to bilm-tf and ignored, as bilm-tf does.")
    try:
        if not has_characters:
            spelling = spelling_of_words(location, words)
            sizes |= {
                "max_characters_per_token": 0,
                "num_highway_layers": 0,
                "word_embedding_dim": sizes["projection_dim"],
                "word_lexicon_size": len(words or ()) + 1,
                "boundary_ids": spelling.boundary_ids,
                "fill_character": spelling.fill_character,
            }
        return ElmoConfig(**sizes, **behaviours)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{location}: {_with_keys_of_options(str(error)).removeprefix(location + ': ')}") from None


def spelling_of_words(location: str, words: Sequence[str] | None) -> LexiconSpelling:
    """
    How a biLM without characters knows words: by their place in its vocabulary.

    Raises:
        ValueError: there is no vocabulary.
    """
    if not words:
        raise ValueError(
            f"{location}: `char_cnn` must be given, was missing. A biLM that reads whole words needs its vocabulary, "
            "vocab.txt: `elmo-hf convert` takes the folder of both."
        )
    places = {word: place for place, word in enumerate(words)}
    return LexiconSpelling(0, places, None, WORD_VOCABULARY_START[:2], unknown_word=UNKNOWN_WORD)


ASSUMED = (
    "Its files do not tell its activation (relu), its clips (3), that it has skip connections and how many characters "
    "a word has (50): these are those of every model of AI2."
)


def options_as_of_ai2(
    cell_size: int,
    projection_dim: int,
    num_layers: int,
    char_embedding_dim: int,
    filters: list[list[int]],
    num_highways: int,
) -> dict[str, Any]:
    """The options.json of these sizes whose other values, which no tensor tells, are those of every model of AI2."""
    return {
        "lstm": {
            "dim": cell_size,
            "projection_dim": projection_dim,
            "n_layers": num_layers,
            "cell_clip": 3,
            "proj_clip": 3,
            "use_skip_connections": True,
        },
        "char_cnn": {
            "activation": "relu",
            "embedding": {"dim": char_embedding_dim},
            "filters": filters,
            "max_characters_per_token": 50,
            "n_characters": 262,
            "n_highway": num_highways,
        },
    }


def write_options(config: ElmoConfig, options_file: PathLike):
    """
    Writes the sizes of `config` as an options.json that AllenNLP and bilm-tf read, in one step: the file is complete
    or untouched. What only [`ElmoConfig`] knows (mixes, dropout) has no place there. AllenNLP itself refuses a model
    without skip connections; bilm-tf reads it.

    Raises:
        ValueError: the characters are not the 262 of bilm-tf.
    """
    text = options_text(config)
    with atomic_file(options_file, overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def options_text(config: ElmoConfig) -> str:
    """The content of the file that [`write_options`] writes."""
    has_characters = config.max_characters_per_token > 0
    if has_characters and config.word_embedding_dim:
        raise ValueError("A biLM of words and characters has no place in an options.json.")
    if has_characters and config.vocab_size != 262:
        raise ValueError(f"`vocab_size` must be 262 in an options.json, was: {config.vocab_size}.")
    options: dict[str, Any] = {}
    for option in OPTIONS:
        if not has_characters and option.key.startswith("char_cnn."):
            continue
        *groups, name = option.key.split(".")
        group = options
        for part in groups:
            group = group.setdefault(part, {})
        group[name] = getattr(config, option.field)
    if not has_characters:
        options["n_tokens_vocab"] = config.word_lexicon_size - 1
    return json.dumps(options, indent=2) + "\n"


def parse_options(location: str, content: bytes) -> dict[str, Any]:
    """
    Raises:
        ValueError: the content is no JSON in UTF-8, or a key is there twice.
        TypeError: it is no object.
    """

    def refuse_constant(name: str):
        raise ValueError(f"numbers must be finite, one was: {name}")

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            raise ValueError("every key must occur once, one did not")
        return mapping

    try:
        value = json.loads(
            content.decode("utf-8"), parse_constant=refuse_constant, object_pairs_hook=refuse_duplicates
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{location}: must be JSON in UTF-8, was not: {one_line(error)}.") from None
    if not isinstance(value, dict):
        raise TypeError(f"{location}: must hold a JSON object, was: {shown(value)}.")
    return value


def _flatten_options(path: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """`{"lstm": {"dim": 4096}}` as `{"lstm.dim": 4096}`, without what training alone wants."""
    if options.get("bidirectional", True) is not True:
        raise ValueError(f"{path}: `bidirectional` must be true, was: {shown(options['bidirectional'])}.")
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
                raise TypeError(f"{path}: `{key}` must be a JSON object, was: {shown(value)}.")

    visit("", {name: value for name, value in options.items() if name not in TRAINING_OPTIONS})
    return flat


def _checked_option(path: PathLike, option: Option, value: Any) -> Any:
    """The value as [`ElmoConfig`] takes it. Types and ranges are left to that class, but it knows no upper limits."""
    if option.field == "vocab_size":
        if isinstance(value, bool) or value not in (261, 262):
            raise ValueError(f"{path}: `{option.key}` must be 261 or 262, was: {shown(value)}.")
        return 262
    if option.field in ("cell_clip", "proj_clip") and _is_number(value):
        if not abs(value) < 1e30:
            raise ValueError(f"{path}: `{option.key}` must be finite, was: {shown(value)}.")
        return value or None
    if option.field == "num_highway_layers" and value is None:
        return 0
    if option.field == "char_cnn_filters":
        _check_filters_are_small(path, option, value)
    if option.maximum is not None and _is_number(value) and value > option.maximum:
        raise ValueError(f"{path}: `{option.key}` must be at most {option.maximum}, was: {shown(value)}.")
    return value


def _check_filters_are_small(path: PathLike, option: Option, filters: Any):
    for pair in filters if isinstance(filters, list) else []:
        for value in pair if isinstance(pair, list) else []:
            if _is_number(value) and value > 1_000_000:
                raise ValueError(f"{path}: `{option.key}` must be at most 1000000 each, one was: {shown(value)}.")


def _with_keys_of_options(message: str) -> str:
    """An error of [`ElmoConfig`] with the key of options.json in the place of the field's name."""
    for option in OPTIONS:
        if message.startswith(f"`{option.field}"):
            message = f"`{option.key}{message.removeprefix('`' + option.field)}"
    return message if len(message) <= 300 else message[:297] + "..."


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_vocabulary(source: Source, name: str) -> list[str]:
    """
    The words of a vocabulary file, in the order of the rows of the softmax, see [`read_words`].

    Raises:
        ValueError: it is damaged, or no vocabulary of bilm-tf.
    """
    content = source.read(name, MAX_VOCABULARY_BYTES)
    if name.endswith(".gz"):
        with plain_errors(source.location(name), "file"):
            content = zlib.decompressobj(31).decompress(content, MAX_VOCABULARY_BYTES)
    return read_words(source.location(name), content)
