"""sentence-transformers: pooled sentence vectors, their training, and folders that load again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from elmo_hf import ElmoEmbedder
from tests.tiny import SENTENCES

TEXTS = [
    "The river bank was muddy.",
    "Élodie's naïve friend lives in 東京",
    "",
    "Yes",
    "The bank raised its rates, and the river rose.",
]

# Which words count as padding is decided twice, and sums run in another order.
ROUNDING: dict[str, float] = {"atol": 1e-6, "rtol": 1e-5}


def sentence_model(folder: Path, pooling: str = "mean", **options: Any) -> SentenceTransformer:
    words = Transformer(str(folder), **options)
    return SentenceTransformer(modules=[words, Pooling(words.get_embedding_dimension(), pooling)], device="cpu")


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_sentence_is_the_mean_of_its_words_in_any_batch(batch_size: int, reference_model_dir: Path):
    expected = list(ElmoEmbedder.from_pretrained(reference_model_dir).embed(TEXTS, pooling="mean"))
    found = sentence_model(reference_model_dir).encode(TEXTS, batch_size=batch_size)
    np.testing.assert_allclose(found, expected, **ROUNDING)


def test_words_keep_their_own_vectors(reference_model_dir: Path):
    # A text without words would have one row of zeros.
    texts = [text for text in TEXTS if text]
    expected = list(ElmoEmbedder.from_pretrained(reference_model_dir).embed(texts))
    found = sentence_model(reference_model_dir).encode(texts, batch_size=3, output_value="token_embeddings")
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **ROUNDING)


def test_given_words_are_joined_by_spaces_and_stay_whole(reference_model_dir: Path, tmp_path: Path):
    sentences = [["don't", "stop"], *SENTENCES]
    expected = list(ElmoEmbedder.from_pretrained(reference_model_dir).embed(sentences, pooling="mean"))
    model = sentence_model(reference_model_dir, processor_kwargs={"word_splitter": "whitespace"})
    model.save_pretrained(str(tmp_path))
    for one in (model, SentenceTransformer(str(tmp_path), device="cpu")):
        found = one.encode([" ".join(words) for words in sentences])
        np.testing.assert_allclose(found, expected, **ROUNDING)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
def test_the_recipe_learns_and_loads_again_without_this_package(
    run_recipe: Callable[[str], dict[str, Any]], run_without_package: Callable[..., str], tmp_path: Path
):
    found = run_recipe("Sentence embeddings with sentence-transformers")
    pairs = found["pairs"]

    def error(model: SentenceTransformer) -> float:
        first, second = (model.encode(pairs[name], normalize_embeddings=True) for name in ("sentence1", "sentence2"))
        return float(np.square((first * second).sum(1) - pairs["score"]).mean())

    untrained = sentence_model(Path(found["elmo_hf"].default_model_path()))
    assert error(found["model"]) < 0.5 * error(untrained)

    trained = found["trainer"].model.encode(TEXTS)
    # To the last bit or two: a layer of this size is multiplied by another kernel once its weights are packed.
    np.testing.assert_allclose(found["model"].encode(TEXTS), trained, rtol=0, atol=1e-6)
    card = (tmp_path / "sentences" / "elmo" / "README.md").read_text(encoding="utf-8")
    assert "**Maximum Sequence Length:** 512 tokens" in card
    np.save(tmp_path / "texts.npy", np.array(TEXTS))
    run_without_package(
        """
import sys
import numpy as np
from sentence_transformers import SentenceTransformer
folder, texts, vectors = sys.argv[1:]
model = SentenceTransformer(folder, device="cpu", trust_remote_code=True)
np.save(vectors, model.encode(np.load(texts).tolist()))
""",
        tmp_path / "sentences" / "elmo",
        tmp_path / "texts.npy",
        tmp_path / "vectors.npy",
    )
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), trained, rtol=0, atol=1e-6)
