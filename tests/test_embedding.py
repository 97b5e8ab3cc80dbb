"""`ElmoEmbedder`: any number of sentences in, their vectors out, in their order."""

from itertools import islice

import numpy as np
import pytest
import torch

import elmo_hf.batching
from elmo_hf import ElmoEmbedder, ElmoTokenizer
from tests.tiny import tiny_model

SENTENCES = [["The", "bank"], [], ["Of", "the", "river", "bank", "."], ["mud"], "It wasn't muddy.", ["mud", "bank"]]
WORDS = [2, 0, 5, 1, 5, 2]


@pytest.fixture
def embedder() -> ElmoEmbedder:
    return ElmoEmbedder(tiny_model(scalar_mix_parameters=[2.0, 2.0, 2.0]), ElmoTokenizer(), batch_size=2)


def one_by_one(embedder: ElmoEmbedder) -> list[torch.Tensor]:
    """(layers, words, hidden_size) of each sentence, from the model itself."""
    layers = []
    for sentence in SENTENCES:
        words = embedder.tokenizer.tokenize(sentence) if isinstance(sentence, str) else sentence
        inputs = embedder.tokenizer([words], is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            layers.append(torch.stack(embedder.model(**inputs, output_hidden_states=True).hidden_states)[:, 0])
    return layers


def test_vectors_come_in_the_order_of_the_sentences(embedder):
    vectors = list(embedder.embed(iter(SENTENCES), layers="all"))
    assert [value.shape for value in vectors] == [(3, words, 12) for words in WORDS]
    for ours, expected in zip(vectors, one_by_one(embedder), strict=True):
        np.testing.assert_allclose(ours, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("layers", "select"),
    [
        ("top", lambda layers: layers[2]),
        ("average", lambda layers: layers.mean(0)),
        # The mix of the fixture weighs all layers alike.
        ("mix", lambda layers: layers.mean(0)),
        (1, lambda layers: layers[1]),
    ],
)
def test_layers_are_chosen_by_name_or_number(embedder, layers, select):
    for ours, expected in zip(embedder.embed(SENTENCES, layers), one_by_one(embedder), strict=True):
        np.testing.assert_allclose(ours, select(expected).numpy(), atol=1e-6)


@pytest.mark.parametrize(("pooling", "reduce"), [("mean", np.mean), ("max", np.max)])
def test_a_pooled_sentence_is_one_vector_and_zeros_without_words(embedder, pooling, reduce):
    pooled = list(embedder.embed(SENTENCES, "top", pooling))
    for ours, words in zip(pooled, embedder.embed(SENTENCES, "top"), strict=True):
        np.testing.assert_allclose(ours, reduce(words, axis=0) if len(words) else np.zeros(12), atol=1e-6)
    assert not pooled[1].any()


def test_kept_boundaries_do_not_count_as_words():
    model = tiny_model(keep_sentence_boundaries=True)
    embedder = ElmoEmbedder(model, ElmoTokenizer())
    for layers in ("mix", "all"):
        assert [value.shape[-2] for value in embedder.embed(SENTENCES, layers)] == WORDS


def test_it_reads_no_further_than_a_window_ahead(embedder, monkeypatch):
    monkeypatch.setattr(elmo_hf.batching, "WINDOW_WORDS", 6)
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield ["one", "two"]

    assert len(list(islice(embedder.embed(endless()), 4))) == 4
    assert read == 6


def test_long_sentences_run_in_smaller_batches(embedder, monkeypatch):
    monkeypatch.setattr(elmo_hf.batching, "BATCH_WORDS", 8)
    sizes = []
    run = embedder._run
    monkeypatch.setattr(embedder, "_run", lambda select, batch: sizes.append(len(batch)) or run(select, batch))
    list(embedder.embed([["word"] * length for length in (9, 3, 8, 2, 2)]))
    assert sizes == [1, 1, 2, 1]


def test_a_saved_model_is_loaded_with_its_tokenizer(embedder, tmp_path):
    embedder.model.save_pretrained(tmp_path)
    ElmoTokenizer(word_splitter="whitespace").save_pretrained(tmp_path)
    loaded = ElmoEmbedder.from_pretrained(tmp_path)
    assert [len(value) for value in loaded.embed(["wasn't it?"])] == [2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": "bottom"}, "`layers` must be one of mix, top, average, sum, all, 0, 1, 2, was: 'bottom'."),
        ({"layers": 3}, "was: 3."),
        ({"layers": True}, "was: True."),
        ({"pooling": "sum"}, "`pooling` must be mean, max or None, was: 'sum'."),
    ],
)
def test_a_wrong_choice_is_named_before_anything_is_read(embedder, arguments, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        embedder.embed(iter([]), **arguments)


def test_a_sentence_that_is_no_list_of_words_is_refused(embedder):
    with pytest.raises(TypeError, match="must be text or a list of words, was: 7"):
        list(embedder.embed([7]))
