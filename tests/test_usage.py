"""What vectors tell of words: types, change between two texts, and the geometry of layers."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from elmo_hf import ElmoEmbedder, ElmoTokenizer
from elmo_hf.corpus_embedding import load_embedder
from elmo_hf.usage import (
    change_between,
    geometry,
    type_vectors,
    uses_of_words,
    words_for_change,
    write_word2vec,
)
from tests.test_cli import run
from tests.tiny import tiny_model

SENTENCES = ["The river bank was muddy .", "His bank had failed .", "They sat by the river .", "The bank failed ."] * 3


@pytest.fixture
def embedder() -> ElmoEmbedder:
    return ElmoEmbedder(tiny_model(), ElmoTokenizer(word_splitter="whitespace"))


def words_and_vectors(embedder: ElmoEmbedder, layers: Any) -> list[tuple[list[str], np.ndarray]]:
    return [
        (text.split(), vectors) for text, vectors in zip(SENTENCES, embedder.embed(SENTENCES, layers), strict=True)
    ]


def test_a_type_is_the_average_of_its_uses(embedder: ElmoEmbedder, tmp_path: Path):
    types = type_vectors(embedder, SENTENCES, "top", min_count=6)
    assert list(types) == [".", "bank", "The", "failed", "river"]
    uses = [
        vectors[place]
        for words, vectors in words_and_vectors(embedder, "top")
        for place, word in enumerate(words)
        if word == "bank"
    ]
    assert types["bank"][0] == len(uses) == 9
    np.testing.assert_allclose(types["bank"][1], np.mean(uses, axis=0), atol=1e-6)
    write_word2vec(types, tmp_path / "types.txt")
    lines = (tmp_path / "types.txt").read_text(encoding="utf-8").splitlines()
    # The header and the lines that gensim's reader asks for.
    assert lines[0] == "5 12"
    assert [line.split(" ")[0] for line in lines[1:]] == list(types)
    np.testing.assert_allclose([float(x) for x in lines[2].split(" ")[1:]], types["bank"][1], rtol=1e-5)


def test_uses_are_drawn_with_equal_chances(embedder: ElmoEmbedder):
    uses = uses_of_words(embedder, SENTENCES, ["bank", "nothing"], "top")
    assert list(uses) == ["bank"]
    assert (len(uses["bank"].vectors), uses["bank"].count) == (9, 9)
    assert uses["bank"].sentences[1] == ["His", "bank", "had", "failed", "."]
    places: Counter[str] = Counter()
    for seed in range(200):
        few = uses_of_words(embedder, SENTENCES[:4], ["bank"], "top", max_uses=1, seed=seed)["bank"]
        places[few.sentences[0][0]] += 1
    # Two of three begin with The.
    assert 100 < places["The"] < 167


def test_the_geometry_is_that_of_a_plain_computation(embedder: ElmoEmbedder):
    found = geometry(embedder, SENTENCES, min_count=3, max_words=500)
    pieces = words_and_vectors(embedder, "all")

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))

    for layer in range(3):
        uses: dict[str, list[np.ndarray]] = {}
        every, in_sentences = [], []
        for words, vectors in pieces:
            of_layer = vectors[layer].astype(np.float64)
            middle = of_layer.mean(0)
            in_sentences.append(np.mean([cosine(vector, middle) for vector in of_layer]))
            every += list(of_layer)
            for word, vector in zip(words, of_layer, strict=True):
                uses.setdefault(word, []).append(vector)
        frequent = [found for found in uses.values() if len(found) >= 3]
        pairs = [
            np.mean([cosine(a, b) for i, a in enumerate(one) for j, b in enumerate(one) if i != j]) for one in frequent
        ]
        components = []
        for one in frequent:
            values = np.linalg.eigvalsh(np.cov(np.array(one).T))
            components.append(values[-1] / values.sum() if values.sum() > 1e-12 else 1.0)
        random_pairs = [cosine(a, b) for i, a in enumerate(every) for j, b in enumerate(every) if i != j]
        assert found[layer].self_similarity == pytest.approx(np.mean(pairs), abs=1e-5)
        assert found[layer].sentence_similarity == pytest.approx(np.mean(in_sentences), abs=1e-5)
        assert found[layer].random_similarity == pytest.approx(np.mean(random_pairs), abs=1e-5)
        if layer:
            # A word without context has no variance.
            assert found[layer].first_component == pytest.approx(np.mean(components), abs=1e-5)
    assert found[0].self_similarity == pytest.approx(1.0, abs=1e-6)


NOUNS = ["river", "bank", "house", "letter", "horse", "king", "garden", "ship", "door", "window"]
FRAMES = {
    0: ["The {} was cold and deep .", "They swam across the {} .", "The boat went down the {} slowly ."],
    1: ["She read the {} aloud .", "He wrote a long {} to her .", "The {} was sealed and sent ."],
    2: ["He rode the {} to town .", "The {} ran and kicked .", "They fed the {} with hay ."],
}


def test_planted_changes_come_first():
    kinds = {word: place % 3 for place, word in enumerate(NOUNS)}
    planted = {"house", "garden", "door"}

    def text(is_new: bool) -> list[str]:
        lines = []
        for word in NOUNS:
            kind = (kinds[word] + (is_new and word in planted)) % 3
            lines += [FRAMES[kind][number % 3].format(word) for number in range(12)]
        return lines

    embedder = load_embedder(device="cpu")
    changes = change_between(*(uses_of_words(embedder, text(is_new), NOUNS) for is_new in (False, True)))
    assert {change.word for change in changes[:3]} == planted
    assert {change.word for change in sorted(changes, key=lambda one: -one.jsd)[:3]} == planted
    assert all(0 <= change.jsd <= 1 for change in changes)
    assert changes[0].counts == (12, 12)


def test_words_to_compare_are_frequent_in_both():
    old, new = Counter(a=9, b=5, c=9, **{"1": 9}), Counter(a=5, b=7, d=9, **{"1": 9})
    assert words_for_change(old, new, 5, 10) == ["a", "b"]
    assert words_for_change(old, new, 5, 1) == ["a"]


def test_the_commands_print_and_write(tmp_path: Path):
    (tmp_path / "old.txt").write_text("\n".join(SENTENCES))
    (tmp_path / "new.txt").write_text("\n".join(SENTENCES[::-1]))
    code, out, err = run("types", tmp_path / "old.txt", tmp_path / "types.txt", "--min-count", "3")
    assert code == 0, err
    assert " words" in out
    code, out, err = run("change", tmp_path / "old.txt", tmp_path / "new.txt", "--min-count", "3", "--sentences")
    assert code == 0, err
    rows = [line.split() for line in out.splitlines() if line and not line.startswith("  ")]
    assert rows[0] == ["word", "apd", "proto", "jsd", "old", "new"]
    assert {row[0] for row in rows[1:]} >= {"bank", "river", "The"}
    assert max(float(row[2]) for row in rows[1:]) < 1e-3
    assert "  - The river bank was muddy ." in out
    code, out, err = run("geometry", tmp_path / "old.txt")
    assert code == 0, err
    assert len(out.splitlines()) == 4
    code, _, err = run("change", tmp_path / "old.txt", tmp_path / "new.txt", "--words", "nothing")
    assert (code, "must share a word that is frequent enough" in err) == (1, True)
    code, _, err = run("types", tmp_path / "old.txt", tmp_path / "t2.txt", "--layers", "all")
    assert (code, "`--layers` must give one vector per word" in err) == (1, True)
