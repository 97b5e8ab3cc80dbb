"""`ELMoEmbeddings`, which flair no longer has."""

from typing import Any

import flair
import numpy as np
import torch
from flair.data import Sentence
from flair.embeddings import TokenEmbeddings
from flair.embeddings.base import register_embeddings

from ..corpus_embedding import load_embedder
from ..embedding import ElmoEmbedder

# What flair called the models, and what they are called here.
MODELS = {
    "original": "english-original",
    "small": "english-small",
    "medium": "english-medium",
    "large": "english-original-5.5b",
    "5.5B": "english-original-5.5b",
    "pt": "portuguese",
    "portuguese": "portuguese",
    "pubmed": "english-pubmed",
}


@register_embeddings
class ELMoEmbeddings(TokenEmbeddings):
    """
    Vectors of a biLM for the tokens of flair's sentences, with the arguments and names of flair's own class. They are
    fixed: flair trains what stands on them.

    Args:
        model: a name of flair's (`MODELS`), or whatever [`find_model`] takes: a folder, a repository of the Hub, a
            name of `elmo-hf released`. A released model is downloaded and converted once.
        options_file: an options.json, beside `weight_file`, a file or an address, instead of `model`.
        weight_file: its weights in hdf5.
        embedding_mode: `"all"` layers side by side, the word vectors first, the `"top"` one, or their `"average"`.

    Raises:
        ValueError: `embedding_mode` is none of these.
    """

    def __init__(
        self,
        model: str = "original",
        options_file: str | None = None,
        weight_file: str | None = None,
        embedding_mode: str = "all",
    ):
        super().__init__()
        if embedding_mode not in ("all", "top", "average"):
            raise ValueError(f"`embedding_mode` must be all, top or average, was: {embedding_mode!r}.")
        self.parameters_of_flair = {
            "model": str(model),
            "options_file": options_file,
            "weight_file": weight_file,
            "embedding_mode": embedding_mode,
        }
        self.name, self.static_embeddings = f"elmo-{model}-{embedding_mode}", True
        self.embedding_mode = embedding_mode
        if options_file is not None or weight_file is not None:
            embedder = ElmoEmbedder(options_file=options_file, weight_file=weight_file)
        else:
            embedder = load_embedder(MODELS.get(model, model))
        # No module, so that its weights belong to no tagger and stay out of its file.
        self._embedder = embedder

    @property
    def embedding_length(self) -> int:
        config = self._embedder.model.config
        return config.hidden_size * (config.num_hidden_layers + 1 if self.embedding_mode == "all" else 1)

    def _add_embeddings_internal(self, sentences: list[Sentence]) -> list[Sentence]:
        self._embedder.model.to(flair.device)
        words = [[token.text for token in sentence] for sentence in sentences]
        for sentence, vectors in zip(sentences, self._embedder.embed(words, self.embedding_mode), strict=True):
            if self.embedding_mode == "all":
                # (layers, words, features) -> (words, layers * features)
                vectors = np.concatenate(list(vectors), axis=-1)
            for token, vector in zip(sentence, torch.from_numpy(vectors).to(flair.device), strict=True):
                token.set_embedding(self.name, vector)
        return sentences

    def to_params(self) -> dict[str, Any]:
        """What a saved tagger needs to load these embeddings again."""
        return self.parameters_of_flair

    @classmethod
    def from_params(cls, params: dict[str, Any]) -> "ELMoEmbeddings":
        return cls(**params)
