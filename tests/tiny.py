"""Models of a few hundred weights and character ids made without the tokenizer, for all tests."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from elmo_hf import ElmoConfig, ElmoModel

SENTENCES = [
    ["The", "river", "bank", "was", "muddy", "."],
    ["Élodie", "'s", "naïve", "friend", "lives", "in", "東京"],
    ["Yes"],
    ["The", "bank", "raised", "its", "rates", ",", "and", "the", "river", "rose", "."],
]


def tiny_config(**overrides: Any) -> ElmoConfig:
    """Every part of the published models, two of each: filters, highways, layers. Clips that random weights reach."""
    sizes: dict[str, Any] = {
        "char_embedding_dim": 4,
        "char_cnn_filters": [[1, 4], [3, 5]],
        "num_highway_layers": 2,
        "projection_dim": 6,
        "cell_size": 10,
        "num_hidden_layers": 2,
        "cell_clip": 0.8,
        "proj_clip": 0.4,
    }
    return ElmoConfig(**{**sizes, **overrides})


def tiny_model(seed: int = 0, model_class: type = ElmoModel, **overrides: Any) -> Any:
    """A model in evaluation mode with weights far from 0, so that nothing about its outputs holds by smallness."""
    model = model_class(tiny_config(**overrides)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4, generator=generator)
        model.get_input_embeddings().weight[0] = 0.0
    return model


def character_ids(sentences: Sequence[Sequence[str]] = SENTENCES, width: int | None = None) -> Tensor:
    """(sentences, width, 50) ids, 0 at padding on the right; the longest sentence decides when no width is given."""
    width = max(map(len, sentences), default=0) if width is None else width
    ids = torch.zeros(len(sentences), width, 50, dtype=torch.long)
    for row, sentence in enumerate(sentences):
        for column, word in enumerate(sentence):
            ids[row, column] = torch.tensor(word_ids(word))
    return ids


def word_ids(word: str) -> list[int]:
    """The 50 ids of one word: begin 259, each byte plus 1, end 260, filled with 261."""
    characters = [259, *(byte + 1 for byte in word.encode()[:48]), 260]
    return characters + [261] * (50 - len(characters))
