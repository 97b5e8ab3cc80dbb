"""The component `elmo` of spaCy, which it finds by itself where this package is installed."""

from collections.abc import Iterable, Iterator
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc
from spacy.util import minibatch

from ..corpus_embedding import load_embedder


class ElmoVectors:
    """
    Sets `doc.tensor`, one row per token, and has `token.vector`, `span.vector`, `doc.vector` and their similarities
    read it, in a pipeline with word vectors of its own as well.

    Args:
        model: as [`find_model`] takes it; `elmo-english` when absent.
        layers: as [`ElmoEmbedder.embed`] takes it, of one layer or a mixture.
    """

    def __init__(self, model: str | None = None, layers: str | int = "mix"):
        self.embedder = load_embedder(model)
        self.embedder.selection(layers)
        if layers == "all":
            raise ValueError("`layers` must be one layer, mix, top, average or sum, was: 'all'.")
        self.layers = layers

    def __call__(self, doc: Doc) -> Doc:
        return next(self.pipe([doc]))

    def pipe(self, stream: Iterable[Doc], batch_size: int = 128) -> Iterator[Doc]:
        for docs in minibatch(stream, batch_size):
            vectors = self.embedder.embed([[token.text for token in doc] for doc in docs], self.layers)
            for doc, tensor in zip(docs, vectors, strict=True):
                doc.tensor = tensor
                _read_tensor(doc)
                yield doc


def _read_tensor(doc: Doc):
    for hooks in (doc.user_hooks, doc.user_span_hooks):
        hooks["vector"] = _mean
    doc.user_token_hooks["vector"] = _row
    for hooks in (doc.user_hooks, doc.user_span_hooks, doc.user_token_hooks):
        hooks["has_vector"] = _has_vector
        hooks["vector_norm"] = _norm
        # By itself, spaCy takes two tokens that are spelled alike for the same.
        hooks["similarity"] = _similarity


def _row(token: Any) -> Any:
    return token.doc.tensor[token.i]


def _mean(tokens: Any) -> Any:
    """Of a document or a span; zeros without tokens."""
    document = getattr(tokens, "doc", tokens)
    rows = document.tensor[tokens.start : tokens.end] if document is not tokens else document.tensor
    return rows.mean(0) if len(rows) else rows.sum(0)


def _has_vector(tokens: Any) -> bool:
    return True


def _norm(tokens: Any) -> float:
    return float((tokens.vector**2).sum() ** 0.5)


def _similarity(one: Any, other: Any) -> float:
    """The cosine of both vectors, 0 where there is none."""
    # Not `vector_norm`, which spaCy 3.8 answers with the vector for a span.
    norms = _norm(one) * _norm(other)
    return float((one.vector * other.vector).sum() / norms) if norms else 0.0


@Language.factory("elmo", default_config={"model": None, "layers": "mix"})
def create_elmo(nlp: Language, name: str, model: str | None, layers: str | int) -> ElmoVectors:
    return ElmoVectors(model, layers)
