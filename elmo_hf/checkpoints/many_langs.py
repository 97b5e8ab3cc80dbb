"""
The models of ELMoForManyLangs (Che et al., 2018; 44 languages and simplified Chinese): config.json,
token_embedder.pkl, encoder.pkl and the lexicons char.dic and word.dic.

Their LSTMs are those of AllenNLP. Their words are not: each is looked up in a table of words, spelled in the code
points of a table of characters, and both are projected together. What the original does and its users do not expect:

- Words are cut at 48 characters before they are looked up, in the table of words as well.
- Case is kept, and so are full width, traditional forms and digits; unknown words and characters have a row each.
- The marks before and after a word have each other's names.
- A line of a lexicon is stripped before it is split, so that every space in it means U+3000, the last such line
  counts, and an ordinary space within a word is unknown.
- Its Embedder carries the state of its LSTMs from batch to batch. Here, each sentence starts from zeros.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor

from ..configuration_elmo import ElmoConfig
from ..spelling_elmo import LexiconSpelling
from .bilm_options import MAX_OPTIONS_BYTES, MAX_VOCABULARY_BYTES, parse_options
from .bilm_reference import PlainBilm, plain_torch_cell, plain_torch_highway
from .bilm_tensors import Progress
from .checkpoint import Checkpoint, Plain
from .errors import one_line, shown
from .sources import Source
from .torch_tensors import Taken, cell, count, highway, load_state, with_row_above

_EMBEDDER, _ENCODER = "token_embedder.pkl", "encoder.pkl"
_BOUNDARIES = ("<bos>", "<eos>")
_WHITE_SPACE = "\u3000"
# What all 45 released models have, in the file that they name and do not bring along.
_RELEASED = {"activation": "relu", "max_characters_per_token": 50, "cell_clip": 3, "proj_clip": 3}
_NOTES = (
    "Words are cut at {cut} characters before they are looked up, case and width are kept, and a space within a word "
    "is unknown, all as in ELMoForManyLangs. Unlike there, no state is carried from one sentence to the next."
)

_ASSUMED = (
    "The file of its structure was not beside it. What tensors do not tell is that of all released models: relu, "
    "clips at 3 and 50 characters per word."
)


class ManyLangs(Checkpoint):
    """A model of ELMoForManyLangs."""

    title = "ELMoForManyLangs"

    @classmethod
    def names(cls, source: Source) -> list[str]:
        folders = [name.removesuffix(_ENCODER) for name in source.names if name.rpartition("/")[2] == _ENCODER]
        return [folder or "." for folder in folders if folder + _EMBEDDER in source.names]

    @classmethod
    def open(cls, source: Source, name: str) -> "ManyLangs":
        return cls(source, "" if name == "." else name)

    def __init__(self, source: Source, folder: str):
        self.source, self.notes = source, []
        self.files = [folder + name for name in (_EMBEDDER, _ENCODER)]
        self._load()
        self._structure = self._read_structure(folder)
        self._has_words = "word_emb_layer.embedding.weight" in self._embedder
        if "char_emb_layer.embedding.weight" not in self._embedder:
            raise ValueError(
                f"{self._embedder.location}: must have a table of characters, had none, as no released model."
            )
        self._characters = self._lexicon(folder + "char.dic")
        self._words = self._lexicon(folder + "word.dic") if self._has_words else None
        self.config = self._config()
        self.notes.append(_NOTES.format(cut=self.config.max_characters_per_token - 2))

    def _load(self):
        names = self.files[:2]
        self._states = [load_state(self.source, name) for name in names]
        self._embedder, self._encoder = (
            Taken(self.source.location(name), state) for name, state in zip(names, self._states, strict=True)
        )

    def _let_go(self):
        # As large as the model, which is loaded next.
        del self._states, self._embedder, self._encoder

    def _read_structure(self, folder: str) -> dict[str, Any]:
        """What the shapes do not tell: of the file that config.json names, or else as released."""
        named = ""
        if folder + "config.json" in self.source.names:
            self.files.append(folder + "config.json")
            # A path of the machine of training, often.
            path = str(self._json(folder + "config.json").get("config_path", ""))
            named = path.replace("\\", "/").rpartition("/")[2]
        if not named or folder + named not in self.source.names:
            self.notes.append(_ASSUMED)
            return dict(_RELEASED)
        self.files.append(folder + named)
        values = self._json(folder + named)
        location = self.source.location(folder + named)
        embedder, encoder = values.get("token_embedder"), values.get("encoder")
        if not isinstance(embedder, dict) or not isinstance(encoder, dict):
            raise ValueError(f"{location}: must have `token_embedder` and `encoder`, had not.")
        names = embedder.get("name"), encoder.get("name")
        if tuple(map(str.lower, map(str, names))) != ("cnn", "elmo"):
            raise ValueError(f"{location}: must be a cnn and an elmo, as all released models, was: {shown(names)}.")
        return {key: {**encoder, **embedder}.get(key, value) for key, value in _RELEASED.items()}

    def _json(self, name: str) -> dict[str, Any]:
        return parse_options(self.source.location(name), self.source.read(name, MAX_OPTIONS_BYTES))

    def _lexicon(self, name: str) -> dict[str, int]:
        """Token to number, read as the original reads it."""
        if name not in self.source.names:
            raise ValueError(f"{self.source.path}: must have {name}, had not.")
        self.files.append(name)
        location = self.source.location(name)
        try:
            lines = self.source.read(name, MAX_VOCABULARY_BYTES).decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{location}: must be text in UTF-8, was not: {one_line(error)}.") from None
        lexicon: dict[str, int] = {}
        for number, line in enumerate(lines, start=1):
            fields = line.strip().split("\t")
            if fields == [""]:
                continue
            if len(fields) == 1:
                fields.insert(0, _WHITE_SPACE)
            try:
                token, index = fields
                lexicon[token] = int(index)
            except ValueError:
                raise ValueError(
                    f"{location}: line {number} must be a token, a tab and a number, was: {shown(line)}."
                ) from None
            if not 0 <= lexicon[token] < 1 << 31:
                raise ValueError(f"{location}: line {number} must have a number from 0, was: {shown(line)}.")
        return lexicon

    def _config(self) -> ElmoConfig:
        rows, dim = self._embedder.shape("char_emb_layer.embedding.weight", 2)
        filters = []
        for i in range(count(self._embedder, "convolutions.{}.weight")):
            number, _, width = self._embedder.shape(f"convolutions.{i}.weight", 3)
            filters.append([width, number])
        gates, width = self._encoder.shape("forward_layer_0.input_linearity.weight", 2)
        words: dict[str, Any] = {}
        if self._has_words:
            number, size = self._embedder.shape("word_emb_layer.embedding.weight", 2)
            words = {"word_embedding_dim": size, "word_lexicon_size": number + 1}
        for lexicon, size, name in (
            (self._characters, rows, "char.dic"),
            (self._words, words.get("word_lexicon_size", 1) - 1, "word.dic"),
        ):
            if lexicon and max(lexicon.values()) >= size:
                raise ValueError(
                    f"{self.source.path}: {name} must have numbers below the {size} rows of its table, has "
                    f"{max(lexicon.values())}."
                )
        maximum = self._structure["max_characters_per_token"]
        if not isinstance(maximum, int) or not 3 <= maximum <= 1000:
            raise ValueError(
                f"{self.source.path}: `max_characters_per_token` must be from 3 to 1000, was: {shown(maximum)}."
            )
        self._width = maximum
        try:
            spelling = self.spelling()
            return ElmoConfig(
                vocab_size=rows + 1,
                char_embedding_dim=dim,
                char_cnn_filters=filters,
                char_cnn_activation=self._structure["activation"],
                num_highway_layers=count(self._embedder, "highways._layers.{}.weight"),
                max_characters_per_token=maximum,
                projection_dim=width,
                cell_size=gates // 4,
                num_hidden_layers=count(self._encoder, "forward_layer_{}.input_linearity.weight"),
                cell_clip=self._structure["cell_clip"] or None,
                proj_clip=self._structure["proj_clip"] or None,
                boundary_ids=spelling.boundary_ids,
                fill_character=spelling.fill_character,
                **words,
            )
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.source.path}: {one_line(error)}") from None

    def spelling(self) -> LexiconSpelling:
        # The original swaps the marks.
        return LexiconSpelling(
            self._width,
            self._words,
            self._characters,
            _BOUNDARIES,
            unknown_word="<oov>" if self._has_words else None,
            unknown_character="<oov>",
            begin_word="<eow>",
            end_word="<bow>",
            fill="<pad>",
        )

    def read(self, progress: Progress | None = None) -> dict[str, Tensor]:
        config, embedder, ours = self.config, self._embedder, "character_encoder."
        filters, width = config.num_filters, config.projection_dim
        table = embedder.take("char_emb_layer.embedding.weight", (config.vocab_size - 1, config.char_embedding_dim))
        state = {f"{ours}embeddings.weight": with_row_above(table)}
        if self._has_words:
            shape = (config.word_lexicon_size - 1, config.word_embedding_dim)
            words = embedder.take("word_emb_layer.embedding.weight", shape)
            state[f"{ours}word_embeddings.weight"] = with_row_above(words)
        for i, (size, number) in enumerate(config.char_cnn_filters):
            shape = (number, config.char_embedding_dim, size)  # type: ignore[assignment]
            state[f"{ours}convolutions.{i}.weight"] = embedder.take(f"convolutions.{i}.weight", shape)
            state[f"{ours}convolutions.{i}.bias"] = embedder.take(f"convolutions.{i}.bias", (number,))
        for k in range(config.num_highway_layers):
            state |= highway(embedder, f"highways._layers.{k}.", f"{ours}highways.{k}.", filters)
        features = config.word_embedding_dim + filters
        state[f"{ours}projection.weight"] = embedder.take("projection.weight", (width, features))
        state[f"{ours}projection.bias"] = embedder.take("projection.bias", (width,))
        for side in ("forward", "backward"):
            for index in range(config.num_hidden_layers):
                name = f"encoder.{side}_layers.{index}."
                state |= cell(self._encoder, f"{side}_layer_{index}.", name, width, config.cell_size)
        for tensors, given in zip((embedder, self._encoder), self._states, strict=True):
            if unknown := [name for name in given if name not in tensors.used]:
                raise ValueError(f"{tensors.location}: `{unknown[0]}` must be a tensor of the biLM, was unknown.")
        self._let_go()
        if progress is not None:
            progress("Reading", 1, 1)
        return state

    @contextmanager
    def plain(self) -> Iterator[Plain]:
        self._load()
        embedder, encoder = self._states

        def double(name: str) -> np.ndarray:
            return embedder[name].double().numpy()

        def spell(word: str) -> list[int]:
            inside = [word] if word in _BOUNDARIES else list(word[: self._width - 2])
            marked = ["<eow>", *inside, "<bow>"]
            unknown = self._characters["<oov>"]
            ids = [self._characters.get(letter, unknown) for letter in marked]
            return ids + [self._characters["<pad>"]] * (self._width - len(ids))

        def row(word: str) -> np.ndarray:
            assert self._words is not None
            cut = word if word in _BOUNDARIES else word[: self._width - 2]
            return (
                embedder["word_emb_layer.embedding.weight"][self._words.get(cut, self._words["<oov>"])]
                .double()
                .numpy()
            )

        config, sides = self.config, ("forward", "backward")
        bilm = PlainBilm(
            config.num_hidden_layers,
            lambda side, layer: plain_torch_cell(_arrays(encoder), f"{sides[side]}_layer_{layer}."),
            spell,
            row if self._has_words else None,
            _BOUNDARIES,
            double("char_emb_layer.embedding.weight"),
            [
                (double(f"convolutions.{i}.weight").transpose(2, 1, 0), double(f"convolutions.{i}.bias"))
                for i in range(len(config.char_cnn_filters))
            ],
            lambda: (
                plain_torch_highway(double(f"highways._layers.{k}.weight"), double(f"highways._layers.{k}.bias"))
                for k in range(config.num_highway_layers)
            ),
            (double("projection.weight").T, double("projection.bias")),
            self._structure["activation"],
            self._structure["cell_clip"] or np.inf,
            self._structure["proj_clip"] or np.inf,
        )
        yield Plain(bilm)
        self._let_go()


def _arrays(state: Mapping[str, Tensor]) -> Any:
    return lambda name: state[name].numpy()
