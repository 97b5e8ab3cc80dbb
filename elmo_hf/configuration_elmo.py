# SPDX-License-Identifier: Apache-2.0
"""Configuration of the ELMo model: every size of an options.json and every behaviour of the original interface."""

import inspect
import math
import os
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

from transformers.configuration_utils import PretrainedConfig

# The Auto classes that a Hub folder serves to `trust_remote_code=True`, whichever class was saved into it.
AUTO_MAP = {
    "AutoConfig": "configuration_elmo.ElmoConfig",
    "AutoModel": "modeling_elmo.ElmoModel",
    "AutoModelForMultipleChoice": "modeling_elmo.ElmoForMultipleChoice",
    "AutoModelForPreTraining": "modeling_elmo.ElmoForPreTraining",
    "AutoModelForQuestionAnswering": "modeling_elmo.ElmoForQuestionAnswering",
    "AutoModelForSequenceClassification": "modeling_elmo.ElmoForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_elmo.ElmoForTokenClassification",
}

# Character ids that frame a word, all one more than in bilm-tf because 0 means "no word here".
BEGIN_SENTENCE_CHARACTER, END_SENTENCE_CHARACTER = 257, 258
BEGIN_WORD_CHARACTER, END_WORD_CHARACTER = 259, 260
PADDING_CHARACTER = 261

# The words that a vocabulary of the language model begins with, in this order.
BEGIN_SENTENCE, END_SENTENCE, UNKNOWN_WORD = "<S>", "</S>", "<UNK>"
WORD_VOCABULARY_START = (BEGIN_SENTENCE, END_SENTENCE, UNKNOWN_WORD)

# Element-wise operations take at most so many values at a time; those left over at the end of a row are computed in
# another way, to other bits.
INVARIANT_MULTIPLE = 64

CHAR_CNN_ACTIVATIONS = ("relu", "tanh")
SENTENCE_POOLINGS = ("mean", "max", "last")

# Filters of the original English model, [width, number] (called `filters` in bilm-tf).
_ORIGINAL_FILTERS = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))


class ElmoConfig(PretrainedConfig):
    r"""
    Sizes and behaviours of an [`ElmoModel`]. The defaults are those of the original English model
    ("Deep contextualized word representations", Peters et al., 2018, section 3.4).

    Args:
        vocab_size (`int`, defaults to 262):
            Rows of the character table: the 261 of the file and row 0 for "no word here". Called `n_characters` in
            bilm-tf, whose training options say 261. This is not a word vocabulary.
        char_embedding_dim (`int`, defaults to 16):
            Width of a character vector (`char_cnn.embedding.dim`).
        char_cnn_filters (sequence of `[width, number]`, defaults to the seven widths of the original model):
            Convolution filters over the characters of a word (`char_cnn.filters`).
        char_cnn_activation (`"relu"` or `"tanh"`, defaults to `"relu"`):
            Non-linearity after the maximum over positions (`char_cnn.activation`).
        num_highway_layers (`int`, defaults to 2):
            Highway layers after the convolutions (`char_cnn.n_highway`).
        max_characters_per_token (`int`, defaults to 50):
            Character ids per word, begin and end marks included; 0 in a biLM that knows words by a table alone.
        word_embedding_dim (`int`, defaults to 0):
            Width of a vector that a word is looked up by, beside its characters (ELMoForManyLangs) or without them
            (bilm-tf without `char_cnn`); 0 without such a table.
        word_lexicon_size (`int`, defaults to 0):
            Rows of that table, row 0 for "no word here" included. Words outside of it share one.
        boundary_ids (two sequences of `int`, defaults to those of bilm-tf):
            The ids that stand for `<S>` and `</S>`, without what fills them up.
        fill_character (`int`, defaults to 261):
            The id that fills a word up to `max_characters_per_token`.
        projection_dim (`int`, defaults to 512):
            Width of one direction (`lstm.projection_dim`).
        cell_size (`int`, defaults to 4096):
            Memory cells of one LSTM layer in one direction (`lstm.dim`).
        num_hidden_layers (`int`, defaults to 2):
            LSTM layers in each direction (`lstm.n_layers`).
        cell_clip (`float` or `None`, defaults to 3.0):
            Bound of the memory cell after each update. `None` turns it off, and so does 0 in an options.json.
        proj_clip (`float` or `None`, defaults to 3.0):
            Bound of the projected output of each step. `None` turns it off.
        use_skip_connections (`bool`, defaults to `True`):
            Whether a layer's input is added to its output from the second layer on.
        num_output_representations (`int`, defaults to 1):
            Scalar mixes to compute. The biLM runs once for all of them; the first is `last_hidden_state`.
        do_layer_norm (`bool`, defaults to `False`):
            Whether each layer is normalised inside the scalar mix, by one mean and one variance over all words and
            features **of the batch**: with it, a sentence's vectors depend on its neighbours.
        dropout (`float`, defaults to 0.5):
            Dropout on the mixed representations, in training mode.
        keep_sentence_boundaries (`bool`, defaults to `False`):
            Whether the two positions of `<S>` and `</S>`, which the model adds itself, stay in the output.
        scalar_mix_parameters (sequence of `float` or `None`, defaults to `None`):
            Fixed mixing weights before the softmax, one per layer (`num_hidden_layers + 1`). With them neither the
            weights nor gamma is trained. `[-9e10, 1, -9e10]` selects the middle one of three layers.
        word_cache_size (`int`, defaults to 16384):
            Word vectors that a model on a CPU remembers from call to call while its weights stay the same (32 MB at
            the original size when full); 0 turns it off. Changes results by float rounding at most.
        batch_invariant (`bool`, defaults to `False`):
            Whether a sentence has the same vectors to the last bit whatever else is in the batch, and on one thread as
            on many: for hashes, caches and comparisons. In inference in float32 on an x86 CPU alone; a model that
            cannot keep the promise raises. `cell_size` and the number of filters must be multiples of 64.
        head_lstm_size (`int` or `None`, defaults to `None`):
            Width of one direction of the BiLSTM that a head runs over the mixed representations, as the taggers of the
            paper do. `None`: the head reads the mix itself.
        classifier_dropout (`float`, defaults to 0.0):
            Dropout on what a head's classifier reads, in training mode. The mix has its own, `dropout`.
        sentence_pooling (`"mean"`, `"max"` or `"last"`, defaults to `"mean"`):
            How a head makes one vector of a sentence's words, padding left out. `"last"` is where each direction ends:
            the forward half of the last word beside the backward half of the first.
        word_vocab_size (`int` or `None`, defaults to `None`):
            Words that [`ElmoForPreTraining`] predicts, `<S>`, `</S>` and `<UNK>` among them (`n_tokens_vocab`). They
            are in the tokenizer's `vocab.txt`; every other model does without.
        num_sampled_words (`int` or `None`, defaults to 8192):
            Words that the training loss of [`ElmoForPreTraining`] draws as wrong answers, anew for each batch
            (`n_negative_samples_batch`). `None`: all words are.
        bilm_dropout (`float`, defaults to 0.0):
            Dropout on what each LSTM layer and the softmax read, in training mode. bilm-tf trained with 0.1.
        fixed_initial_state (`bool`, defaults to `False`):
            Whether the LSTMs start from a state that is kept in the checkpoint, rather than from zeros; see
            `ElmoModel.set_initial_state`.
        initializer_factor (`float`, defaults to 1.0):
            Multiplies every standard deviation (and the highway gate's bias) of bilm-tf's random initialisation.
        hidden_size (`int`, *optional*):
            Width of the output, always `2 * projection_dim`. Given alone, it sets `projection_dim`.

    Raises:
        ValueError: a size or a range is impossible. The message names the field, what was expected and what was given.
        TypeError: a value has the wrong type.
    """

    model_type = "elmo"
    _auto_class = "AutoConfig"
    keys_to_ignore_at_inference = ["other_representations", "attention_mask", "lstm_hidden", "lstm_cell"]

    # transformers 5 makes a dataclass of every subclass, whose generated `__eq__` would not see the fields below.
    __eq__ = PretrainedConfig.__eq__

    def __init__(
        self,
        vocab_size: int = 262,
        char_embedding_dim: int = 16,
        char_cnn_filters: Sequence[Sequence[int]] = _ORIGINAL_FILTERS,
        char_cnn_activation: str = "relu",
        num_highway_layers: int = 2,
        max_characters_per_token: int = 50,
        word_embedding_dim: int = 0,
        word_lexicon_size: int = 0,
        boundary_ids: Sequence[Sequence[int]] | None = None,
        fill_character: int = PADDING_CHARACTER,
        projection_dim: int = 512,
        cell_size: int = 4096,
        num_hidden_layers: int = 2,
        cell_clip: float | None = 3.0,
        proj_clip: float | None = 3.0,
        use_skip_connections: bool = True,
        num_output_representations: int = 1,
        do_layer_norm: bool = False,
        dropout: float = 0.5,
        keep_sentence_boundaries: bool = False,
        scalar_mix_parameters: Sequence[float] | None = None,
        word_cache_size: int = 16384,
        batch_invariant: bool = False,
        head_lstm_size: int | None = None,
        classifier_dropout: float = 0.0,
        sentence_pooling: str = "mean",
        word_vocab_size: int | None = None,
        num_sampled_words: int | None = 8192,
        bilm_dropout: float = 0.0,
        fixed_initial_state: bool = False,
        initializer_factor: float = 1.0,
        hidden_size: int | None = None,
        pad_token_id: int = 0,
        **kwargs: Any,
    ):
        self._set_words(vocab_size, max_characters_per_token, word_embedding_dim, word_lexicon_size, boundary_ids)
        self._set_character_encoder(
            char_embedding_dim, char_cnn_filters, char_cnn_activation, num_highway_layers, fill_character
        )
        if hidden_size is not None:
            if _positive_int("hidden_size", hidden_size) % 2:
                raise ValueError(f"`hidden_size` must be even (two directions side by side), was: {hidden_size}.")
            projection_dim = hidden_size // 2
        self.projection_dim = _positive_int("projection_dim", projection_dim)
        self.cell_size = _positive_int("cell_size", cell_size)
        self.num_hidden_layers = _positive_int("num_hidden_layers", num_hidden_layers)
        self.cell_clip = _clip("cell_clip", cell_clip)
        self.proj_clip = _clip("proj_clip", proj_clip)
        self.use_skip_connections = _boolean("use_skip_connections", use_skip_connections)

        self.num_output_representations = _positive_int("num_output_representations", num_output_representations)
        self.do_layer_norm = _boolean("do_layer_norm", do_layer_norm)
        self.dropout = _dropout("dropout", dropout)
        self.keep_sentence_boundaries = _boolean("keep_sentence_boundaries", keep_sentence_boundaries)
        self.scalar_mix_parameters = _mix_parameters(scalar_mix_parameters, self.num_hidden_layers + 1)
        self.word_cache_size = _positive_int("word_cache_size", word_cache_size, minimum=0)

        self.batch_invariant = _boolean("batch_invariant", batch_invariant)
        if self.batch_invariant:
            self._check_batch_invariance()

        self.head_lstm_size = _optional_int("head_lstm_size", head_lstm_size)
        self.classifier_dropout = _dropout("classifier_dropout", classifier_dropout)
        self.sentence_pooling = _choice("sentence_pooling", sentence_pooling, SENTENCE_POOLINGS)

        # The boundaries and the unknown word come first.
        self.word_vocab_size = _optional_int("word_vocab_size", word_vocab_size, minimum=4)
        self.num_sampled_words = _optional_int("num_sampled_words", num_sampled_words)
        self.bilm_dropout = _dropout("bilm_dropout", bilm_dropout)
        self.fixed_initial_state = _boolean("fixed_initial_state", fixed_initial_state)

        if _number("initializer_factor", initializer_factor) < 0.0:
            raise ValueError(f"`initializer_factor` must not be negative, was: {initializer_factor}.")
        self.initializer_factor = float(initializer_factor)

        # A mapping of its own: `save_pretrained` writes into it.
        kwargs["auto_map"] = {**AUTO_MAP, **(kwargs.get("auto_map") or {})}
        kwargs["pad_token_id"] = pad_token_id
        super().__init__(**kwargs)

    def _set_words(
        self,
        vocab_size: int,
        max_characters_per_token: int,
        word_embedding_dim: int,
        word_lexicon_size: int,
        boundary_ids: Sequence[Sequence[int]] | None,
    ):
        """What a word is to the model: characters, a row of a table, or both."""
        self.vocab_size = _positive_int("vocab_size", vocab_size)
        self.word_embedding_dim = _positive_int("word_embedding_dim", word_embedding_dim, minimum=0)
        self.word_lexicon_size = _positive_int("word_lexicon_size", word_lexicon_size, minimum=0)
        if (self.word_embedding_dim > 0) != (self.word_lexicon_size > 0):
            raise ValueError(
                "`word_embedding_dim` and `word_lexicon_size` must be given together, were: "
                f"{word_embedding_dim} and {word_lexicon_size}."
            )
        # Without a table of words, there is nothing but characters.
        fewest = 0 if max_characters_per_token == 0 and self.word_embedding_dim > 0 else 3
        self.max_characters_per_token = _positive_int(
            "max_characters_per_token", max_characters_per_token, minimum=fewest
        )
        self.boundary_ids = _boundaries(boundary_ids, self.ids_per_word)

    def _set_character_encoder(
        self,
        char_embedding_dim: int,
        char_cnn_filters: Sequence[Sequence[int]],
        char_cnn_activation: str,
        num_highway_layers: int,
        fill_character: int,
    ):
        without = self.max_characters_per_token == 0
        self.char_embedding_dim = _positive_int("char_embedding_dim", char_embedding_dim)
        self.char_cnn_filters = [] if without else _filters(char_cnn_filters, self.max_characters_per_token)
        self.char_cnn_activation = _choice("char_cnn_activation", char_cnn_activation, CHAR_CNN_ACTIVATIONS)
        self.fill_character = _positive_int("fill_character", fill_character, minimum=0)
        self.num_highway_layers = _positive_int("num_highway_layers", num_highway_layers, minimum=0)
        if without and self.num_highway_layers:
            raise ValueError(f"`num_highway_layers` must be 0 without characters, was: {num_highway_layers}.")

    def _check_batch_invariance(self):
        """Raises a ValueError for what makes sentences depend on their neighbours."""
        if self.do_layer_norm:
            raise ValueError("`batch_invariant` must be false with `do_layer_norm`, whose statistics are the batch's.")
        for name, size in (("cell_size", self.cell_size), ("num_filters", self.num_filters)):
            if size % INVARIANT_MULTIPLE:
                raise ValueError(
                    f"`{name}` must be a multiple of {INVARIANT_MULTIPLE} with `batch_invariant`, was: {size}."
                )

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As in transformers, but of a folder that holds the checkpoint of another library, it says what to do."""
        path = str(pretrained_model_name_or_path)
        try:
            result = super().get_config_dict(path, **kwargs)
        except OSError:
            _refuse_foreign_checkpoint(path)
            raise
        if "model_type" not in result[0]:
            _refuse_foreign_checkpoint(path)
        return result

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers, but values that are given to `from_pretrained` are checked as well."""
        # transformers would set them after `__init__`.
        given = {name: kwargs.pop(name) for name in list(kwargs) if name in inspect.signature(cls.__init__).parameters}
        return super().from_dict({**config_dict, **given}, **kwargs)

    @property
    def hidden_size(self) -> int:
        """Width of the output, the two directions side by side (`get_output_dim()` in AllenNLP)."""
        return 2 * self.projection_dim

    @hidden_size.setter
    def hidden_size(self, value: int):
        self.projection_dim = value // 2

    @property
    def num_filters(self) -> int:
        """Number of convolution filters over all widths, the width of the highway layers."""
        return sum(number for _, number in self.char_cnn_filters)

    @property
    def ids_per_word(self) -> int:
        """Ids per word in `input_ids`: its row in the table of words, if there is one, and its characters."""
        return int(self.word_embedding_dim > 0) + self.max_characters_per_token


def _refuse_foreign_checkpoint(path: str):
    """Raises an OSError if a folder holds no model of transformers, but one that can become one."""
    endings = (".hdf5", ".h5", ".index", ".th", ".pkl")
    if os.path.isdir(path) and any(name.endswith(endings) for name in os.listdir(path)):
        raise OSError(
            f"{path} holds the checkpoint of another library. `elmo-hf convert {path} OUT_DIR` makes a folder of it "
            "that `from_pretrained` loads."
        ) from None


def _number(name: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"`{name}` must be a number, was: {value!r}.")
    if not math.isfinite(value):
        raise ValueError(f"`{name}` must be finite, was: {value}.")
    return value


def _positive_int(name: str, value: Any, minimum: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"`{name}` must be a whole number, was: {value!r}.")
    if value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, was: {value}.")
    return int(value)


def _optional_int(name: str, value: Any, minimum: int = 1) -> int | None:
    return None if value is None else _positive_int(name, value, minimum)


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be true or false, was: {value!r}.")
    return value


def _choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"`{name}` must be {' or '.join(choices)}, was: {value!r}.")
    return value


def _dropout(name: str, value: Any) -> float:
    if not 0.0 <= _number(name, value) < 1.0:
        raise ValueError(f"`{name}` must be at least 0 and less than 1, was: {value}.")
    return float(value)


def _clip(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if _number(name, value) <= 0:
        raise ValueError(f"`{name}` must be positive or None, was: {value}.")
    if value > 1e30:
        raise ValueError(f"`{name}` must be at most 1e30, beyond which float32 ends, or None, was: {value}.")
    return float(value)


def _filters(filters: Any, max_characters: int) -> list[list[int]]:
    is_sequence = isinstance(filters, Sequence) and not isinstance(filters, str)
    if not is_sequence or not filters:
        raise TypeError(f"`char_cnn_filters` must be a non-empty list of [width, number], was: {filters!r}.")
    checked = []
    for index, pair in enumerate(filters):
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise TypeError(f"`char_cnn_filters[{index}]` must be [width, number], was: {pair!r}.")
        width = _positive_int(f"char_cnn_filters[{index}] width", pair[0])
        if width > max_characters:
            raise ValueError(
                f"`char_cnn_filters[{index}]` must not be wider than the {max_characters} characters of a word, "
                f"was: {width}."
            )
        checked.append([width, _positive_int(f"char_cnn_filters[{index}] number", pair[1])])
    return checked


def _boundaries(boundaries: Any, ids_per_word: int) -> list[list[int]]:
    if boundaries is None:
        if ids_per_word < 3:
            raise ValueError("`boundary_ids` must be given without characters, was: None.")
        return [
            [BEGIN_WORD_CHARACTER, character, END_WORD_CHARACTER]
            for character in (BEGIN_SENTENCE_CHARACTER, END_SENTENCE_CHARACTER)
        ]
    if not isinstance(boundaries, Sequence) or isinstance(boundaries, str) or len(boundaries) != 2:
        raise TypeError(f"`boundary_ids` must be two lists of ids, was: {boundaries!r}.")
    checked = []
    for ids in boundaries:
        if not isinstance(ids, Sequence) or isinstance(ids, str) or not 0 < len(ids) <= ids_per_word:
            raise TypeError(f"`boundary_ids` must be two lists of 1 to {ids_per_word} ids, one was: {ids!r}.")
        checked.append([_positive_int("boundary_ids", index) for index in ids])
    return checked


def _mix_parameters(parameters: Any, num_layers: int) -> list[float] | None:
    if parameters is None:
        return None
    if not isinstance(parameters, Sequence) or isinstance(parameters, str) or len(parameters) != num_layers:
        raise ValueError(
            f"`scalar_mix_parameters` must be a list of {num_layers} numbers, one per layer (word vectors and each "
            f"LSTM layer), was: {parameters!r}."
        )
    return [float(_number("scalar_mix_parameters", value)) for value in parameters]


__all__ = ["ElmoConfig"]
