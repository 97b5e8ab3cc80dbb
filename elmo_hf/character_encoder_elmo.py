# SPDX-License-Identifier: Apache-2.0
"""Vectors of words without their context: the first part of an ELMo."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .configuration_elmo import ElmoConfig
from .engine_elmo import WordVectors, check_range, known, linear
from .products_elmo import Bfloat16Product, InvariantProduct, Product, is_large


@known
class ElmoHighway(nn.Module):
    """
    Highway layer (Srivastava et al., 2015): `g * relu(transform(x)) + (1 - g) * x` with `g = sigmoid(carry_gate(x))`.

    The gate that bilm-tf calls `carry` opens the *transform*; the name is kept, the meaning told here.
    """

    def __init__(self, config: ElmoConfig):
        super().__init__()
        self.transform = nn.Linear(config.num_filters, config.num_filters)
        self.carry_gate = nn.Linear(config.num_filters, config.num_filters)
        # Told to `_init_weights`: the input is carried on.
        object.__setattr__(self.carry_gate, "starts_closed", True)

    def forward(self, hidden_states: Tensor) -> Tensor:
        gate = torch.sigmoid(linear(self.carry_gate, hidden_states))
        return torch.lerp(hidden_states, F.relu(linear(self.transform, hidden_states)), gate)


@known
class ElmoCharConvolution(nn.Conv1d):
    """Filters of one width as one product: several times faster than a convolution over the characters of a word."""

    def forward(self, character_embeds: Tensor) -> Tensor:
        """(words, char_embedding_dim, characters) -> (words, filters, windows), as `nn.Conv1d`."""
        if torch.compiler.is_compiling():
            # Inductor's gradient of `unfold` writes outside of its memory (PyTorch 2.13).
            return super().forward(character_embeds)
        return _multiply_windows(
            character_embeds, self.kernel_size[0], lambda windows: F.linear(windows, self.matrix(), self.bias)
        )

    def matrix(self) -> Tensor:
        """(filters, width * char_embedding_dim)"""
        # Not transposed: its gradient would be, and several processes exchange gradients in the order of the weight.
        return torch.cat(self.weight.unbind(2), dim=1)


def _multiply_windows(character_embeds: Tensor, width: int, product: Product) -> Tensor:
    # (words, windows, width, char_embedding_dim)
    windows = character_embeds.unfold(2, width, 1).permute(0, 2, 3, 1)
    # Two-dimensional, because three would become a small product for each word.
    products = product(windows.flatten(0, 1).flatten(1))
    return products.unflatten(0, windows.shape[:2]).transpose(1, 2)


class _InvariantConvolution(nn.Module):
    def __init__(self, filters: ElmoCharConvolution):
        super().__init__()
        self.kernel_size = filters.kernel_size
        self.product = InvariantProduct(filters.matrix().detach(), filters.bias, packed=False)

    def forward(self, character_embeds: Tensor) -> Tensor:
        return _multiply_windows(character_embeds, self.kernel_size[0], self.product)


class _PreparedLinear(nn.Module):
    def __init__(self, product: Product):
        super().__init__()
        self.product = product

    def forward(self, inputs: Tensor) -> Tensor:
        return self.product(inputs)


@known
class ElmoCharacterEncoder(nn.Module):
    """
    Words from their characters: convolutions, maximum over positions, highways, projection (section 3.4).

    Some biLMs also, or only, look words up in a table (`word_embedding_dim`): the first id of a word is then its row
    there, and its vector stands before the characters' in what is projected.
    """

    def __init__(self, config: ElmoConfig):
        super().__init__()
        self.ids_per_word = config.ids_per_word
        self.fill_character = config.fill_character
        # Tuples, so that the engine sees a change.
        self.boundaries = tuple(map(tuple, config.boundary_ids))
        self.filter_widths = tuple(width for width, _ in config.char_cnn_filters)
        self.word_embeddings = None
        if config.word_embedding_dim:
            self.word_embeddings = nn.Embedding(
                config.word_lexicon_size, config.word_embedding_dim, padding_idx=config.pad_token_id
            )
        self.embeddings = None
        if config.max_characters_per_token:
            self.embeddings = nn.Embedding(
                config.vocab_size, config.char_embedding_dim, padding_idx=config.pad_token_id
            )
        self.convolutions = nn.ModuleList(
            ElmoCharConvolution(config.char_embedding_dim, number, width) for width, number in config.char_cnn_filters
        )
        # Most checkpoints use relu; bilm-tf can also train with tanh.
        self.activation = torch.tanh if config.char_cnn_activation == "tanh" else F.relu
        self.highways = nn.ModuleList(ElmoHighway(config) for _ in range(config.num_highway_layers))
        self.projection = nn.Linear(config.word_embedding_dim + config.num_filters, config.projection_dim)
        self.word_cache_size = config.word_cache_size
        self.multiplies_in_bfloat16 = False
        self.batch_invariant = config.batch_invariant
        self.word_vectors = WordVectors()

    def forward(self, character_ids: Tensor | None = None, character_embeds: Tensor | None = None) -> Tensor:
        """
        Args:
            character_ids: (words, ids) each word framed and filled as [`ElmoTokenizer`] does it.
            character_embeds: (words, characters, char_embedding_dim) instead of the ids, without a table of words.

        Returns:
            (words, projection_dim) vectors that do not depend on the context.
        """
        features = []
        if self.word_embeddings is not None and character_ids is not None:
            features.append(self.word_embeddings(character_ids[:, 0]))
            character_ids = character_ids[:, 1:]
        if self.embeddings is not None:
            if character_embeds is None:
                character_embeds = self.embeddings(character_ids)
            # (words, char_embedding_dim, characters)
            character_embeds = character_embeds.transpose(1, 2)
            # The character that fills is not masked: its windows take part in the maximum.
            highest = [filters(character_embeds).amax(2) for filters in self.convolutions]
            # (words, num_filters)
            hidden_states = self.activation(torch.cat(highest, dim=-1))
            for highway in self.highways:
                hidden_states = highway(hidden_states)
            features.append(hidden_states)
        return linear(self.projection, torch.cat(features, dim=-1) if len(features) > 1 else features[0])

    def invariant(self) -> "ElmoCharacterEncoder":
        """A copy for inference; in float32 the same bits for a word in any company, if this processor can."""
        # Tables are shared: they are not written to, and the copy does not outlive their contents.
        memo: dict[int, Any] = {id(parameter): parameter for parameter in self.parameters()}
        with torch.inference_mode(False), torch.no_grad():
            for module in self.modules():
                if isinstance(module, ElmoCharConvolution):
                    memo[id(module)] = _InvariantConvolution(module)
                elif isinstance(module, nn.Linear):
                    memo[id(module)] = _PreparedLinear(self._prepare(module))
            return copy.deepcopy(self, memo)

    def _prepare(self, module: nn.Linear) -> Product:
        if self.multiplies_in_bfloat16 and is_large(module.weight):
            return Bfloat16Product(module.weight, module.bias)
        return InvariantProduct(module.weight, module.bias, packed=is_large(module.weight))

    def check_ids(self, ids: Tensor):
        """Raises a ValueError if one of the (words, ids) is outside of its table."""
        if self.word_embeddings is not None:
            check_range("input_ids", ids[:, 0], 0, self.word_embeddings.num_embeddings)
            ids = ids[:, 1:]
        if self.embeddings is not None:
            check_range("input_ids", ids, 0, self.embeddings.num_embeddings)

    def boundary_ids(self, device: torch.device) -> Tensor:
        """(2, ids) of `<S>` and `</S>`."""
        fill = [self.fill_character] * self.ids_per_word
        return torch.tensor([[*ids, *fill[len(ids) :]] for ids in self.boundaries], device=device)
