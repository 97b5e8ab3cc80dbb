"""
`Elmo` and `batch_to_ids` with the signatures of `allennlp.modules.elmo`, on top of [`ElmoModel`].

Existing code changes one import. Unlike AllenNLP's, this `Elmo` keeps no state between calls unless `stateful=True`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import logging

from .checkpoints.allennlp_archive import read_state
from .checkpoints.bilm_hdf5 import read_model
from .configuration_elmo import ElmoConfig
from .downloads import local_file
from .files import PathLike
from .modeling_elmo import ElmoModel, ElmoScalarMix
from .tokenization_elmo import batch_to_ids

logger = logging.get_logger(__name__)


class ElmoFromModule(nn.Module):
    """
    Scalar mixes over a biLM of one's own, which stands in the place of [`ElmoModel`]'s.

    Args:
        module: has `num_layers`; called with `inputs` (batch, words, characters) and `word_inputs` (batch, words) or
            `None`, it returns a dict with `activations`, one (batch, words + 2, features) tensor per layer, and `mask`
            (batch, words + 2), sentence boundaries included.
        config: the behaviours of the mixes. Its sizes are not read.
        scalar_mix_parameters: fixed mixing weights before the softmax, one per layer.
    """

    module: Any

    def __init__(self, module: nn.Module, config: ElmoConfig, scalar_mix_parameters: Sequence[float] | None):
        super().__init__()
        self.module = module
        num_layers = self.module.num_layers
        if scalar_mix_parameters is not None and len(scalar_mix_parameters) != num_layers:
            raise ValueError(
                f"`scalar_mix_parameters` must be a list of {num_layers} numbers, one per layer of `module`, was: "
                f"{scalar_mix_parameters!r}."
            )
        # Set here and not in the constructor: a foreign biLM may have a single layer.
        config.num_hidden_layers = num_layers - 1
        config.scalar_mix_parameters = None if scalar_mix_parameters is None else list(scalar_mix_parameters)
        self.keep_sentence_boundaries = config.keep_sentence_boundaries
        self.scalar_mixes = nn.ModuleList(ElmoScalarMix(config) for _ in range(config.num_output_representations))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, inputs: Tensor, word_inputs: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """Returns one (batch, words, features) tensor per mix and the (batch, words) mask; see [`Elmo.forward`]."""
        leading_shape = inputs.shape[:-2] if inputs.dim() > 3 else None
        if leading_shape is not None:
            inputs = inputs.flatten(0, -3)
        if word_inputs is not None and word_inputs.dim() > 2:
            leading_shape = word_inputs.shape[:-1]
            word_inputs = word_inputs.flatten(0, -2)
        outputs = self.module(inputs, word_inputs)
        mask = outputs["mask"].bool()
        representations = [mix(outputs["activations"], mask) for mix in self.scalar_mixes]
        if not self.keep_sentence_boundaries:
            # The boundaries are the first and the last position that is not masked.
            count = mask.cumsum(1)
            mask = (mask & (count > 1) & (count < count[:, -1:]))[:, 1:-1]
            representations = [representation[:, 1:-1] for representation in representations]
        representations = [self.dropout(torch.where(mask.unsqueeze(-1), mixed, 0.0)) for mixed in representations]
        if leading_shape is not None:
            mask = mask.unflatten(0, leading_shape)
            representations = [representation.unflatten(0, leading_shape) for representation in representations]
        return representations, mask


class Elmo(nn.Module):
    """
    ELMo with the interface of AllenNLP: mixes of the layers of a pretrained biLM ("Deep contextualized word
    representations", Peters et al., 2018; `allennlp.modules.elmo.Elmo`).

    New code rather takes [`ElmoModel`], which is the attribute `model` here. As any new module, it starts in training
    mode, where dropout is on.

    Args:
        options_file (`str` or `os.PathLike`, *optional*): the options.json, a file or an address, which is downloaded
            once; `None` with `module`.
        weight_file (`str` or `os.PathLike`, *optional*): the hdf5 file of weights, or its address; `None` with
            `module`.
        num_output_representations (`int`): how many mixes to return. The biLM runs once for all of them.
        requires_grad (`bool`): whether the biLM is trained. The mixes are, unless their weights are given. Not read
            with `module`.
        do_layer_norm (`bool`): whether each layer is normalised before it is mixed, over all words, boundaries and
            features **of the batch**: with it, a sentence's vectors depend on its neighbours.
        dropout (`float`): dropout on each mix, in training mode.
        vocab_to_cache (sequence of `str`, *optional*): words that `forward` takes as `word_inputs` too, and for which
            there is room in the model's cache of word vectors: their character convolutions are computed at their
            first use, and again only when a weight has changed. While gradients flow into the biLM, and on other
            devices than a CPU, they are computed in every call. The result, gradients included, is the one without a
            cache. With `module`, `word_inputs` are passed on and the words are not read.
        keep_sentence_boundaries (`bool`): whether the outputs keep the positions of `<S>` and `</S>`.
        scalar_mix_parameters (sequence of `float`, *optional*): fixed mixing weights before the softmax, per layer.
            With them neither the weights nor gamma, which is 1, is trained. `[-9e10, 1, -9e10]` selects the middle one
            of three layers.
        module (`torch.nn.Module`, *optional*): a biLM of one's own instead of the files, see [`ElmoFromModule`].
        stateful (`bool`, defaults to `False`): whether row k of a batch starts where row k of the batch before it
            ended, in both directions, as AllenNLP's always does. Rows that a smaller batch does not have wait; new
            rows start from zeros. The same sentence then gets another vector in each call.

    Raises:
        ValueError: both files and a module, or neither, are given; the files are wrong; a value is out of range.
        FileNotFoundError: one of the files is missing.
        TypeError: a value has the wrong type.
    """

    vocabulary_ids: Any

    def __init__(
        self,
        options_file: PathLike | None,
        weight_file: PathLike | None,
        num_output_representations: int,
        requires_grad: bool = False,
        do_layer_norm: bool = False,
        dropout: float = 0.5,
        vocab_to_cache: Sequence[str] | None = None,
        keep_sentence_boundaries: bool = False,
        scalar_mix_parameters: Sequence[float] | None = None,
        module: nn.Module | None = None,
        *,
        stateful: bool = False,
    ):
        super().__init__()
        if isinstance(vocab_to_cache, str):
            raise TypeError(f"`vocab_to_cache` must be a list of words, was: {vocab_to_cache!r}.")
        words = None if vocab_to_cache is None else list(vocab_to_cache)
        behaviours: dict[str, Any] = {
            "num_output_representations": num_output_representations,
            "do_layer_norm": do_layer_norm,
            "dropout": dropout,
            "keep_sentence_boundaries": keep_sentence_boundaries,
        }
        self.model: ElmoModel | ElmoFromModule
        if module is not None:
            if options_file is not None or weight_file is not None:
                raise ValueError(
                    f"`options_file` and `weight_file` must be None with `module`, was: {options_file!r} and "
                    f"{weight_file!r}."
                )
            if stateful:
                raise ValueError("`stateful` must be False with `module`, which keeps its own state, was: True.")
            self.model = ElmoFromModule(module, ElmoConfig(**behaviours), scalar_mix_parameters)
        else:
            if options_file is None or weight_file is None:
                raise ValueError(
                    f"`options_file` and `weight_file` must be given without `module`, was: {options_file!r} and "
                    f"{weight_file!r}."
                )
            if words is not None:
                behaviours["word_cache_size"] = ElmoConfig().word_cache_size + len(words)
            options_file, weight_file = local_file(options_file), local_file(weight_file)
            self.model = read_model(
                options_file, weight_file, scalar_mix_parameters=scalar_mix_parameters, **behaviours
            )
            self.model.requires_grad_(requires_grad)
            self.model.scalar_mixes.requires_grad_(True)
            # It comes from its files in eval mode.
            self.model.train()
        # (vocabulary, characters), or `None` without a vocabulary.
        vocabulary_ids = None if words is None else _vocabulary_ids(words, self._max_characters)
        self.register_buffer("vocabulary_ids", vocabulary_ids, persistent=False)
        self.stateful = stateful
        # Hidden and cell state after the last call, see `lstm_states` of [`ElmoModel`].
        self._states: tuple[Tensor, Tensor] | None = None

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """As of any module; a state dict of AllenNLP's `Elmo` will do as well."""
        if isinstance(self.model, ElmoModel) and "_elmo_lstm._token_embedder._char_embedding_weights" in state_dict:
            location = "`state_dict`"
            config: Any = self.model.config
            given = read_state(location, state_dict, "_elmo_lstm.", config)
            # Fixed weights of the mixes are in AllenNLP's, but no parameters of ours.
            own = self.model.state_dict()
            state_dict = {f"model.{name}": value for name, value in given.items() if name in own}
        return super().load_state_dict(state_dict, *args, **kwargs)

    @property
    def _max_characters(self) -> int:
        config: Any = None if isinstance(self.model, ElmoFromModule) else self.model.config
        return 50 if config is None else config.max_characters_per_token

    def get_output_dim(self) -> int:
        """Width of the output, both directions."""
        if isinstance(self.model, ElmoFromModule):
            return self.model.module.get_output_dim()
        return self.model.config.hidden_size

    def reset_states(self):
        """Lets the next batch start from zeros, in a stateful module. The state of a foreign `module` is its own."""
        self._states = None

    def forward(self, inputs: Tensor, word_inputs: Tensor | None = None) -> dict[str, list[Tensor] | Tensor]:
        """
        Args:
            inputs: (batch, words, 50) character ids from [`batch_to_ids`], 0 at padding; more leading dimensions are
                treated as one batch. A biLM of another width says which one `batch_to_ids` is to be given.
            word_inputs: (batch, words) where each word stands in `vocab_to_cache`, 0 at padding; the words are then
                those of `vocab_to_cache`. Any other index (-1, say) leaves the word to its characters. Where one of
                both arguments has more leading dimensions, they are the output's. Without `vocab_to_cache`, it is
                ignored with one warning.

        Returns:
            `elmo_representations`, one (batch, words, features) tensor per mix, zeros at padding, and `mask`
            (batch, words), `True` at words; words + 2 with `keep_sentence_boundaries`.

        Raises:
            ValueError: the shapes do not fit, or a character id is out of range.
        """
        if word_inputs is not None and self.vocabulary_ids is None:
            logger.warning_once("`word_inputs` are ignored: this `Elmo` was made without `vocab_to_cache`.")
            word_inputs = None
        if isinstance(self.model, ElmoFromModule):
            representations, mask = self.model(inputs, word_inputs)
            return {"elmo_representations": representations, "mask": mask}

        if word_inputs is not None:
            inputs = _spell(self.vocabulary_ids, word_inputs, inputs)
        batch = inputs.shape[:-2].numel()
        outputs = self.model(inputs, lstm_states=self._initial_states(batch), return_dict=True)
        if self.stateful:
            self._keep_states(outputs.lstm_states, batch)
        return {"elmo_representations": list(outputs.elmo_representations), "mask": outputs.mask}

    def _initial_states(self, batch: int) -> tuple[Tensor, Tensor] | None:
        if self._states is None:
            return None
        hidden, cell = (
            torch.cat([state[:batch], state.new_zeros(max(batch - len(state), 0), *state.shape[1:])])
            for state in self._states
        )
        return hidden, cell

    def _keep_states(self, lstm_states: tuple[Tensor, Tensor], batch: int):
        hidden, cell = (state.detach() for state in lstm_states)
        if self._states is not None:
            hidden = torch.cat([hidden, self._states[0][batch:].to(hidden)])
            cell = torch.cat([cell, self._states[1][batch:].to(cell)])
        self._states = hidden, cell


def _vocabulary_ids(words: list[str], width: int) -> Tensor:
    """(words, characters) ids in the smallest type that holds them: a vocabulary may be large."""
    # The first index is padding, whichever word stands there, and even if none does.
    return batch_to_ids([["", *words[1:]]], width)[0].to(torch.int16).index_fill(0, torch.tensor([0]), 0)


def _spell(vocabulary_ids: Tensor, word_inputs: Tensor, inputs: Tensor) -> Tensor:
    """Returns `inputs` with the character ids of the words that `word_inputs` names."""
    shape, characters = inputs.shape[:-1], vocabulary_ids.shape[1]
    if inputs.shape[-1] != characters or word_inputs.shape[-1:] != shape[-1:] or word_inputs.numel() != shape.numel():
        raise ValueError(
            f"`inputs` must have shape (batch, words, {characters}) and `word_inputs` one index a word, were: "
            f"{tuple(inputs.shape)} and {tuple(word_inputs.shape)}."
        )
    shape = max(shape, word_inputs.shape, key=len)
    word_inputs = word_inputs.reshape(shape)
    size = len(vocabulary_ids)
    spelled = vocabulary_ids[word_inputs.long().clamp(0, size - 1)].to(inputs)
    is_named = (word_inputs >= 0) & (word_inputs < size)
    return torch.where(is_named.unsqueeze(-1), spelled, inputs.reshape(*shape, characters))


__all__ = ["Elmo", "batch_to_ids"]
