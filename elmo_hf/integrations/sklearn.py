"""A transformer for scikit-learn's pipelines: from text to one vector."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from ..corpus_embedding import load_embedder
from ..embedding import ElmoEmbedder


class ElmoVectorizer(TransformerMixin, BaseEstimator):
    """
    One vector per text, the mean or the maximum over its words, for whatever scikit-learn puts behind it. It learns
    nothing, so `fit` may be left out.

        make_pipeline(ElmoVectorizer(), LogisticRegression(max_iter=1000))

    Args:
        model: as [`find_model`] takes it; `elmo-english` when absent. It is loaded when it is first used,
            and again after a pickle.
        layers: as [`ElmoEmbedder.embed`] takes it; of several layers the vectors stand side by side.
        pooling: `"mean"` or `"max"`.
    """

    def __init__(self, model: str | None = None, layers: str | int = "mix", pooling: str = "mean"):
        self.model = model
        self.layers = layers
        self.pooling = pooling

    def fit(self, texts: Any = None, labels: Any = None) -> "ElmoVectorizer":
        return self

    def transform(self, texts: Iterable[Any]) -> np.ndarray:
        """
        Args:
            texts: text, or lists of words.

        Returns:
            (texts, features) float32; zeros for a text without words.
        """
        if self.pooling not in ("mean", "max"):
            raise ValueError(f"`pooling` must be mean or max, was: {self.pooling}.")
        if isinstance(texts, str):
            raise TypeError(f"`texts` must be a list of texts, was one text: {texts!r}. Pass [text].")
        found = [vectors.ravel() for vectors in self._loaded().embed(texts, self.layers, self.pooling)]
        return np.stack(found) if found else np.empty((0, len(self.get_feature_names_out())), np.float32)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        (vectors,) = self._loaded().embed([[]], self.layers, self.pooling)
        return np.array([f"elmo{number}" for number in range(vectors.size)], dtype=object)

    def _loaded(self) -> ElmoEmbedder:
        if getattr(self, "_model", None) != self.model or not hasattr(self, "_embedder"):
            self._model, self._embedder = self.model, load_embedder(self.model)
        return self._embedder

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name not in ("_model", "_embedder")}

    def __sklearn_is_fitted__(self) -> bool:
        return True
