"""`benchmarks/word_senses.py`: the sentences and what is counted; `examples/word_senses.py`: what is shown."""

import sys
from collections import Counter

import numpy as np
import pytest

from benchmarks import word_senses
from benchmarks.word_senses import Item, accuracy, centroid_scores, neighbour_scores, read_items, word_vectors
from elmo_hf import ElmoEmbedder, ElmoTokenizer
from examples import word_senses as senses
from tests.tiny import tiny_model


@pytest.fixture
def model_dir(tmp_path) -> str:
    tiny_model().save_pretrained(tmp_path)
    ElmoTokenizer().save_pretrained(tmp_path)
    return str(tmp_path)


def items_of(senses: str, word: str = "bank") -> list[Item]:
    return [Item(word, sense, [word]) for sense in senses]


def directions(*degrees: float) -> np.ndarray:
    """(vectors, 2) of unit length, so that cosines are those of the angles between them."""
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)


def test_each_word_has_two_senses_of_six_sentences_and_occurs_once_in_each():
    items = read_items()
    assert all(item.sentence.count(item.word) == 1 for item in items)
    assert len({tuple(item.sentence) for item in items}) == len(items) == 264
    assert set(Counter((item.word, item.sense) for item in items).values()) == {6}
    assert set(Counter(item.word for item in items).values()) == {12}


def test_sentences_are_split_as_the_tokenizer_splits_text():
    tokenizer = ElmoTokenizer()
    for item in read_items():
        assert tokenizer.tokenize(" ".join(item.sentence).replace(" '", "'")) == item.sentence


def test_an_item_is_right_when_its_nearest_neighbour_has_its_sense():
    # 0° and 10° are each other's nearest, 80° and 100° as well; 30° has another sense than 10°.
    scores = neighbour_scores(directions(0, 10, 30, 80, 100), items_of("aabbb"))
    assert scores.tolist() == [1, 1, 0, 1, 1]


def test_neighbours_of_other_words_do_not_count():
    items = [*items_of("ab"), *items_of("aa", word="spring")]
    assert neighbour_scores(directions(0, 80, 1, 81), items).tolist() == [0, 0, 1, 1]


def test_equally_near_neighbours_count_by_the_share_with_the_right_sense():
    # All alike, the other two are never nearer than the next one.
    assert neighbour_scores(np.ones((4, 1)), items_of("aaab")).tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 0])
    # 0° stands between -20° and 20°; the rounding of float32 makes no winner.
    scores = neighbour_scores(directions(0, -20, 20.00001, 90), items_of("aabb"))
    assert scores.tolist() == pytest.approx([0.5, 1, 0, 1])


def test_means_of_senses_leave_the_item_out():
    # 50° is nearer to the others' mean, 95°, than to 0°; with itself in the mean, 25°, it would be nearer to its own.
    assert centroid_scores(directions(0, 50, 90, 100), items_of("aabb")).tolist() == [1, 0, 1, 1]
    assert centroid_scores(directions(0, 0, 0, 0), items_of("aabb")).tolist() == [0.5, 0.5, 0.5, 0.5]


def test_layer_0_is_no_better_than_chance():
    # 5 of 11 neighbours have the same sense.
    model, tokenizer, items = tiny_model(), ElmoTokenizer(), read_items()
    assert accuracy(model, tokenizer, items, 0) == pytest.approx(5 / 11, abs=1e-9)
    assert accuracy(model, tokenizer, items, 1) != pytest.approx(5 / 11, abs=1e-2)
    assert centroid_scores(word_vectors(model, tokenizer, items, 0), items) == pytest.approx(0.5)


def test_the_script_prints_every_layer_and_word(model_dir, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["word_senses.py", model_dir])
    word_senses.main()
    rows = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert rows[:2] == [["chance", "45.5%", "50.0%"], ["layer", "0", "45.5%", "50.0%"]]
    assert [row[0] for row in rows[2:5]] == ["layer", "layer", "average"]
    assert [row[:3] for row in rows[5:7]] == [["bank", "river,", "money"], ["company", "firm,", "society"]]
    assert len(rows) == 5 + 22


def test_nearest_contexts_are_other_sentences_with_the_word_in_the_order_of_their_cosines():
    embedder = ElmoEmbedder(tiny_model(), ElmoTokenizer())
    query, other, third = ["the", "bank", "of", "mud"], ["a", "bank", "failed"], ["of", "the", "bank", "."]
    found = senses.nearest_contexts(embedder, [other, query, ["the", "mud"], third], query, "bank", layer=1, number=5)
    assert sorted(sentence for _, sentence in found) == [other, third]
    vectors = [words[s.index("bank")] for s in (query, *(s for _, s in found)) for words in embedder.embed([s], 1)]
    expected = [vectors[0] @ v / np.linalg.norm(vectors[0]) / np.linalg.norm(v) for v in vectors[1:]]
    assert [cosine for cosine, _ in found] == pytest.approx(sorted(expected, reverse=True), abs=1e-6)


def test_long_sentences_are_cut_around_the_word():
    sentence = ["one", "two", "three", "bank", "five", "six"]
    assert senses.highlighted(sentence, "bank", width=2).plain == "… two three bank five six"
    assert senses.highlighted(sentence[2:], "bank", width=1).plain == "three bank five …"


def test_the_example_shows_neighbours_of_each_query(model_dir, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["word_senses.py", model_dir])
    senses.main()
    printed = capsys.readouterr().out
    assert all(text.removesuffix(".") in printed for _, text in senses.QUERIES)
    assert printed.count("│ layer 0") == len(senses.QUERIES)
    assert printed.count("│ layer 2") == 3 * len(senses.QUERIES)


def test_the_example_asks_for_a_sentence_with_the_word(model_dir, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["word_senses.py", model_dir, "--word", "bank", "--query", "The river rose."])
    with pytest.raises(SystemExit):
        senses.main()
    assert "--query must have the word 'bank', does not." in capsys.readouterr().err
