# SPDX-License-Identifier: Apache-2.0
"""
PyTorch ELMo: the bidirectional language model of "Deep contextualized word representations" (Peters et al., 2018), its
scalar mix and heads for the usual tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, TypeVar, Unpack, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput, TransformersKwargs, logging

from .character_encoder_elmo import ElmoCharacterEncoder
from .configuration_elmo import BEGIN_SENTENCE, END_SENTENCE, WORD_VOCABULARY_START, ElmoConfig
from .engine_elmo import (
    Float32Bilm,
    PreparedProducts,
    RecurrentWeights,
    StackedWeights,
    check_may_vary,
    check_range,
    encode_words,
    keeps_shapes,
    known,
    multiplies_directions_together,
    run_directions,
)
from .head_parts_elmo import ElmoHeadLstm, cross_entropy, divided, pool, positions_of_words

# transformers 4.57 copies what the file of a class imports itself, and not what that imports in turn.
from .lstm_compiled_elmo import lstm_by_operator as lstm_by_operator
from .lstm_elmo import lstm
from .lstm_fused_elmo import has_fused_steps as has_fused_steps
from .lstm_kernels_elmo import Clips, LstmWeights
from .packing_elmo import PackedWords, pack_streams, pack_words
from .pipelines_elmo import patch_token_classification_pipeline
from .products_elmo import PackedProduct as PackedProduct
from .softmax_elmo import ElmoSoftmax, at_least_float32

logger = logging.get_logger(__name__)

# TensorFlow's LSTM cell adds it to the forget gate at run time; it is not in the checkpoint's bias.
FORGET_BIAS = 1.0

_Value = TypeVar("_Value")
_Output = TypeVar("_Output", bound=ModelOutput)

# Score of an answer that begins or ends at padding: a probability of exactly 0, and finite in every precision.
NO_WORD_SCORE = -1e4


def given(value: _Value | None) -> _Value:
    """What is known to be there, to type checkers as well."""
    return cast(_Value, value)


@known
class ElmoLstmLayer(GradientCheckpointingLayer):
    """
    One LSTM layer in one direction, with a projected output and two clips (called `LSTMCell` with `num_proj` in
    TensorFlow, `LstmCellWithProjection` in AllenNLP). Without the clips it is `torch.nn.LSTM(proj_size=...)`, gates in
    the order i, f, g, o, but for the constant that is added to the forget gate.
    """

    def __init__(self, config: ElmoConfig, layer_idx: int):
        super().__init__()
        self.cell_size = config.cell_size
        self.clips = Clips(config.cell_clip, config.proj_clip)
        # All published checkpoints add the skip from the second layer on; bilm-tf can train without.
        self.add_skip = config.use_skip_connections and layer_idx > 0
        self.weight_ih = nn.Parameter(torch.empty(4 * config.cell_size, config.projection_dim))
        self.weight_hh = nn.Parameter(torch.empty(4 * config.cell_size, config.projection_dim))
        self.bias = nn.Parameter(torch.empty(4 * config.cell_size))
        self.weight_hr = nn.Parameter(torch.empty(config.projection_dim, config.cell_size))

    def _is_adapted(self) -> bool:
        """Whether an adapter of PEFT stands on a weight, which it does for the time of a call."""
        if not is_parametrized(self):
            return False
        parametrizations: Any = self.parametrizations
        return any(type(step).__module__.startswith("peft.") for steps in parametrizations.values() for step in steps)

    def weights(self) -> LstmWeights:
        """The weights as the layer multiplies with them, the bias not rounded to 16 bits."""
        bias = at_least_float32(self.bias)
        input_gate, forget_gate, others = bias.tensor_split((self.cell_size, 2 * self.cell_size))
        bias = torch.cat([input_gate, forget_gate + FORGET_BIAS, others])
        return LstmWeights(self.weight_ih, self.weight_hh, bias, self.weight_hr)

    def forward(
        self,
        inputs: Tensor,
        hidden: Tensor,
        cell: Tensor,
        batch_sizes: list[int],
        lengths: Tensor | None = None,
        prepared: PreparedProducts | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            inputs: (N, projection_dim) time-major, longest sentence first, see [`PackedWords`].
            hidden: (batch, projection_dim) initial state.
            cell: (batch, cell_size) initial state.
            batch_sizes: running sentences at each step.
            lengths: (batch,) when sentences end before their steps do.
            prepared: products with the weights of the steps, where they were prepared.

        Returns:
            (N, projection_dim) outputs and the state of each sentence after its last word, as it came in.
        """
        if self.gradient_checkpointing and self.training and self._is_adapted():
            raise ValueError(
                "LSTM weights with an adapter cannot be trained with gradient checkpointing, which would compute the "
                "layer again without it. Train without `gradient_checkpointing`."
            )
        of_layer = None if prepared is None else [prepared]
        outputs, last_hidden, last_cell = lstm(
            inputs, hidden, cell, batch_sizes, self.weights(), self.clips, lengths, of_layer
        )
        # The state that recurs is the one before the skip connection.
        return (outputs + inputs if self.add_skip else outputs), last_hidden, last_cell


class ElmoEncoder(nn.Module):
    """Two stacks of LSTM layers that never meet: layer 2 forward reads layer 1 forward (section 3.1)."""

    def __init__(self, config: ElmoConfig):
        super().__init__()
        self.dropout = nn.Dropout(config.bilm_dropout)
        self.batch_invariant = config.batch_invariant
        self.forward_layers = nn.ModuleList(ElmoLstmLayer(config, index) for index in range(config.num_hidden_layers))
        self.backward_layers = nn.ModuleList(ElmoLstmLayer(config, index) for index in range(config.num_hidden_layers))
        self.recurrent_weights = RecurrentWeights()

    def forward(
        self, word_vectors: Tensor, packed_words: PackedWords, lstm_states: tuple[Tensor, Tensor]
    ) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
        """
        Args:
            word_vectors: (rows, projection_dim) the two boundaries and the words.
            packed_words: the order in which to read them.
            lstm_states: hidden (batch, layers, 2, projection_dim) and cell (batch, layers, 2, cell_size).

        Returns:
            One (N, 2 * projection_dim) tensor per layer, word vectors first, in forward order, and the final states.
        """
        # (layers, 2, batch, size), longest sentence first
        hidden, cell = (state[packed_words.sorted_rows].movedim(0, 2) for state in lstm_states)
        forward_inputs = word_vectors[packed_words.forward_words]
        backward_inputs = word_vectors[packed_words.backward_words]
        if packed_words.lengths is None and multiplies_directions_together(self, len(packed_words.sorted_rows)):
            inputs = torch.stack([forward_inputs, backward_inputs])
            together: Sequence[Sequence[PreparedProducts] | StackedWeights] | None
            if self.batch_invariant:
                products = self.recurrent_weights.products(self, word_vectors, packed_words)
                together = None if products is None else list(zip(*products, strict=True))
            else:
                together = self.recurrent_weights.stacked(self, word_vectors, len(packed_words.sorted_rows))
            results = self._run_together(inputs, hidden, cell, packed_words, together)
        else:
            products = self.recurrent_weights.products(self, word_vectors, packed_words)
            ahead, behind = products or (None, None)
            tasks = [
                partial(self._run_direction, self.forward_layers, forward_inputs, hidden[:, 0], cell[:, 0]),
                partial(self._run_direction, self.backward_layers, backward_inputs, hidden[:, 1], cell[:, 1]),
            ]
            tasks = [
                partial(task, packed_words, prepared) for task, prepared in zip(tasks, (ahead, behind), strict=True)
            ]
            results = run_directions(self, (word_vectors, *lstm_states), tasks)
        (forward_outputs, *forward_states), (backward_outputs, *backward_states) = results

        layers = [
            torch.cat([ahead, behind[packed_words.forward_to_backward].to(ahead.device)], dim=-1)
            for ahead, behind in zip(forward_outputs, backward_outputs, strict=True)
        ]
        rows = torch.argsort(packed_words.sorted_rows)
        # (layers, 2, batch, size) -> (batch, layers, 2, size)
        hidden, cell = (
            torch.stack(pair, dim=1).movedim(2, 0)[rows] for pair in zip(forward_states, backward_states, strict=True)
        )
        return layers, (hidden, cell)

    def _run_direction(
        self,
        layers: nn.ModuleList,
        inputs: Tensor,
        hidden: Tensor,
        cell: Tensor,
        packed_words: PackedWords,
        products: list[PreparedProducts] | None,
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """
        Runs one stack of layers, with prepared `products` if there are any.

        Returns:
            `inputs` and each layer's (N, projection_dim) output, the final (layers, batch, projection_dim) hidden
            states and (layers, batch, cell_size) cells.
        """
        outputs, final_hidden, final_cell = [inputs], [], []
        for index, layer in enumerate(layers):
            # What is skipped past a layer is dropped as well, as in bilm-tf.
            read = self.dropout(outputs[-1])
            prepared = () if products is None else (products[index],)
            output, *state = layer(
                read, hidden[index], cell[index], packed_words.batch_sizes, packed_words.lengths, *prepared
            )
            outputs.append(output)
            final_hidden.append(state[0].to(inputs.device))
            final_cell.append(state[1].to(inputs.device))
        return outputs, torch.stack(final_hidden), torch.stack(final_cell)

    def _run_together(
        self,
        inputs: Tensor,
        hidden: Tensor,
        cell: Tensor,
        packed_words: PackedWords,
        products: Sequence[Sequence[PreparedProducts] | StackedWeights] | None,
    ) -> list[tuple[list[Tensor], Tensor, Tensor]]:
        """As `_run_direction`, for both directions in the same products; `inputs` (2, N, projection_dim)."""
        outputs, final_hidden, final_cell = [inputs], [], []
        pairs: Any = zip(self.forward_layers, self.backward_layers, strict=True)
        for index, (ahead, behind) in enumerate(pairs):
            read = self.dropout(outputs[-1])
            weights = ahead.weights(), behind.weights()
            prepared = None if products is None else products[index]
            output, *state = lstm(
                read, hidden[index], cell[index], packed_words.batch_sizes, weights, ahead.clips, None, prepared
            )
            outputs.append(output + read if ahead.add_skip else output)
            final_hidden.append(state[0])
            final_cell.append(state[1])
        # (layers, 2, batch, size)
        hidden, cell = torch.stack(final_hidden), torch.stack(final_cell)
        return [([output[d] for output in outputs], hidden[:, d], cell[:, d]) for d in range(2)]


class ElmoScalarMix(nn.Module):
    """
    `gamma * sum_k softmax(s)_k * h_k` (section 3.2, equation 1; `ScalarMix` in AllenNLP).

    With `scalar_mix_parameters` in the configuration the weights are those, gamma is 1 and there is nothing to train.
    """

    def __init__(self, config: ElmoConfig):
        super().__init__()
        self.num_layers = config.num_hidden_layers + 1
        self.do_layer_norm = config.do_layer_norm
        self.fixed_parameters = config.scalar_mix_parameters
        if self.fixed_parameters is None:
            self.scalar_parameters = nn.Parameter(torch.zeros(self.num_layers))
            self.gamma = nn.Parameter(torch.ones(1))

    def weights(self) -> list[float] | Tensor:
        """The (layers,) weights after the softmax, without gamma."""
        if self.fixed_parameters is None:
            return torch.softmax(self.scalar_parameters, dim=0)
        # In float64, so that -9e10 beside 1 leaves exactly 0 and 1.
        return torch.softmax(torch.tensor(self.fixed_parameters, dtype=torch.float64), dim=0).tolist()

    def forward(self, layers: list[Tensor], mask: Tensor | None = None) -> Tensor:
        """
        Args:
            layers: one (..., features) tensor per layer.
            mask: (...) which positions count for the layer normalisation; all when absent. Not used without it.

        Returns:
            (..., features) their mix.
        """
        if len(layers) != self.num_layers:
            raise ValueError(f"`layers` must be {self.num_layers} tensors, one per layer, was: {len(layers)}.")
        if self.do_layer_norm:
            layers = [_normalize_over_batch(layer, mask) for layer in layers]
        # A layer whose fixed weight is 0 stays out: 0 times infinity would not.
        terms = [
            layer if isinstance(weight, float) and weight == 1.0 else weight * layer
            for weight, layer in zip(self.weights(), layers, strict=True)
            if not isinstance(weight, float) or weight != 0.0
        ]
        mixture = sum(terms[1:], start=terms[0])
        return mixture if self.fixed_parameters is not None else self.gamma * mixture


class ElmoInitialState(nn.Module):
    """States that every sentence starts from (`fixed_initial_state`): part of the checkpoint, but not trained."""

    def __init__(self, config: ElmoConfig):
        super().__init__()
        self.hidden = nn.Buffer(torch.zeros(config.num_hidden_layers, 2, config.projection_dim))
        self.cell = nn.Buffer(torch.zeros(config.num_hidden_layers, 2, config.cell_size))


def _normalize_over_batch(layer: Tensor, mask: Tensor | None) -> Tensor:
    """One mean and one variance over all unmasked positions and features *of the batch*, as in AllenNLP."""
    # In float32 at least: the sums run over the whole batch.
    values = at_least_float32(layer)
    if mask is None:
        mask = values.new_ones(values.shape[:-1], dtype=torch.bool)
    mask = mask.unsqueeze(-1)
    count = mask.sum() * values.shape[-1]
    mean = torch.where(mask, values, 0.0).sum() / count
    variance = (torch.where(mask, values - mean, 0.0) ** 2).sum() / count
    # AllenNLP's guard against a variance of zero.
    return ((values - mean) / torch.sqrt(variance + 1e-13)).to(layer.dtype)


def _init_embedding(embedding: nn.Embedding, factor: float):
    nn.init.uniform_(embedding.weight, -factor, factor)
    # Row 0 stands for "no word here"; a slice cannot be filled by the guarded functions.
    if embedding.padding_idx is not None and not getattr(embedding.weight, "_is_hf_initialized", False):
        with torch.no_grad():
            embedding.weight[embedding.padding_idx].zero_()


def _init_lstm(layer: nn.Module, factor: float):
    for parameter in layer.parameters(recurse=False):
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter, gain=factor)
        else:
            nn.init.zeros_(parameter)


class ElmoPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation that all ELMo models share."""

    config: ElmoConfig
    config_class = ElmoConfig
    base_model_prefix = "elmo"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ElmoCharacterEncoder", "ElmoLstmLayer"]
    # A checkpoint keeps its mixes when it is loaded with fixed weights, or with fewer mixes, and starts new ones at 0;
    # and the softmax of the language model serves that one alone.
    _keys_to_ignore_on_load_unexpected = [r"scalar_mixes\.\d+\.", r"^softmax\."]
    _keys_to_ignore_on_load_missing = [r"scalar_mixes\.\d+\."]

    def _init_weights(self, module: nn.Module):
        """Initialises as bilm-tf does, each standard deviation times `initializer_factor`."""
        factor = self.config.initializer_factor
        if isinstance(module, nn.Embedding):
            _init_embedding(module, factor)
        elif isinstance(module, nn.Conv1d):
            if self.config.char_cnn_activation == "relu":
                nn.init.uniform_(module.weight, -0.05 * factor, 0.05 * factor)
            else:
                nn.init.normal_(module.weight, std=factor * (module.kernel_size[0] * module.in_channels) ** -0.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=factor * module.in_features**-0.5)
        elif isinstance(module, ElmoLstmLayer | nn.LSTM):
            _init_lstm(module, factor)
        elif isinstance(module, ElmoSoftmax):
            nn.init.normal_(module.weight, std=factor * module.weight.shape[1] ** -0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, ElmoInitialState):
            nn.init.zeros_(module.hidden)
            nn.init.zeros_(module.cell)
        elif isinstance(module, ElmoScalarMix) and module.fixed_parameters is None:
            nn.init.zeros_(module.scalar_parameters)
            nn.init.ones_(module.gamma)
        if isinstance(module, nn.Conv1d | nn.Linear) and module.bias is not None:
            starts_closed = getattr(module, "starts_closed", False)
            nn.init.constant_(module.bias, -2.0 * factor if starts_closed else 0.0)

    @staticmethod
    def _check_keywords(keywords: dict[str, object]):
        """Raises a `TypeError` for a keyword that no model of transformers takes: a misspelled one."""
        unknown = keywords.keys() - TransformersKwargs.__annotations__.keys()
        if unknown:
            raise TypeError(f"`forward` got keyword arguments that it does not know: {', '.join(sorted(unknown))}.")

    def _returned(self, outputs: _Output, return_dict: bool | None) -> _Output | tuple:
        return outputs if (self.config.return_dict if return_dict is None else return_dict) else outputs.to_tuple()

    def clear_cache(self):
        """
        Declares that the weights have changed: drops the word vectors and prepared weights that a model on a CPU keeps
        between calls.

        Needed only after a write that goes around PyTorch (`weight.data`, a NumPy or DLPack view, memory shared with
        another process) to a model with more than 16 MB of weights, and then only for calls of fewer than eight
        sentences: larger batches and smaller models compare all bits, and every other change is noticed at once.
        """
        bilm = self._bilm()
        bilm.character_encoder.word_vectors.clear()
        bilm.encoder.recurrent_weights.clear()
        bilm.float32_bilm.clear()

    def _bilm(self) -> "ElmoModel":
        return cast(ElmoModel, self.base_model)

    def freeze_bilm(self):
        """
        Stops training the character encoder and the LSTMs, which then run as in inference: nothing is kept for a
        backward pass. The scalar mixes and whatever a head adds are trained on.
        """
        self._train_bilm(False)

    def unfreeze_bilm(self):
        """Trains the character encoder and the LSTMs (again)."""
        self._train_bilm(True)

    def _train_bilm(self, train: bool):
        for module in (self.base_model.character_encoder, self.base_model.encoder):
            module.requires_grad_(train)
        trainable, total = self.num_parameters(only_trainable=True), self.num_parameters()
        logger.info(f"The biLM is {'trained' if train else 'frozen'}: {trainable:,} of {total:,} parameters to train.")

    def parameter_groups(
        self, learning_rate: float, bilm_learning_rate: float, weight_decay: float = 0.0
    ) -> list[dict[str, object]]:
        """
        Parameters to train, for an optimizer that changes the biLM more carefully than what was put on top of it:

            optimizer = torch.optim.AdamW(model.parameter_groups(learning_rate=1e-3, bilm_learning_rate=1e-5))
            trainer = Trainer(model, optimizers=(optimizer, None), ...)

        Args:
            learning_rate: of the scalar mixes and the head.
            bilm_learning_rate: of the character encoder and the LSTMs.
            weight_decay: of matrices; biases and the weights of the mixes never decay.
        """
        bilm = {*self._bilm().character_encoder.parameters(), *self._bilm().encoder.parameters()}
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for parameter in self.parameters():
            if parameter.requires_grad:
                rate = bilm_learning_rate if parameter in bilm else learning_rate
                groups.setdefault((rate, weight_decay if parameter.dim() > 1 else 0.0), []).append(parameter)
        return [
            {"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()
        ]


@dataclass
class ElmoModelOutput(ModelOutput):
    """
    Output of [`ElmoModel`]. `words` is the width of the input, plus 2 with `keep_sentence_boundaries`; further leading
    dimensions of the input stand in the place of `batch`, except in the states, where they are flattened.

    Args:
        last_hidden_state: (batch, words, hidden_size) the first mix, so that `outputs[0]` is what a pipeline wants.
            Zeros at padding.
        other_representations: (batch, mixes - 1, words, hidden_size) the other mixes, when there are any.
        attention_mask: (batch, words) 1 at words (and boundaries, where they are kept), 0 elsewhere; `mask` is the
            same as truth values, to index with.
        lstm_hidden: (batch, layers, 2, projection_dim) states of both directions after each sentence.
        lstm_cell: (batch, layers, 2, cell_size) the cells that belong to them.
        hidden_states: with `output_hidden_states=True`, one (batch, words, hidden_size) tensor per layer: the word
            vectors twice, then each LSTM layer, forward beside backward. Not mixed, no dropout. The mixes are computed
            from them, gradients included, unless `do_layer_norm` needs the boundaries as well.
    """

    # Tensors with the batch first, so that a pipeline can split a batch; it knows of no tuples but `hidden_states`.
    last_hidden_state: Tensor | None = None
    other_representations: Tensor | None = None
    attention_mask: Tensor | None = None
    lstm_hidden: Tensor | None = None
    lstm_cell: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None

    @property
    def mask(self) -> Tensor:
        """(batch, words) bool, `True` at words."""
        return given(self.attention_mask).bool()

    @property
    def elmo_representations(self) -> tuple[Tensor, ...]:
        """One (batch, words, hidden_size) tensor per mix, as AllenNLP returns them."""
        first = given(self.last_hidden_state)
        return (first,) if self.other_representations is None else (first, *self.other_representations.unbind(1))

    @property
    def lstm_states(self) -> tuple[Tensor, Tensor]:
        """`lstm_hidden` and `lstm_cell`, to be passed in again with the text that follows."""
        return given(self.lstm_hidden), given(self.lstm_cell)


class ReadSentences(NamedTuple):
    """What the biLM makes of a batch of sentences."""

    layers: list[Tensor]  # one (N, hidden_size) tensor for each layer, word vectors first
    lstm_states: tuple[Tensor, Tensor]  # after each sentence, as in `ElmoModelOutput`
    packed_words: PackedWords  # where each of the N positions stands
    mask: Tensor  # (batch, words) bool
    leading_shape: torch.Size  # the dimensions that were flattened into the batch

    def in_place(self, packed: Tensor) -> Tensor:
        """(N, features) in the order of the LSTMs -> (..., words, features), zeros where there is no word."""
        return self.packed_words.scatter(packed).unflatten(0, (*self.leading_shape, self.packed_words.width))


class ElmoModel(ElmoPreTrainedModel):
    """
    ELMo: character encoder, bidirectional language model and scalar mix ("Deep contextualized word representations",
    Peters et al., 2018; `Elmo` in AllenNLP).

    A sentence's vectors depend on the sentence alone: no state stays between calls, and neither neighbours in the
    batch nor padding change more than float rounding (but see `do_layer_norm`).

    Args:
        config: sizes and behaviours.
        num_mixes: scalar mixes to make, `config.num_output_representations` when absent. Heads read one; the language
            model reads the top layer, which is `last_hidden_state` when there is no mix.
    """

    _auto_class = "AutoModel"

    def __init__(self, config: ElmoConfig, num_mixes: int | None = None):
        super().__init__(config)
        self.character_encoder = ElmoCharacterEncoder(config)
        self.encoder = ElmoEncoder(config)
        self.initial_state = ElmoInitialState(config) if config.fixed_initial_state else None
        num_mixes = config.num_output_representations if num_mixes is None else num_mixes
        self.scalar_mixes = nn.ModuleList(ElmoScalarMix(config) for _ in range(num_mixes))
        self.dropout = nn.Dropout(config.dropout)
        self.float32_bilm = Float32Bilm()
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        encoder = self.character_encoder
        return given(encoder.word_embeddings if encoder.embeddings is None else encoder.embeddings)

    def set_input_embeddings(self, value: nn.Module):
        encoder = self.character_encoder
        setattr(encoder, "word_embeddings" if encoder.embeddings is None else "embeddings", value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        lstm_states: tuple[Tensor, Tensor] | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ElmoModelOutput | tuple:
        """
        Args:
            input_ids: (batch, words, 50) character ids from [`ElmoTokenizer`], 0 at padding; more leading dimensions
                are treated as one batch.
            attention_mask: (batch, words) 0 at padding, on either side. Words whose ids are all 0 are padding with or
                without it; where it masks more, it wins.
            inputs_embeds: (batch, words, 50, char_embedding_dim) character vectors instead of `input_ids`.
            lstm_states: states to start from, as an earlier output gave them; when absent, zeros or those of the
                checkpoint (`fixed_initial_state`).
            output_hidden_states: whether to return the layers as well.
            return_dict: whether to return an [`ElmoModelOutput`] rather than a tuple.

        Raises:
            ValueError: ids, mask or states do not fit. The message gives both shapes.
        """
        self._check_keywords(kwargs)
        config = self.config
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states

        sentences = self.read_sentences(input_ids, attention_mask, inputs_embeds, lstm_states)
        hidden_states = tuple(map(sentences.in_place, sentences.layers)) if output_hidden_states else None
        if not self.scalar_mixes:
            mixtures = [sentences.in_place(sentences.layers[-1])]
        elif hidden_states is None or config.do_layer_norm:
            valid = sentences.packed_words.valid
            mixtures = [sentences.in_place(mix(sentences.layers, valid)) for mix in self.scalar_mixes]
        else:
            # The same sums, but on the way of the gradient, which attribution methods ask `hidden_states` for.
            mixtures = [mix(hidden_states) for mix in self.scalar_mixes]
        representations = tuple(map(self.dropout, mixtures))
        mask = sentences.mask.unflatten(0, sentences.leading_shape)
        if config.keep_sentence_boundaries:
            mask = sentences.in_place(torch.ones_like(sentences.packed_words.slots, dtype=torch.bool)[:, None])[..., 0]
        outputs = ElmoModelOutput(
            last_hidden_state=representations[0],
            other_representations=torch.stack(representations[1:], dim=1) if len(representations) > 1 else None,
            attention_mask=mask.long(),
            lstm_hidden=sentences.lstm_states[0],
            lstm_cell=sentences.lstm_states[1],
            hidden_states=hidden_states,
        )
        return self._returned(outputs, return_dict)

    def read_sentences(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        lstm_states: tuple[Tensor, Tensor] | None = None,
    ) -> ReadSentences:
        """Runs the biLM; arguments as in `forward`."""
        mask, leading_shape = self._word_mask(input_ids, attention_mask, inputs_embeds)
        bilm = self._modules_that_compute(mask.shape[0])
        word_vectors, word_rows = self._word_vectors(bilm[0], input_ids, inputs_embeds, mask)
        packed_words = pack_words(mask, word_rows, self.config.keep_sentence_boundaries, keeps_shapes(mask))
        layers, lstm_states = self._encode(bilm[1], word_vectors, packed_words, lstm_states, mask.shape[0])
        return ReadSentences(layers, lstm_states, packed_words, mask, leading_shape)

    def read_streams(
        self, input_ids: Tensor, backward_input_ids: Tensor, lstm_states: tuple[Tensor, Tensor] | None = None
    ) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
        """
        Runs the biLM over two texts, each as its direction reads it and with `<S>` and `</S>` among its words: what
        bilm-tf trains on, where state goes on from one window of a stream to the next.

        Args:
            input_ids: (batch, words, 50) what the forward direction reads.
            backward_input_ids: (batch, words, 50) what the backward direction reads, last word of a sentence first.
            lstm_states: states to start from, as for `forward`.

        Returns:
            One (words * batch, hidden_size) tensor per layer, time-major, each direction in its own order, and the
            final states.
        """
        if input_ids.dim() != 3 or input_ids.shape != backward_input_ids.shape:
            raise ValueError(
                "`input_ids` and `backward_input_ids` must have the same shape (batch, words, characters), were: "
                f"{tuple(input_ids.shape)} and {tuple(backward_input_ids.shape)}."
            )
        both = torch.stack([input_ids, backward_input_ids])
        mask, _ = self._word_mask(both, None, None)
        if not keeps_shapes(mask) and not mask.all():
            raise ValueError("Streams must be without padding, had rows of zeros in `input_ids`.")
        batch, words = input_ids.shape[:2]
        bilm = self._modules_that_compute(batch)
        word_vectors, word_rows = self._word_vectors(bilm[0], both, None, mask)
        forward_rows, backward_rows = word_rows.view(2, batch, words)
        packed_words = pack_streams(forward_rows, backward_rows, keeps_shapes(mask))
        return self._encode(bilm[1], word_vectors, packed_words, lstm_states, batch)

    def set_initial_state(self, lstm_states: tuple[Tensor, Tensor]):
        """
        Stores the average over a batch of `lstm_states`, those after some typical text, as the state that every
        sentence starts from when none is given; `save_pretrained` keeps it.
        """
        self.config.fixed_initial_state = True
        if self.initial_state is None:
            self.initial_state = ElmoInitialState(self.config)
        self.initial_state.hidden = nn.Buffer(lstm_states[0].detach().mean(0))
        self.initial_state.cell = nn.Buffer(lstm_states[1].detach().mean(0))

    def _word_mask(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, inputs_embeds: Tensor | None
    ) -> tuple[Tensor, torch.Size]:
        """Checks the inputs against each other. Returns the (batch, words) mask and the leading dimensions."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Exactly one of `input_ids` and `inputs_embeds` must be given.")
        characters = self.config.max_characters_per_token
        if input_ids is not None:
            ids_per_word = self.config.ids_per_word
            if input_ids.dim() < 3 or input_ids.shape[-1] != ids_per_word:
                raise ValueError(
                    f"`input_ids` must have shape (batch, words, {ids_per_word}), was: {tuple(input_ids.shape)}. "
                    f"The tokenizer of the model makes such ids, or `batch_to_ids(sentences, {ids_per_word})`."
                )
            if input_ids.is_floating_point() or input_ids.is_complex() or input_ids.dtype == torch.bool:
                raise TypeError(f"`input_ids` must be whole numbers, torch.long for example, was: {input_ids.dtype}.")
            shape = input_ids.shape[:-1]
            mask = (input_ids != 0).any(-1)
        elif self.config.word_embedding_dim:
            raise ValueError("`inputs_embeds` must be None in a model with a table of words, was given.")
        else:
            width, inputs_embeds = self.config.char_embedding_dim, given(inputs_embeds)
            if inputs_embeds.dim() < 4 or inputs_embeds.shape[-2:] != (characters, width):
                raise ValueError(
                    f"`inputs_embeds` must have shape (batch, words, {characters}, {width}), was: "
                    f"{tuple(inputs_embeds.shape)}."
                )
            shape = inputs_embeds.shape[:-2]
            mask = torch.ones(shape, dtype=torch.bool, device=inputs_embeds.device)
        if attention_mask is not None:
            if attention_mask.shape != shape:
                raise ValueError(
                    f"`attention_mask` must have one value per word, shape {tuple(shape)}, was: "
                    f"{tuple(attention_mask.shape)}."
                )
            mask = mask & (attention_mask != 0).to(mask.device)
        return mask.flatten(0, -2), shape[:-1]

    def _modules_that_compute(self, num_sentences: int) -> "tuple[ElmoCharacterEncoder, ElmoEncoder]":
        """Those of the model, or copies of higher precision where that is faster."""
        return self.float32_bilm.modules(self.character_encoder, self.encoder, num_sentences)

    def _encode(
        self,
        encoder: ElmoEncoder,
        word_vectors: Tensor,
        packed_words: PackedWords,
        lstm_states: tuple[Tensor, Tensor] | None,
        batch: int,
    ) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
        """What `encoder` gives, in the precision of the model."""
        layers, (hidden, cell) = encoder(
            word_vectors, packed_words, self._initial_states(lstm_states, batch, word_vectors)
        )
        dtype = self.dtype
        if torch.promote_types(word_vectors.dtype, dtype) != dtype:
            layers, hidden, cell = [layer.to(dtype) for layer in layers], hidden.to(dtype), cell.to(dtype)
        return layers, (hidden, cell)

    def _word_vectors(
        self,
        character_encoder: ElmoCharacterEncoder,
        input_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """
        Returns the (rows, projection_dim) table of word vectors, boundaries first, and the (batch, words) row of each
        word in it.
        """
        if input_ids is not None:
            return encode_words(character_encoder, input_ids.flatten(0, -2), mask)
        inputs_embeds = given(inputs_embeds)
        if character_encoder is not self.character_encoder:
            inputs_embeds = inputs_embeds.float()
        check_may_vary(character_encoder)
        boundaries = given(character_encoder.embeddings)(character_encoder.boundary_ids(mask.device))
        character_embeds = torch.cat([boundaries.to(inputs_embeds), inputs_embeds.flatten(0, -3)])
        vectors = character_encoder(character_embeds=character_embeds)
        return vectors, torch.arange(2, mask.numel() + 2, device=mask.device).view_as(mask)

    def _initial_states(
        self, lstm_states: tuple[Tensor, Tensor] | None, batch: int, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        config = self.config
        shapes = [(batch, config.num_hidden_layers, 2, size) for size in (config.projection_dim, config.cell_size)]
        if lstm_states is None and self.initial_state is not None:
            hidden, cell = self.initial_state.hidden, self.initial_state.cell
            return hidden.to(like).expand(shapes[0]), cell.to(like).expand(shapes[1])
        if lstm_states is None:
            return like.new_zeros(shapes[0]), like.new_zeros(shapes[1])
        given = [tuple(state.shape) for state in lstm_states]
        if given != shapes:
            raise ValueError(
                f"`lstm_states` must be hidden {shapes[0]} and cell {shapes[1]}, was: {' and '.join(map(str, given))}."
            )
        return lstm_states[0].to(like), lstm_states[1].to(like)


@dataclass
class ElmoForPreTrainingOutput(ModelOutput):
    """
    Output of [`ElmoForPreTraining`].

    Args:
        loss: () average of the two directions.
        forward_loss: () average over the words that the forward direction predicts, in nats. In training mode the
            sampled loss, if `num_sampled_words` is set: not a likelihood. Else exact: `exp` of it is the perplexity.
        backward_loss: () the same of the backward direction.
        lstm_hidden: (batch, layers, 2, projection_dim) states of both directions at the end.
        lstm_cell: (batch, layers, 2, cell_size) the cells that belong to them.
        hidden_states: one (batch, words, hidden_size) tensor per layer, word vectors first, as of [`ElmoModel`]. Of
            streams, each half is in the order in which its direction reads.
    """

    loss: Tensor | None = None
    forward_loss: Tensor | None = None
    backward_loss: Tensor | None = None
    lstm_hidden: Tensor | None = None
    lstm_cell: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None

    @property
    def lstm_states(self) -> tuple[Tensor, Tensor]:
        """`lstm_hidden` and `lstm_cell`, to be passed in again with the text that follows."""
        return given(self.lstm_hidden), given(self.lstm_cell)


def _streams_in_place(shape: torch.Size, packed: Tensor) -> Tensor:
    """(words * batch, features) -> (batch, words, features), where `shape` is (words, batch)."""
    return packed.unflatten(0, shape).transpose(0, 1)


def _check_without_boundaries(config: ElmoConfig):
    if config.keep_sentence_boundaries:
        raise ValueError("`keep_sentence_boundaries` must be False for a model whose labels count words, was: True.")


class WordLogProbabilities(NamedTuple):
    """
    Logarithms of the probabilities that both directions give to each word, in nats, 0 at padding: the forward
    direction knows what stands before a word, the backward direction what stands after it.
    """

    forward: Tensor  # (batch, words)
    backward: Tensor  # (batch, words)
    forward_end: Tensor  # (batch,) of `</S>` after all words
    backward_begin: Tensor  # (batch,) of `<S>` before all words
    lstm_states: tuple[Tensor, Tensor]  # after each sentence, to go on with the text that follows


class ElmoForPreTraining(ElmoPreTrainedModel):
    """
    The bidirectional language model as it is trained (section 3.1): each direction predicts the next word, from a
    vocabulary of `word_vocab_size` words, with one softmax for both (`LanguageModel` in bilm-tf).

    Words of the vocabulary are numbered `<S>` 0, `</S>` 1, `<UNK>` 2, then by falling count;
    `ElmoTokenizer.words_to_labels` gives the numbers.
    """

    _auto_class = "AutoModelForPreTraining"
    # Its losses are averages: a `Trainer` that accumulates gradients averages them once more.
    accepts_loss_kwargs = False

    def __init__(self, config: ElmoConfig):
        super().__init__(config)
        _check_without_boundaries(config)
        self.elmo = ElmoModel(config, num_mixes=0)
        self.dropout = nn.Dropout(config.bilm_dropout)
        self.softmax = ElmoSoftmax(config)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        lstm_states: tuple[Tensor, Tensor] | None = None,
        labels: Tensor | None = None,
        backward_input_ids: Tensor | None = None,
        backward_labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ElmoForPreTrainingOutput | tuple:
        """
        Reads sentences, or with `backward_input_ids` windows of two streams.

        Args:
            input_ids: (batch, words, 50) as for [`ElmoModel`]; of streams, the boundaries are among the words.
            labels: (batch, words) of sentences, the words themselves: both directions' targets and the boundaries
                follow from them. Of streams, the word that follows each word. -100 where nothing is to be predicted.
            backward_input_ids: (batch, words, 50) what the backward direction reads, see `ElmoModel.read_streams`.
            backward_labels: (batch, words) the word that the backward direction reads next.
            output_hidden_states: whether to return the layers as well.
            return_dict: whether to return an [`ElmoForPreTrainingOutput`] rather than a tuple.

        Raises:
            ValueError: labels do not fit or are not in the vocabulary.
        """
        self._check_keywords(kwargs)
        if backward_input_ids is not None:
            layers, lstm_states = self.elmo.read_streams(given(input_ids), backward_input_ids, lstm_states)
            in_place: Any = partial(_streams_in_place, backward_input_ids.shape[1::-1])
            ahead, behind = layers[-1].chunk(2, dim=-1)
            features, targets = (ahead, behind), None
            if labels is not None:
                targets = labels.t().flatten(), given(backward_labels).t().flatten()
        else:
            sentences = self.elmo.read_sentences(input_ids, attention_mask, inputs_embeds, lstm_states)
            layers, lstm_states, in_place = sentences.layers, sentences.lstm_states, sentences.in_place
            features, targets = self._neighbours(sentences, labels)
        shows_layers = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        ahead_loss, behind_loss = (None, None) if targets is None else self._losses(features, targets)
        # At once: what is set later is no key of a `ModelOutput`, and lost where outputs are copied.
        outputs = ElmoForPreTrainingOutput(
            loss=None if ahead_loss is None or behind_loss is None else (ahead_loss + behind_loss) / 2,
            forward_loss=ahead_loss,
            backward_loss=behind_loss,
            lstm_hidden=lstm_states[0],
            lstm_cell=lstm_states[1],
            hidden_states=tuple(map(in_place, layers)) if shows_layers else None,
        )
        return self._returned(outputs, return_dict)

    @torch.no_grad()
    def log_probabilities(
        self,
        input_ids: Tensor,
        labels: Tensor,
        attention_mask: Tensor | None = None,
        lstm_states: tuple[Tensor, Tensor] | None = None,
    ) -> WordLogProbabilities:
        """
        The exact logarithm of the probability of each word of a batch of sentences, by each direction.

        Args:
            input_ids: (batch, words, 50) as for `forward`.
            labels: (batch, words) the words' numbers in the vocabulary; a word at -100 gets 0.
            attention_mask: (batch, words) 0 at padding.
            lstm_states: states to start from.
        """
        sentences = self.elmo.read_sentences(input_ids, attention_mask, None, lstm_states)
        packed_words, mask = sentences.packed_words, sentences.mask
        features, targets = self._neighbours(sentences, labels)
        first, second = packed_words.consecutive()
        rows, num_rows, num_slots = packed_words.rows(), mask.shape[0], packed_words.num_slots
        ends = []
        for half, words, positions in zip(features, given(targets), (second, first), strict=True):
            values = -self.softmax.loss(half, words)
            # Of words, their places in the output; of boundaries, one for each row behind them; of padding, the end.
            slots = packed_words.slots[positions]
            slots = torch.where(slots < num_slots, slots, num_slots + rows[positions])
            if packed_words.valid is not None:
                slots = torch.where(packed_words.valid[second], slots, num_slots + num_rows)
            places = values.new_zeros(num_slots + num_rows + 1).scatter(0, slots, values)
            ends.append(places.split([num_slots, num_rows, 1])[:2])
        (ahead, end), (behind, begin) = ends
        return WordLogProbabilities(ahead.view(mask.shape), behind.view(mask.shape), end, begin, sentences.lstm_states)

    @torch.no_grad()
    def substitutes(
        self,
        input_ids: Tensor,
        columns: Tensor,
        attention_mask: Tensor | None = None,
        lstm_states: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """
        What could stand in the place of one word of each sentence: the product of what the forward direction expects
        after the words before it and the backward direction before the words after it. Neither sees the word itself.

        Args:
            input_ids: (batch, words, 50) as for `forward`.
            columns: (batch,) column of the word in each sentence.
            attention_mask: (batch, words) 0 at padding.
            lstm_states: states to start from.

        Returns:
            (batch, word_vocab_size) logarithms of probabilities, which sum to 1.
        """
        sentences = self.elmo.read_sentences(input_ids, attention_mask, None, lstm_states)
        packed_words, mask = sentences.packed_words, sentences.mask
        columns = columns.to(mask.device)
        if columns.shape != mask.shape[:1] or not (columns.min() >= 0 and columns.max() < mask.shape[1]):
            raise ValueError(
                f"`columns` must be one column of each of {len(mask)} sentences, was: {columns.tolist()}."
            )
        if not mask[torch.arange(len(mask)), columns].all():
            raise ValueError(f"`columns` must point to words, but one of {columns.tolist()} points to padding.")
        ahead, behind = sentences.layers[-1].chunk(2, dim=-1)
        first, second = packed_words.consecutive()
        # (num_slots + 1,) for each word's place, the position before and the one after it
        before, after = (packed_words.slots.new_zeros(packed_words.num_slots + 1) for _ in range(2))
        before[packed_words.slots[second]], after[packed_words.slots[first]] = first, second
        places = torch.arange(len(mask), device=mask.device) * mask.shape[1] + columns
        scores = self.softmax(ahead[before[places]]) + self.softmax(behind[after[places]])
        return torch.log_softmax(scores, dim=-1)

    @staticmethod
    def _neighbours(
        sentences: ReadSentences, labels: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
        """
        Of each two neighbours of a sentence, the forward direction predicts the second from the first, the backward
        direction the first from the second. Returns the (pairs, projection_dim) tops and the (pairs,) words of both.
        """
        packed_words, mask = sentences.packed_words, sentences.mask
        first, second = packed_words.consecutive()
        ahead, behind = sentences.layers[-1].chunk(2, dim=-1)
        features = ahead[first], behind[second]
        if labels is None:
            return features, None
        if labels.shape != mask.shape:
            raise ValueError(
                f"`labels` must have one word per column, shape {tuple(mask.shape)}, was: {tuple(labels.shape)}."
            )
        # (N,) the words in forward order, boundaries included
        words = F.pad(labels.flatten(), (0, 1))[packed_words.slots]
        is_begin, is_end = packed_words.boundaries()
        words = torch.where(is_begin, WORD_VOCABULARY_START.index(BEGIN_SENTENCE), words)
        words = torch.where(is_end, WORD_VOCABULARY_START.index(END_SENTENCE), words)
        if packed_words.valid is None:
            return features, (words[second], words[first])
        # A sentence's last pair ends at its `</S>`; behind it there is padding.
        is_pair = packed_words.valid[second]
        return features, (torch.where(is_pair, words[second], -100), torch.where(is_pair, words[first], -100))

    def _losses(self, features: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean loss of both directions, over the labels other than -100; 0 if there is none."""
        words = torch.cat(targets).to(features[0].device, torch.long)
        check_range("labels", words, -100, given(self.config.word_vocab_size))
        sampled = self.training and self.softmax.samples
        losses = (self.softmax.sampled_loss if sampled else self.softmax.loss)(
            self.dropout(torch.cat(features)), words
        )
        sums = [half.sum() for half in losses.split([half.shape[0] for half in targets])]
        return tuple(total / (half >= 0).sum().clamp(min=1) for total, half in zip(sums, targets, strict=True))


# Keywords of `from_pretrained` that say where a configuration is.
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


_Head = TypeVar("_Head", bound="ElmoHead")


class ElmoHead(ElmoPreTrainedModel):
    """
    What the heads share: the biLM with its first scalar mix, a BiLSTM if the configuration asks for one
    (`head_lstm_size`), dropout and a linear layer. They return no LSTM states, which nobody wants gathered.
    """

    # Name of the linear layer and the numbers that it gives, one for each label when absent. Heads whose layers mean
    # different things have different names, so that none loads the layer of another.
    output_name = "classifier"
    num_scores: int | None = None

    def __init__(self, config: ElmoConfig):
        super().__init__(config)
        _check_without_boundaries(config)
        self.elmo = ElmoModel(config, num_mixes=1)
        self.context = ElmoHeadLstm(config) if config.head_lstm_size is not None else None
        width = 2 * config.head_lstm_size if config.head_lstm_size is not None else config.hidden_size
        self.dropout = nn.Dropout(config.classifier_dropout)
        setattr(self, self.output_name, nn.Linear(width, self.num_scores or given(config.num_labels)))
        self.post_init()

    @classmethod
    def from_pretrained(cls: type[_Head], pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> _Head:
        """Loads a folder or Hub repository, see `PreTrainedModel.from_pretrained`."""
        name = pretrained_model_name_or_path
        renamed = False
        if name is not None and cls.output_name != "classifier" and kwargs.get("key_mapping") is None:
            # Until version 0.1 every head's layer had the same name.
            hub_options = {option: kwargs[option] for option in _HUB_OPTIONS if option in kwargs}
            saved, _ = cls.config_class.get_config_dict(name, **hub_options)
            renamed = cls.__name__ in (saved.get("architectures") or ())
            if renamed:
                kwargs["key_mapping"] = {r"^classifier\.": f"{cls.output_name}."}
        loaded = super().from_pretrained(name, *args, **kwargs)
        if renamed:
            # transformers 5 would save under the old name again.
            vars(loaded[0] if isinstance(loaded, tuple) else loaded).pop("_weight_conversions", None)
        return loaded

    def _read(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        inputs_embeds: Tensor | None,
        output_hidden_states: bool | None,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, ...] | None]:
        """Returns (..., words, features) what is to be classified, its (..., words) mask and the biLM's layers."""
        outputs = self.elmo(
            input_ids, attention_mask, inputs_embeds, output_hidden_states=output_hidden_states, return_dict=True
        )
        features, mask = outputs.last_hidden_state, outputs.mask
        if self.context is not None:
            features = self.context(features, mask)
        return features, mask.to(features.device), outputs.hidden_states

    def _score(self, features: Tensor) -> Tensor:
        return getattr(self, self.output_name)(self.dropout(features))

    def _score_sentences(self, features: Tensor, mask: Tensor) -> Tensor:
        """(..., words, features), (..., words) -> (..., scores)."""
        return self._score(pool(features, mask, self.config.sentence_pooling))


class ElmoForTokenClassification(ElmoHead):
    """ELMo with a label for each word: named entities, parts of speech."""

    _auto_class = "AutoModelForTokenClassification"

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TokenClassifierOutput | tuple:
        """
        Args:
            input_ids: (batch, words, 50) and the other inputs of [`ElmoModel`].
            labels: (batch, words) classes, -100 at padding and wherever else there is nothing to learn.
            num_items_in_batch: labels of all steps that a gradient is accumulated over, see `Trainer`.

        Returns:
            `logits` (batch, words, num_labels), at padding too, and with `labels` the cross entropy `loss`.
        """
        self._check_keywords(kwargs)
        features, _, hidden_states = self._read(input_ids, attention_mask, inputs_embeds, output_hidden_states)
        logits = self._score(features)
        loss = None if labels is None else cross_entropy(logits, labels, num_items_in_batch)
        outputs = TokenClassifierOutput(loss=loss, logits=logits, hidden_states=hidden_states)
        return self._returned(outputs, return_dict)


class ElmoForSequenceClassification(ElmoHead):
    """ELMo with one answer for each text, or pair of texts: sentiment, entailment, similarity."""

    _auto_class = "AutoModelForSequenceClassification"

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput | tuple:
        """
        Args:
            input_ids: (batch, words, 50) and the other inputs of [`ElmoModel`]; the texts of a pair in one row, as
                [`ElmoTokenizer`] joins them.
            labels: (batch,) classes; (batch, num_labels) zeros and ones for several labels per text; (batch,) or
                (batch, num_labels) numbers for a regression. `problem_type` of the configuration tells which. When it
                is None it is set by the first labels: one label is a regression, whole numbers are classes.
            num_items_in_batch: labels of all steps that a gradient is accumulated over, see `Trainer`.

        Returns:
            `logits` (batch, num_labels) and with `labels` the `loss`: cross entropy, that of each label on its own, or
            the squared error.

        Raises:
            ValueError: the labels' shape does not fit the problem.
        """
        self._check_keywords(kwargs)
        features, mask, hidden_states = self._read(input_ids, attention_mask, inputs_embeds, output_hidden_states)
        logits = self._score_sentences(features, mask)
        loss = None if labels is None else self._loss(logits, labels, num_items_in_batch)
        outputs = SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=hidden_states)
        return self._returned(outputs, return_dict)

    def _loss(self, logits: Tensor, labels: Tensor, num_items: Tensor | int | None) -> Tensor:
        config = self.config
        if config.problem_type is None:
            # Kept, as all models of the library do: a pipeline asks the saved configuration what the scores are.
            if config.num_labels == 1:
                config.problem_type = "regression"
            elif labels.is_floating_point():
                config.problem_type = "multi_label_classification"
            else:
                config.problem_type = "single_label_classification"
        per_class = config.problem_type != "single_label_classification"
        expected = logits.numel() if per_class else len(logits)
        if labels.numel() != expected or len(labels) != len(logits):
            shape = tuple(logits.shape) if per_class else (len(logits),)
            raise ValueError(
                f"`labels` must have shape {shape} for {config.problem_type}, was: {tuple(labels.shape)}."
            )
        if not per_class:
            return cross_entropy(logits, labels, num_items)
        logits = at_least_float32(logits)
        labels = labels.to(logits).view_as(logits)
        loss = F.mse_loss if config.problem_type == "regression" else F.binary_cross_entropy_with_logits
        return divided(loss(logits, labels, reduction="sum"), labels.numel() if num_items is None else num_items)


class ElmoForQuestionAnswering(ElmoHead):
    """ELMo that finds the answer to a question in a text: its first and its last word."""

    _auto_class = "AutoModelForQuestionAnswering"
    output_name, num_scores = "qa_outputs", 2

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> QuestionAnsweringModelOutput | tuple:
        """
        Args:
            input_ids: (batch, words, 50) and the other inputs of [`ElmoModel`]; question and text in one row, as
                [`ElmoTokenizer`] joins them.
            start_positions: (batch,) index of the answer's first word in the row; a position without a word, or
                outside of the row, teaches nothing.
            end_positions: (batch,) index of its last word.
            num_items_in_batch: answers of all steps that a gradient is accumulated over.

        Returns:
            `start_logits` and `end_logits` (batch, words), very low at padding, and with both positions the `loss`,
            the mean of the two cross entropies.
        """
        self._check_keywords(kwargs)
        features, mask, hidden_states = self._read(input_ids, attention_mask, inputs_embeds, output_hidden_states)
        scores = self._score(features).masked_fill(~mask.unsqueeze(-1), NO_WORD_SCORE)
        start_logits, end_logits = (one.contiguous() for one in scores.unbind(-1))
        loss = None
        if start_positions is not None and end_positions is not None:
            start_loss, end_loss = (
                cross_entropy(logits, positions_of_words(positions, mask), num_items_in_batch)
                for logits, positions in ((start_logits, start_positions), (end_logits, end_positions))
            )
            loss = (start_loss + end_loss) / 2
        outputs = QuestionAnsweringModelOutput(
            loss=loss, start_logits=start_logits, end_logits=end_logits, hidden_states=hidden_states
        )
        return self._returned(outputs, return_dict)


class ElmoForMultipleChoice(ElmoHead):
    """ELMo that chooses between several texts, or several endings of one text."""

    _auto_class = "AutoModelForMultipleChoice"
    output_name, num_scores = "choice_outputs", 1

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MultipleChoiceModelOutput | tuple:
        """
        Args:
            input_ids: (batch, choices, words, 50); the other inputs of [`ElmoModel`] have the second dimension too.
            labels: (batch,) index of the right choice.
            num_items_in_batch: labels of all steps that a gradient is accumulated over, see `Trainer`.

        Returns:
            `logits` (batch, choices) and with `labels` the cross entropy `loss`.
        """
        self._check_keywords(kwargs)
        features, mask, hidden_states = self._read(input_ids, attention_mask, inputs_embeds, output_hidden_states)
        logits = self._score_sentences(features, mask).squeeze(-1)
        loss = None if labels is None else cross_entropy(logits, labels, num_items_in_batch)
        outputs = MultipleChoiceModelOutput(loss=loss, logits=logits, hidden_states=hidden_states)
        return self._returned(outputs, return_dict)


patch_token_classification_pipeline()

__all__ = [
    "ElmoForMultipleChoice",
    "ElmoForPreTraining",
    "ElmoForPreTrainingOutput",
    "ElmoForQuestionAnswering",
    "ElmoForSequenceClassification",
    "ElmoForTokenClassification",
    "ElmoModel",
    "ElmoModelOutput",
    "ElmoPreTrainedModel",
]
