"""
Loading of a folder that a command was pointed at: whole and sound, or one short line.

`from_pretrained` fills what is missing with random weights and says so in a warning. A command that scores a text or
writes another folder must not.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from ..configuration_elmo import ElmoConfig
from ..files import PathLike, check_model_folder, check_readable
from ..modeling_elmo import ElmoForPreTraining
from ..tokenization_elmo import ElmoTokenizer
from .bilm_options import OPTIONS
from .errors import plain_errors, shortened

Model = TypeVar("Model", bound=PreTrainedModel)

# Far above what any published folder has: a damaged number ends here and not in a table of a billion lines.
_MAX_JSON_BYTES, _MAX_VOCABULARY_BYTES = 1 << 22, 1 << 28
_MAX_SIZES = {
    **{option.field: option.maximum for option in OPTIONS if option.maximum is not None},
    "vocab_size": 1_000_000,
    "word_embedding_dim": 1_000_000,
    "word_lexicon_size": 100_000_000,
    "num_output_representations": 1_000,
    "word_vocab_size": 100_000_000,
    "num_sampled_words": 100_000_000,
    "head_lstm_size": 1_000_000,
    "word_cache_size": 100_000_000,
}
# The original model has 93.6 million, its softmax 400 million.
_MAX_WEIGHTS = 2_000_000_000
_FLOATS = ("F16", "BF16", "F32", "F64")
_MIX = "scalar_mixes."


def load_config(folder: PathLike) -> ElmoConfig:
    """
    The configuration of a folder.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: it is damaged, of another model, or has sizes that no model has.
    """
    file = Path(folder, "config.json")
    # transformers would look for a name that is no folder on the Hub.
    check_model_folder(folder)
    values = _read_json(file)
    if values.get("model_type") != ElmoConfig.model_type:
        raise ValueError(f"{file}: `model_type` must be elmo, was: {_short(values.get('model_type'))}.")
    for name, maximum in _MAX_SIZES.items():
        value = values.get(name)
        if isinstance(value, int | float) and not value <= maximum:
            raise ValueError(f"{file}: `{name}` must be at most {maximum:,}, was: {_short(value)}.")
    filters = values.get("char_cnn_filters")
    if isinstance(filters, list) and not _are_small(filters):
        raise ValueError(f"{file}: `char_cnn_filters` must have fewer than 1,000,000 filters, has more.")
    with plain_errors(file, "configuration"):
        return ElmoConfig.from_pretrained(folder, local_files_only=True)


def check_sizes(config: ElmoConfig, model_class: type[PreTrainedModel]) -> int:
    """
    How many weights a model of this configuration has, before anything is allocated.

    Raises:
        ValueError: more than any model has.
    """
    with torch.device("meta"), plain_errors("config.json", "configuration"):
        number = sum(parameter.numel() for parameter in model_class(config).parameters())
    if number > _MAX_WEIGHTS:
        raise ValueError(f"config.json must be of at most {_MAX_WEIGHTS:,} weights, was of {number:,}.")
    return number


def load_tokenizer(folder: PathLike, config: ElmoConfig | None = None) -> ElmoTokenizer:
    """
    The tokenizer of a folder, for characters as `config` has them.

    Raises:
        ValueError: one of its files is damaged.
    """
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if Path(folder, name).exists():
            _read_json(Path(folder, name))
    words = Path(folder, "vocab.txt")
    if words.exists():
        check_readable(words)
        if words.stat().st_size > _MAX_VOCABULARY_BYTES:
            raise ValueError(f"{words}: must be at most {_MAX_VOCABULARY_BYTES:,} bytes, was more.")
    options: dict[str, Any] = {} if config is None else {"max_characters_per_token": config.max_characters_per_token}
    with plain_errors(folder, "tokenizer"):
        return ElmoTokenizer.from_pretrained(folder, local_files_only=True, **options)


def load_model(folder: PathLike, model_class: type[Model], config: ElmoConfig | None = None, **options: Any) -> Model:
    """
    A model in evaluation mode whose every weight comes from the folder.

    Args:
        folder: of `save_pretrained`, or a conversion.
        model_class: [`ElmoModel`], [`ElmoForPreTraining`] or a head.
        config: instead of that of the folder.
        options: for `from_pretrained`.

    Raises:
        FileNotFoundError: there is no config.json or no model.safetensors.
        ValueError: a weight is missing, has another shape than the configuration gives it, or is not finite; or a file
            is damaged.
    """
    config = load_config(folder) if config is None else config
    shapes = _shapes_of_weights(folder)
    found = sum(math.prod(shape) for shape in shapes.values())
    wanted = check_sizes(config, model_class)
    # Mixes may be missing and heads too many; before anything is allocated, only what is out of all proportion counts.
    if wanted > 2 * found + 1_000_000:
        raise ValueError(f"{folder}: config.json must fit the {found:,} weights, tells of {wanted:,}.")
    with plain_errors(folder, "model"), _quiet():
        loaded: Any = model_class.from_pretrained(
            folder, config=config, use_safetensors=True, local_files_only=True, output_loading_info=True, **options
        )
    model, info = loaded
    for problem, names in (
        ("must have the shape that config.json gives it, had another", info["mismatched_keys"]),
        ("must be among the weights, was missing", _made_up(info["missing_keys"], shapes, model)),
        ("must be a parameter of the model, was unknown", info["unexpected_keys"]),
    ):
        if names:
            name = min(name if isinstance(name, str) else name[0] for name in names)
            raise ValueError(f"{folder}: `{_short(name)}` {problem}.")
    for name, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{folder}: `{name}` must be finite, was not.")
    return model.eval()


def load_language_model(folder: PathLike) -> tuple[ElmoForPreTraining, ElmoTokenizer]:
    """
    A language model and its tokenizer.

    Raises:
        ValueError: the folder holds another kind of model, or the vocabulary is not the model's.
    """
    config = load_config(folder)
    if ElmoForPreTraining.__name__ not in (config.architectures or ()):
        raise ValueError(f"{folder}: must be a language model, as `elmo-hf pretrain` makes them, was: no softmax.")
    tokenizer = load_tokenizer(folder, config)
    number = len(tokenizer.word_vocabulary or ())
    if number != config.word_vocab_size:
        raise ValueError(f"{folder}: vocab.txt must have the model's {config.word_vocab_size} words, had {number}.")
    return load_model(folder, ElmoForPreTraining, config), tokenizer


def _made_up(missing: Iterable[str], shapes: Mapping[str, Any], model: PreTrainedModel) -> list[str]:
    """
    Of the missing weights, those that no other folder lacks. A language model has no mix; of mixes transformers tells
    nothing, so they are looked for in the files.
    """
    if ElmoForPreTraining.__name__ in (model.config.architectures or ()):
        return [name for name in missing if _MIX not in name]
    found = {name[name.index(_MIX) :] for name in shapes if _MIX in name}
    mixes = {name for name in model.state_dict() if _MIX in name and name[name.index(_MIX) :] not in found}
    return [*missing, *mixes]


def _shapes_of_weights(folder: PathLike) -> dict[str, list[int]]:
    """The shape of each tensor in the weight files of a folder, by their headers."""
    whole, index = Path(folder, SAFE_WEIGHTS_NAME), Path(folder, SAFE_WEIGHTS_INDEX_NAME)
    if whole.exists():
        files = [whole]
    elif index.exists():
        names = _read_json(index).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
            raise ValueError(f"{index}: `weight_map` must name the file of each weight, does not.")
        if strange := [name for name in names.values() if Path(name).name != name or len(name) > 200]:
            raise ValueError(f"{index}: `weight_map` must name files beside it, has: {_short(strange[0])}.")
        files = [Path(folder, name) for name in sorted(set(names.values()))]
    else:
        raise FileNotFoundError(f"{folder}: must have {SAFE_WEIGHTS_NAME}, had none.")
    shapes: dict[str, list[int]] = {}
    for file in files:
        check_readable(file, "a file of weights")
        with plain_errors(file, "weights"), safe_open(file, framework="pt") as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
            types = {name: content.get_dtype() for name, content in slices.items()}
            shapes |= {name: content.get_shape() for name, content in slices.items()}
        for name, dtype in types.items():
            if dtype not in _FLOATS:
                raise ValueError(f"{file}: `{_short(name)}` must be a float, was: {dtype}.")
    return shapes


def _are_small(filters: list) -> bool:
    numbers = [pair[1] for pair in filters if isinstance(pair, list | tuple) and len(pair) == 2]
    return len(filters) <= 1_000 and sum(number for number in numbers if isinstance(number, int)) < 1_000_000


def _read_json(file: Path) -> dict[str, Any]:
    check_readable(file)
    if file.stat().st_size > _MAX_JSON_BYTES:
        raise ValueError(f"{file}: must be at most {_MAX_JSON_BYTES:,} bytes, was more.")
    with plain_errors(file, "JSON"):
        values = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{file}: must be a JSON object, was: {_short(values)}.")
    return values


def _short(value: Any) -> str:
    return shortened(value if isinstance(value, str) else repr(value), 60)


@contextmanager
def _quiet() -> Iterator[None]:
    """What transformers warns of here ends in an error anyway."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
