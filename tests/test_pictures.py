"""Pictures of the uses of a word and of the neighbors of a sentence, and what they draw."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from elmo_hf import ElmoEmbedder, ElmoTokenizer
from elmo_hf.corpus_embedding import load_embedder
from elmo_hf.pictures import draw_sentence, draw_word
from elmo_hf.usage import Uses, clusters_of, neighbors_in_context, uses_of_words
from tests.test_cli import run
from tests.tiny import tiny_model

RIVER = ["The {} of the river was muddy .", "They sat on the {} of the stream .", "The water rose over the {} ."]
MONEY = ["The {} lent him the money .", "He owed the {} a thousand pounds .", "She put her savings into the {} ."]
TEXT = [frame.format("bank") for frame in (RIVER + MONEY) * 2] + ["It costs $5 and $6 .", "Nothing else ."]


@pytest.fixture(scope="module")
def embedder() -> ElmoEmbedder:
    return load_embedder(device="cpu")


def two_groups(first: int, second: int) -> Uses:
    draw = np.random.default_rng(0)
    vectors = np.concatenate([draw.normal(size=(first, 4)) * 0.1 + 1, draw.normal(size=(second, 4)) * 0.1 - 1])
    number = first + second
    return Uses(vectors, [["a", "$x$", "b"]] * number, [1] * number, number + 5)


def test_clusters_are_the_groups_that_are_there():
    uses = two_groups(5, 9)
    large, small = clusters_of(uses)
    assert (set(small), set(large)) == (set(range(5)), set(range(5, 14)))
    # The most typical first.
    unit = uses.vectors / np.linalg.norm(uses.vectors, axis=1, keepdims=True)
    nearness = unit[large] @ unit[large].mean(0)
    assert list(nearness) == sorted(nearness, reverse=True)
    assert [len(cluster) for cluster in clusters_of(uses, 1)] == [14]
    assert sorted(use for cluster in clusters_of(uses, 4) for use in cluster) == list(range(14))
    same = Uses(np.ones((3, 4)), [["a"]] * 3, [0] * 3, 3)
    assert clusters_of(same) == [[0, 1, 2]]
    assert clusters_of(same, 3) == [[0, 1, 2]]
    assert clusters_of(Uses(np.ones((1, 4)), [["a"]], [0], 1)) == [[0]]


def test_neighbors_are_the_most_similar_uses_in_other_sentences():
    embedder = ElmoEmbedder(tiny_model(), ElmoTokenizer(word_splitter="whitespace"))
    words, nearest = neighbors_in_context(embedder, TEXT[0], TEXT, "top", number=3)
    assert words == TEXT[0].split()
    assert [len(found) for found in nearest] == [3] * len(words)
    (mine,) = embedder.embed([TEXT[0]], "top")
    others = sorted(set(TEXT) - {TEXT[0]}, key=TEXT.index)
    for vector, found in zip(mine, nearest, strict=True):
        best = []
        for other, vectors in zip(others, embedder.embed(others, "top"), strict=True):
            cosines = vectors @ vector / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vector)
            best.append((cosines.max(), other.split(), cosines.argmax()))
        best.sort(key=lambda one: -one[0])
        for neighbor, (similarity, sentence, place) in zip(found, best, strict=False):
            assert neighbor.similarity == pytest.approx(similarity, abs=1e-5)
            assert (neighbor.sentence, neighbor.place) == (sentence, place)
            assert neighbor.word == sentence[place]


def test_a_use_knows_its_place(embedder: ElmoEmbedder):
    uses = uses_of_words(embedder, TEXT, ["bank"])["bank"]
    assert [sentence[place] for sentence, place in zip(uses.sentences, uses.places, strict=True)] == ["bank"] * 12


def words_in(svg: Path) -> str:
    """What matplotlib writes in comments beside the shapes of letters."""
    return "\n".join(re.findall(r"<!-- (.*?) -->", svg.read_text(encoding="utf-8")))


def test_a_word_is_drawn_with_its_sentences(tmp_path: Path):
    uses = two_groups(5, 9)
    for number in (1, 2):
        draw_word("$x$", uses, clusters_of(uses), tmp_path / f"{number}.svg")
    text = words_in(tmp_path / "1.svg")
    for expected in ("14 of 19 uses of “$x$”", "9 uses", "5 uses", "$x$", "of the variance"):
        assert expected in text
    # The same numbers are the same picture.
    content = [(tmp_path / f"{number}.svg").read_text(encoding="utf-8") for number in (1, 2)]
    assert content[0].count('xlink:href="#') == content[1].count('xlink:href="#') > 14
    with pytest.raises(ValueError, match="`clusters` must be at most 6 to be told apart, were: 7"):
        draw_word("x", uses, [[0]] * 7, tmp_path / "3.png")
    draw_word("x", Uses(np.ones((1, 4)), [["x"]], [0], 1), [[0]], tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_a_sentence_is_drawn_above_its_neighbors(embedder: ElmoEmbedder, tmp_path: Path):
    sentence = "He sat on the bank of the brook ."
    draw_sentence(*neighbors_in_context(embedder, sentence, TEXT, number=2), tmp_path / "out.svg")
    text = words_in(tmp_path / "out.svg")
    for word in [*sentence.split(), "stream"]:
        assert word in text
    assert re.search(r"0\.\d\d", text)
    # No text, no neighbors, but a picture.
    draw_sentence(*neighbors_in_context(embedder, sentence, []), tmp_path / "none.pdf")
    with pytest.raises(ValueError, match="`words` must be a sentence, was empty"):
        draw_sentence([], [], tmp_path / "empty.png")


def test_the_command_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("\n".join(TEXT))
    code, out, err = run("show", "bank", "--text", "text.txt")
    assert (code, out) == (0, "bank.png\n"), err
    code, out, err = run("show", "He sat on the bank.", "--text", "text.txt", "--output", "new/sentence.svg")
    assert code == 0, err
    assert "stream" in words_in(Path("new/sentence.svg"))
    for arguments, message in (
        (
            ["bank", "--text", "text.txt"],
            "bank.png: must be a new file, was there already. `--overwrite` replaces it.",
        ),
        (["zebra", "--text", "text.txt"], "`WORD` must be in the text as it is written here, was not: zebra."),
        ([" ", "--text", "text.txt"], "`WORD_OR_SENTENCE` must have a word, was empty."),
        (["it", "--text", "text.txt", "--output", "it.gif"], "it.gif: must end in .png, .svg, .pdf"),
        (["it", "--text", "none.txt"], "none.txt: must be a file, was missing."),
        (["bank", "--text", "text.txt", "--output", "b.png", "--layers", "all"], "`--layers` must give one vector"),
    ):
        code, _, err = run("show", *arguments)
        assert (code, message in err.splitlines()[-1]) == (1, True), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank.png", "new", "text.txt"]


def test_what_is_not_installed_is_told_before_the_text_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "text.txt").write_text("\n".join(TEXT))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = run("show", "bank", "--text", tmp_path / "text.txt", "--output", tmp_path / "a.png")
    assert (code, err.splitlines()[-1]) == (
        1,
        "elmo-hf: Pictures need matplotlib: pip install 'elmo-hf[corpus]'.",
    )
