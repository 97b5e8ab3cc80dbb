"""scikit-learn: one vector per text."""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from elmo_hf import ElmoEmbedder, default_model_path
from elmo_hf.integrations.sklearn import ElmoVectorizer

TEXTS = ["They sat on the bank.", ["His", "bank", "had", "failed"], ""]


def test_the_recipe_classifies(run_recipe: Callable[[str], dict[str, Any]]):
    found = run_recipe("Texts with scikit-learn")
    assert found["verdict"] == "bad"
    assert found["classifier"].score(found["texts"], ["good", "bad", "good", "bad"]) == 1.0


@pytest.mark.parametrize(("layers", "pooling"), [("mix", "mean"), ("all", "max"), (1, "mean"), ([0, 2], "mean")])
def test_vectors_are_those_of_the_embedder(layers: Any, pooling: str):
    embedder = ElmoEmbedder.from_pretrained(default_model_path())
    vectorizer = ElmoVectorizer("elmo-english", layers, pooling)
    found = vectorizer.transform(TEXTS)
    expected = [vectors.ravel() for vectors in embedder.embed(TEXTS, layers, pooling)]
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32
    assert not found[2].any()
    assert vectorizer.transform([]).shape == (0, found.shape[1])
    assert len(vectorizer.get_feature_names_out()) == found.shape[1]


def test_it_is_cloned_pickled_and_set_as_others_are():
    vectorizer = ElmoVectorizer()
    before = vectorizer.transform(TEXTS)
    # The model would be 20 MB.
    pickled = pickle.dumps(vectorizer)
    assert len(pickled) < 1000
    np.testing.assert_array_equal(pickle.loads(pickled).transform(TEXTS), before)
    np.testing.assert_array_equal(clone(vectorizer).transform(TEXTS), before)
    pipeline = make_pipeline(vectorizer, StandardScaler()).set_params(elmovectorizer__layers=0)
    assert pipeline.fit_transform(TEXTS).shape == before.shape
    assert not np.allclose(vectorizer.transform(TEXTS), before)
    vectorizer.set_params(model="nowhere/no-such-model")
    with pytest.raises(OSError, match=r"huggingface\.co|no-such-model"):
        vectorizer.transform(TEXTS)


def test_what_is_no_text_or_no_pooling_is_told():
    with pytest.raises(TypeError, match="`texts` must be a list of texts"):
        ElmoVectorizer().transform("They sat on the bank.")
    for pooling in (None, "sum"):
        with pytest.raises(ValueError, match="`pooling` must be mean"):
            ElmoVectorizer(pooling=pooling).transform(TEXTS)  # type: ignore[arg-type]
