"""spaCy: a component that gives each token its vector."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import spacy
from spacy.tokens import Doc

from elmo_hf import ElmoEmbedder, default_model_path
from tests.tiny import SENTENCES


def test_the_recipe_gives_each_token_its_vector(run_recipe: Callable[[str], dict[str, Any]], tmp_path: Path):
    found = run_recipe("Tokens with spaCy")
    nlp, docs = found["nlp"], found["docs"]
    embedder = ElmoEmbedder.from_pretrained(default_model_path())
    for doc, vectors in zip(docs, embedder.embed([[token.text for token in doc] for doc in docs]), strict=True):
        np.testing.assert_array_equal([token.vector for token in doc], vectors)
    assert [docs[0][4].text, docs[1][1].text] == ["bank", "bank"]
    assert not np.allclose(found["in_nature"], found["in_town"])

    given = [*SENTENCES, []]
    expected = list(embedder.embed(given))
    for piped in (nlp.pipe(Doc(nlp.vocab, words) for words in given), [nlp(Doc(nlp.vocab, words)) for words in given]):
        for doc, vectors in zip(piped, expected, strict=True):
            # In batches of other sentences, sums run in another order.
            np.testing.assert_allclose(doc.tensor, vectors, atol=1e-6, rtol=1e-5)

    nlp.to_disk(tmp_path / "pipeline")
    loaded = spacy.load(tmp_path / "pipeline")
    np.testing.assert_array_equal(loaded(docs[0].text).tensor, nlp(docs[0].text).tensor)
