"""
What AllenNLP leaves of a model with ELMo in it: an archive, `model.tar.gz`, its folder, or the weights alone
(`weights.th`, `best.th`). The biLM, which may be fine-tuned, and its trained scalar mixes are taken, the rest is not.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..configuration_elmo import ElmoConfig
from .bilm_options import ASSUMED, MAX_OPTIONS_BYTES, config_of_options, options_as_of_ai2, parse_options
from .bilm_reference import PlainBilm, plain_torch_cell, plain_torch_highway, spell_bytes
from .bilm_tensors import Progress
from .checkpoint import Checkpoint, Plain, options_of
from .errors import shown
from .sources import Source
from .torch_tensors import Taken, cell, count, highway, load_state

_TABLE = "_token_embedder._char_embedding_weights"
_FILES = ("weights.th", "best.th", "model.th")


def bilm_prefixes(names: Mapping[str, Any]) -> list[str]:
    """What stands before the names of each biLM in a state dict of AllenNLP, `_elmo_lstm.` included where it is."""
    return sorted(name.removesuffix(_TABLE) for name in names if name.endswith(_TABLE))


def read_state(location: str, state: Mapping[str, Tensor], prefix: str, config: ElmoConfig) -> dict[str, Tensor]:
    """
    The biLM and the scalar mixes of a state dict of AllenNLP with the names of [`ElmoModel`].

    Args:
        location: how messages call the state dict.
        state: its tensors.
        prefix: one of [`bilm_prefixes`].
        config: the sizes; `num_output_representations` mixes are read, none if the state has none.

    Raises:
        ValueError: a tensor is missing, has another shape, or is not finite; or one of the biLM is unknown.
    """
    bilm = Taken(location, state, prefix)
    theirs, ours = "_token_embedder.", "character_encoder."
    table = bilm.take(_TABLE, (config.vocab_size, config.char_embedding_dim)).clone()
    # Fine-tuning moves the row of what is no word, and no word reads it.
    table[0] = 0.0
    result = {f"{ours}embeddings.weight": table}
    for i, (width, number) in enumerate(config.char_cnn_filters):
        name = f"{theirs}char_conv_{i}."
        result[f"{ours}convolutions.{i}.weight"] = bilm.take(
            f"{name}weight", (number, config.char_embedding_dim, width)
        )
        result[f"{ours}convolutions.{i}.bias"] = bilm.take(f"{name}bias", (number,))
    filters, width, size = config.num_filters, config.projection_dim, config.cell_size
    for k in range(config.num_highway_layers):
        result |= highway(bilm, f"{theirs}_highways._layers.{k}.", f"{ours}highways.{k}.", filters)
    result[f"{ours}projection.weight"] = bilm.take(f"{theirs}_projection.weight", (width, filters))
    result[f"{ours}projection.bias"] = bilm.take(f"{theirs}_projection.bias", (width,))
    for direction in ("forward", "backward"):
        for index in range(config.num_hidden_layers):
            name = f"_elmo_lstm.{direction}_layer_{index}."
            result |= cell(bilm, name, f"encoder.{direction}_layers.{index}.", width, size)
    # A cached vocabulary is made of the others.
    bilm.used |= {prefix + name for name in ("_word_embedding.weight", "_elmo_lstm._word_embedding.weight")}
    if unknown := [name for name in state if name.startswith(prefix) and name not in bilm.used and prefix]:
        raise ValueError(f"{location}: `{unknown[0]}` must be a tensor of the biLM, was unknown.")
    mixes = Taken(location, state, prefix.removesuffix("_elmo_lstm."))
    if count(mixes, "scalar_mix_{}.gamma"):
        for index in range(config.num_output_representations):
            parts = [
                mixes.take(f"scalar_mix_{index}.scalar_parameters.{layer}", (1,))
                for layer in range(config.num_hidden_layers + 1)
            ]
            result[f"scalar_mixes.{index}.scalar_parameters"] = torch.cat(parts)
            result[f"scalar_mixes.{index}.gamma"] = mixes.take(f"scalar_mix_{index}.gamma", (1,)).clone()
    return result


class AllenNlpArchive(Checkpoint):
    """A biLM with its mixes out of a model of AllenNLP."""

    title = "archive of AllenNLP"

    @classmethod
    def _file(cls, source: Source) -> str | None:
        found = source.ending(".th")
        known = [name for last in _FILES for name in found if name.rpartition("/")[2] == last]
        return known[0] if known else found[0] if len(found) == 1 else None

    @classmethod
    def names(cls, source: Source) -> list[str]:
        file = cls._file(source)
        if file is None:
            return []
        prefixes = bilm_prefixes(cls._loaded(source, file))
        if not prefixes:
            raise ValueError(f"{source.location(file)}: must have the tensors of an ELMo, ...{_TABLE}, had none.")
        return [_module(prefix) for prefix in prefixes]

    @classmethod
    def _loaded(cls, source: Source, file: str) -> dict[str, Tensor]:
        """The tensors, which the source keeps until they are taken."""
        if file not in source.kept:
            source.kept[file] = load_state(source, file)
        return source.kept[file]

    @classmethod
    def open(cls, source: Source, name: str) -> "AllenNlpArchive":
        return cls(source, name)

    def __init__(self, source: Source, name: str):
        self.source, self.notes = source, []
        file = self._file(source)
        assert file is not None
        self.files = [file]
        self._location = source.location(file)
        state = self._loaded(source, file)
        (self._prefix,) = [prefix for prefix in bilm_prefixes(state) if _module(prefix) == name]
        around = self._prefix.removesuffix("_elmo_lstm.")
        self._state = state
        path, settings = self._settings()
        self.options = self._options(path)
        behaviours: dict[str, Any] = {
            key: settings[key] for key in ("do_layer_norm", "keep_sentence_boundaries", "dropout") if key in settings
        }
        mixes = count(Taken(self._location, self._state, around), "scalar_mix_{}.gamma")
        behaviours["num_output_representations"] = max(mixes, 1)
        self.config = config_of_options(self._location, self.options, **behaviours)
        if around.endswith("_elmo.") and around.removesuffix("_elmo.") + "_projection.weight" in state:
            self.notes.append("A projection of the mix, which AllenNLP's token embedder may have, was left out.")
        self._state = {}

    def _settings(self) -> tuple[list[str], dict[str, Any]]:
        """Where in config.json the module is described, and how."""
        name = next((name for name in self.source.ending("config.json") if name.count("/") < 2), None)
        if name is None:
            return [], {}
        self.files.append(name)
        config = parse_options(self.source.location(name), self.source.read(name, 1 << 24))
        found = list(_described(config, []))
        if len(found) > 1:
            # The key of the embedder, or the module itself.
            key = _module(self._prefix).removesuffix("._elmo").rpartition(".")[2].removeprefix("token_embedder_")
            found = [one for one in found if one[0][-1] in (key, key.removeprefix("_"))]
        return found[0] if len(found) == 1 else ([], {})

    def _options(self, path: list[str]) -> dict[str, Any]:
        inside = ".".join([*path, "options_file"])
        packed = [name for name in self.source.names if name.rpartition("fta/")[2] == inside and "fta/" in name]
        name = packed[0] if packed else options_of(self.source, self.files[0])
        if name is not None and name not in self.files:
            self.files.append(name)
            return parse_options(self.source.location(name), self.source.read(name, MAX_OPTIONS_BYTES))
        self.notes.append(ASSUMED)
        return self._options_of_shapes()

    def _options_of_shapes(self) -> dict[str, Any]:
        tensors = Taken(self._location, self._state, self._prefix)
        _, dim = tensors.shape(_TABLE, 2)
        filters = []
        for i in range(count(tensors, "_token_embedder.char_conv_{}.weight")):
            number, _, width = tensors.shape(f"_token_embedder.char_conv_{i}.weight", 3)
            filters.append([width, number])
        gates, width = tensors.shape("_elmo_lstm.forward_layer_0.input_linearity.weight", 2)
        return options_as_of_ai2(
            cell_size=gates // 4,
            projection_dim=width,
            num_layers=count(tensors, "_elmo_lstm.forward_layer_{}.input_linearity.weight"),
            char_embedding_dim=dim,
            filters=filters,
            num_highways=count(tensors, "_token_embedder._highways._layers.{}.weight"),
        )

    def read(self, progress: Progress | None = None) -> dict[str, torch.Tensor]:
        state = read_state(self._location, self._loaded(self.source, self.files[0]), self._prefix, self.config)
        self.source.kept.clear()
        if progress is not None:
            progress("Reading", 1, 1)
        return state

    @contextmanager
    def plain(self) -> Iterator[Plain]:
        state = self._loaded(self.source, self.files[0])

        def array(name: str) -> np.ndarray:
            return state[self._prefix + name].float().numpy()

        def double(name: str) -> np.ndarray:
            return array(name).astype(np.float64)

        sizes, lstm, embedder = self.options["char_cnn"], self.options["lstm"], "_token_embedder."
        sides = ("forward", "backward")
        bilm = PlainBilm(
            lstm["n_layers"],
            lambda side, layer: plain_torch_cell(array, f"_elmo_lstm.{sides[side]}_layer_{layer}."),
            spell_bytes(sizes["max_characters_per_token"]),
            characters=double(_TABLE)[1:],
            filters=[
                (
                    double(f"{embedder}char_conv_{i}.weight").transpose(2, 1, 0),
                    double(f"{embedder}char_conv_{i}.bias"),
                )
                for i in range(len(sizes["filters"]))
            ],
            highways=lambda: (
                plain_torch_highway(
                    array(f"{embedder}_highways._layers.{k}.weight"), array(f"{embedder}_highways._layers.{k}.bias")
                )
                for k in range(sizes.get("n_highway") or 0)
            ),
            projection=(double(f"{embedder}_projection.weight").T, double(f"{embedder}_projection.bias")),
            activation=sizes["activation"],
            cell_clip=lstm.get("cell_clip") or np.inf,
            projection_clip=lstm.get("proj_clip") or np.inf,
            use_skip_connections=lstm.get("use_skip_connections", False),
        )
        around = self._prefix.removesuffix("_elmo_lstm.")
        mixes = []
        for index in range(self.config.num_output_representations):
            prefix = f"{around}scalar_mix_{index}."
            if prefix + "gamma" in state:
                weights = [float(state[f"{prefix}scalar_parameters.{layer}"]) for layer in range(lstm["n_layers"] + 1)]
                mixes.append((weights, float(state[prefix + "gamma"])))
        yield Plain(bilm, mixes=mixes)
        self.source.kept.clear()


def _module(prefix: str) -> str:
    """The name of a module by which a user chooses it."""
    return prefix.removesuffix("_elmo_lstm.").removesuffix(".") or "elmo"


def _described(value: Any, path: list[str]) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Every object of a config.json that has an `options_file`, with the keys that lead to it."""
    if len(path) > 20:
        raise ValueError(f"config.json: must be nested less than {shown(path[:3])}, ... is.")
    if isinstance(value, dict):
        if "options_file" in value and path:
            yield path, value
        for key, below in value.items():
            yield from _described(below, [*path, str(key)])
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _described(below, [*path, str(index)])
