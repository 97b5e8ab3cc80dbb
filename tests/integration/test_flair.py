"""flair: the class that it gave up, in an environment of its own with transformers 4."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elmo_hf import ElmoEmbedder, default_model_path
from elmo_hf.checkpoints.bilm_hdf5 import write_weights
from elmo_hf.checkpoints.bilm_options import write_options
from tests.tiny import SENTENCES, tiny_model

try:
    import flair
    from flair.data import Corpus, Sentence
    from flair.embeddings import StackedEmbeddings
    from flair.models import SequenceTagger
    from flair.trainers import ModelTrainer

    from elmo_hf.integrations.flair import ELMoEmbeddings
except ImportError as error:
    if error.name is None or error.name.partition(".")[0] != "flair":
        raise
    pytest.skip("flair is in an environment of its own", allow_module_level=True)


def vectors_of(sentences: list[Any]) -> list[np.ndarray]:
    return [np.stack([token.get_embedding().cpu().numpy() for token in sentence]) for sentence in sentences]


def test_the_recipe_gives_each_token_its_vector(run_recipe: Callable[[str], dict[str, Any]]):
    found = run_recipe("Embeddings for flair")
    words = [[token.text for token in sentence] for sentence in found["sentences"]]
    embedder = ElmoEmbedder.from_pretrained(default_model_path())
    for vectors, layers in zip(vectors_of(found["sentences"]), embedder.embed(words, "all"), strict=True):
        np.testing.assert_array_equal(vectors, np.concatenate(list(layers), axis=-1))
    assert found["elmo"].embedding_length == vectors.shape[1]


@pytest.mark.parametrize("mode", ["all", "top", "average"])
def test_options_and_weights_are_taken_as_before(mode: str, tmp_path: Path):
    model = tiny_model()
    files = {"options_file": str(tmp_path / "options.json"), "weight_file": str(tmp_path / "weights.hdf5")}
    write_options(model.config, files["options_file"])
    write_weights(model, model.config, files["weight_file"])
    embeddings = ELMoEmbeddings(**files, embedding_mode=mode)
    sentences = [Sentence(words) for words in SENTENCES]
    embeddings.embed(sentences)
    expected = ElmoEmbedder(**files).embed(SENTENCES, mode)
    for vectors, right in zip(vectors_of(sentences), expected, strict=True):
        np.testing.assert_array_equal(vectors, np.concatenate(list(right), axis=-1) if mode == "all" else right)
    assert embeddings.embedding_length == vectors.shape[1]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_a_tagger_with_a_crf_is_trained_saved_and_loaded(tmp_path: Path):
    flair.set_seed(0)
    sentences = []
    for words, name in ((["Emma", "left", "."], 0), (["They", "saw", "Emma"], 2), (["He", "met", "Harriet"], 2)) * 8:
        sentence = Sentence(words)
        sentence[name : name + 1].add_label("ner", "PER")
        sentences.append(sentence)
    corpus = Corpus(sentences, sentences[:6], sentences[:6])
    embeddings = StackedEmbeddings([ELMoEmbeddings("elmo-english", embedding_mode="average")])
    dictionary = corpus.make_label_dictionary("ner", add_unk=False)
    tagger = SequenceTagger(embeddings, dictionary, "ner", hidden_size=16, use_rnn=True, use_crf=True)
    assert sum(parameter.numel() for parameter in tagger.parameters()) < 150_000
    ModelTrainer(tagger, corpus).train(tmp_path / "run", learning_rate=0.3, max_epochs=12, mini_batch_size=4)
    # The biLM is not in the file.
    assert (tmp_path / "run" / "final-model.pt").stat().st_size < 5_000_000
    loaded = SequenceTagger.load(tmp_path / "run" / "final-model.pt")
    sentence = Sentence(["Harriet", "saw", "Emma"])
    loaded.predict(sentence)
    assert [label.data_point.text for label in sentence.get_labels("ner")] == ["Harriet", "Emma"]


def test_another_mode_is_refused():
    with pytest.raises(ValueError, match="`embedding_mode` must be all, top or average, was: 'sum'"):
        ELMoEmbeddings("elmo-english", embedding_mode="sum")
