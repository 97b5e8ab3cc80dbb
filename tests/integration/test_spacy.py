"""spaCy: a component that gives each token its vector."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc

from elmo_hf import ElmoEmbedder, default_model_path
from elmo_hf.integrations.spacy import ElmoVectors
from tests.tiny import SENTENCES


def test_the_recipe_gives_each_token_its_vector(run_recipe: Callable[[str], dict[str, Any]], tmp_path: Path):
    found = run_recipe("Tokens with spaCy")
    nlp, docs = found["nlp"], found["docs"]
    embedder = ElmoEmbedder.from_pretrained(default_model_path())
    for doc, vectors in zip(docs, embedder.embed([[token.text for token in doc] for doc in docs]), strict=True):
        np.testing.assert_array_equal([token.vector for token in doc], vectors)
    assert [found["in_nature"].text, found["in_town"].text] == ["bank", "bank"]
    one, other = (found[name].vector for name in ("in_nature", "in_town"))
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert found["similarity"] == pytest.approx(cosine, abs=1e-5)
    assert found["similarity"] < 0.95

    given = [*SENTENCES, []]
    expected = list(embedder.embed(given))
    for piped in (nlp.pipe(Doc(nlp.vocab, words) for words in given), [nlp(Doc(nlp.vocab, words)) for words in given]):
        for doc, vectors in zip(piped, expected, strict=True):
            # In batches of other sentences, sums run in another order.
            np.testing.assert_allclose(doc.tensor, vectors, atol=1e-6, rtol=1e-5)

    nlp.to_disk(tmp_path / "pipeline")
    loaded = spacy.load(tmp_path / "pipeline")
    np.testing.assert_array_equal(loaded(docs[0].text).tensor, nlp(docs[0].text).tensor)


def test_spans_and_documents_are_means_and_no_word_is_zeros():
    nlp = spacy.blank("en")
    # Vectors of its own, which a token would answer with.
    nlp.vocab.set_vector("bank", np.ones(5, np.float32))
    nlp.add_pipe("elmo", config={"model": str(default_model_path()), "layers": 0})
    doc = nlp("They sat on the bank.")
    assert doc[4].vector.shape == doc.tensor.shape[1:]
    np.testing.assert_allclose(doc[1:3].vector, doc.tensor[1:3].mean(0))
    np.testing.assert_allclose(doc.vector, doc.tensor.mean(0))
    assert doc[4].has_vector
    assert doc.has_vector
    assert doc[1:3].similarity(doc[1:3]) == pytest.approx(1.0, abs=1e-5)
    assert doc.similarity(nlp("A dog barked.")) < 0.99
    assert nlp("").vector.shape == doc.vector.shape
    assert not nlp("").vector.any()
    copied = pickle.loads(pickle.dumps(doc))
    np.testing.assert_array_equal(copied[4].vector, doc[4].vector)


def test_several_layers_are_refused():
    for layers in ("all", "fifth"):
        with pytest.raises(ValueError, match="`layers` must be"):
            ElmoVectors(layers=layers)
