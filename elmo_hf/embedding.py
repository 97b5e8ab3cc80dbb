"""Sentences in, arrays out: the vectors of any number of sentences, in their order and in constant memory."""

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .batching import BATCH_SIZE, Sentence, as_words, run_in_batches
from .modeling_elmo import ElmoModel
from .tokenization_elmo import ElmoTokenizer


class ElmoEmbedder:
    """
    Vectors of many sentences (called `ElmoEmbedder` in AllenNLP before 1.0): sentences of similar length run together,
    the results come back in the order of the input, one at a time.

    Args:
        model: an [`ElmoModel`], used as it is, on its device.
        tokenizer: splits sentences that are given as text.
        batch_size: sentences a batch, at most.
    """

    def __init__(self, model: ElmoModel, tokenizer: ElmoTokenizer, batch_size: int = BATCH_SIZE):
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, was: {batch_size}.")
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, batch_size: int = BATCH_SIZE, **kwargs: Any) -> "ElmoEmbedder":
        """Loads a Hub repository or folder; `kwargs` go to the model's `from_pretrained`."""
        model = ElmoModel.from_pretrained(folder, **kwargs).eval()
        return cls(model, ElmoTokenizer.from_pretrained(folder), batch_size)

    def embed(
        self, sentences: Iterable[Sentence], layers: str | int = "mix", pooling: str | None = None
    ) -> Iterator[np.ndarray]:
        """
        Yields one float32 array a sentence, while it reads on.

        Args:
            sentences: text, or lists of words, of any number. An empty sentence has no words and keeps its place.
            layers: `"mix"` (the first scalar mix), `"top"`, `"average"`, `"all"`, or the number of a layer, 0 for the
                word vectors.
            pooling: `None`, or one vector a sentence, `"mean"` or `"max"` over its words; zeros without words.

        Returns:
            Arrays (words, hidden_size), with `"all"` (layers, words, hidden_size), without the words when pooled.

        Raises:
            ValueError: `layers` or `pooling` is not one of these.
            TypeError: a sentence is neither text nor a list of words.
        """
        select = self._selection(layers)
        if pooling not in (None, "mean", "max"):
            raise ValueError(f"`pooling` must be mean, max or None, was: {pooling!r}.")
        return self._embed(sentences, select, pooling)

    def _embed(self, sentences: Iterable[Sentence], select: Callable, pooling: str | None) -> Iterator[np.ndarray]:
        words = (as_words(sentence, self.tokenizer) for sentence in sentences)
        for vectors in run_in_batches(words, partial(self._run, select), self.batch_size):
            yield vectors if pooling is None else _pool(vectors, pooling)

    @torch.inference_mode()
    def _run(self, select: Callable, sentences: list[list[str]]) -> list[np.ndarray]:
        inputs = self.tokenizer(sentences, is_split_into_words=True, padding=True, return_tensors="pt")
        inputs = inputs.to(self.model.device)
        # (batch, words, hidden_size) or (layers, batch, words, hidden_size)
        vectors = select(inputs).float().cpu().numpy()
        return [np.ascontiguousarray(vectors[..., row, : len(words), :]) for row, words in enumerate(sentences)]

    def _selection(self, layers: str | int) -> Callable[[Any], Tensor]:
        """A function from inputs to the wanted (..., batch, words, hidden_size) vectors."""
        num_layers = self.model.config.num_hidden_layers + 1
        choices: dict[str | int, Callable[[Any], Tensor]] = {
            "mix": lambda outputs: outputs.last_hidden_state,
            "top": lambda outputs: outputs.hidden_states[-1],
            "average": lambda outputs: sum(outputs.hidden_states) / num_layers,
            "all": lambda outputs: torch.stack(outputs.hidden_states),
            **{number: partial(_layer, number) for number in range(num_layers)},
        }
        if isinstance(layers, bool) or layers not in choices:
            raise ValueError(f"`layers` must be one of {', '.join(map(str, choices))}, was: {layers!r}.")
        choose = choices[layers]
        keep = slice(1, -1) if self.model.config.keep_sentence_boundaries else slice(None)
        return lambda inputs: choose(self.model(**inputs, output_hidden_states=layers != "mix"))[..., keep, :]


def _layer(number: int, outputs: Any) -> Tensor:
    return outputs.hidden_states[number]


def _pool(vectors: np.ndarray, pooling: str) -> np.ndarray:
    if vectors.shape[-2] == 0:
        return np.zeros_like(vectors, shape=(*vectors.shape[:-2], vectors.shape[-1]))
    return vectors.mean(-2) if pooling == "mean" else vectors.max(-2)
