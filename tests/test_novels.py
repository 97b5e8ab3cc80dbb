"""`examples/novels.py`: novels out of their archive, one form of quotes and dashes, one sentence per line."""

# ruff: noqa: RUF001 (quotes and dashes of the books)

import io
import sys
import tarfile
from pathlib import Path

import pytest

from examples import novels
from examples.novels import HELD_OUT, normalise, read_novels, read_titles, split_sentences


@pytest.fixture
def archive(tmp_path) -> Path:
    """Held-out novels of one line each, and one for training."""
    texts = {f"{name}.txt": f"Begins {name}. Ends.\n" for name in HELD_OUT}
    texts["ENG18652_Carroll.txt"] = "CHAPTER I.\n* * *\n\n‘Oh!’ said Alice. Then she fell——down.\n"
    works = [
        "file\ttitle\tauthor",
        *(f"{name}\tA Title : ELTec edition\tSurname, Given (1800-1880)" for name in texts),
    ]
    texts["WORKS.tsv"] = "\n".join(works)
    path = tmp_path / "novels.tar.xz"
    with tarfile.open(path, "w:xz") as members:
        for name, text in texts.items():
            content = text.encode()
            member = tarfile.TarInfo(f"eltec-eng/{name}")
            member.size = len(content)
            members.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    "sentences",
    [
        ["It rained.", "We stayed at home!", "Why not?", "Nobody came."],
        ['"Oh!" said he.', '"You are late."', "She sat down."],
        ['"Are you there?" Mary asked.', '"What?" I cried.', '"No!" Mr. May said.', '"Never!"', "He left."],
        ['"But I thought—"', "He stopped.", '"But I thought—" Mary began.'],
        ["'It is late,' he said.", "'Come.'", "'Tis time."],
        ["Mr. and Mrs. Bates met Dr. Grant of St. Mary's.", "They bowed.", "MR. BATES TURNS."],
        ["John Reed, Esq. Magistrate, wrote to the Rev. J. B. Cole.", "No answer came."],
        ["No.", "He would not.", "It was I.", "You knew."],
        ["He bowed (she did not.)", "(Nobody saw.)", "Etc."],
        ["He waited... and waited...", "The door opened."],
        ["Élodie came.", "Émile went.", '"Ah!"', "Éva wept."],
        ["the end of a line without a full stop"],
    ],
)
def test_sentences_end_where_a_reader_stops(sentences):
    assert split_sentences(" ".join(sentences)) == sentences


def test_nothing_has_no_sentences():
    assert split_sentences(" ") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("“Don’t,” said he, ‘you—you!’", "\"Don't,\" said he, 'you—you!'"),
        ("`Well,´ he said -- 1801——a well-known year", "'Well,' he said — 1801—a well-known year"),
        ("Mrs. R―― of C____", "Mrs. R— of C—"),
        ("He … paused . . . . and _went_ .", "He ... paused ... and went."),
        ("mis\xadtake, far‐off, sky‑line,\xa0600*l.* a year ", "mistake, far-off, sky-line, 600l. a year"),
    ],
)
def test_quotes_dashes_and_ellipses_have_one_form(text, expected):
    assert normalise(text) == expected


def test_paragraphs_without_a_letter_are_left_out(archive):
    paragraphs = read_novels(archive)["ENG18652_Carroll"]
    assert paragraphs == ["CHAPTER I.", "'Oh!' said Alice. Then she fell—down."]


def test_titles_have_the_names_of_the_novels(archive):
    titles = read_titles(archive)
    assert set(titles) == set(read_novels(archive))
    assert titles["ENG18652_Carroll"] == "1865 Surname, Given: A Title"


def test_a_missing_held_out_novel_is_named(archive, monkeypatch):
    monkeypatch.setattr(novels, "HELD_OUT", (*HELD_OUT, "ENG18511_Nobody"))
    with pytest.raises(ValueError, match="ENG18511_Nobody"):
        read_novels(archive)


def test_the_script_writes_a_sentence_a_line_and_keeps_the_held_out_novels_apart(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["novels.py", str(archive), str(tmp_path / "out")])
    novels.main()
    written = {str(path.relative_to(tmp_path / "out")): path for path in (tmp_path / "out").rglob("*.txt")}
    assert set(written) == {"train/ENG18652_Carroll.txt", *(f"held_out/{name}.txt" for name in HELD_OUT)}
    text = written["train/ENG18652_Carroll.txt"].read_text(encoding="utf-8")
    assert text == "CHAPTER I.\n'Oh!' said Alice.\nThen she fell—down.\n"
