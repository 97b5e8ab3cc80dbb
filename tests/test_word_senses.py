"""`benchmarks/word_senses.py`: the labelled sentences, and what is counted, on vectors made by hand."""

import sys
from collections import Counter

import numpy as np
import pytest

from benchmarks import word_senses
from benchmarks.word_senses import Item, accuracy, centroid_scores, neighbour_scores, read_items, word_vectors
from elmo_hf import ElmoTokenizer
from tests.tiny import tiny_model


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
    # Nearest of 0° is 10°, of 10° and 30° too each other or 0°; 80° is nearest to 100° and the other way round.
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


def test_the_script_prints_every_layer_and_word(tmp_path, monkeypatch, capsys):
    tiny_model().save_pretrained(tmp_path)
    ElmoTokenizer().save_pretrained(tmp_path)
    monkeypatch.setattr(sys, "argv", ["word_senses.py", str(tmp_path)])
    word_senses.main()
    rows = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert rows[:2] == [["chance", "45.5%", "50.0%"], ["layer", "0", "45.5%", "50.0%"]]
    assert [row[0] for row in rows[2:5]] == ["layer", "layer", "average"]
    assert [row[:3] for row in rows[5:7]] == [["bank", "river,", "money"], ["company", "firm,", "society"]]
    assert len(rows) == 5 + 22
