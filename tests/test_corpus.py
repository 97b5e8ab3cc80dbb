"""Text for the training of a biLM: what is read, what is kept on disk, and what a `Trainer` gets of it."""

import gzip
import logging
import pickle
import sys
import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler
from transformers import DataCollatorForTokenClassification, default_data_collator

from elmo_hf import ElmoTokenizer
from elmo_hf.corpus import BilmSentences, BilmWindows, Corpus, build_vocabulary, count_words, write_corpus
from elmo_hf.text_files import read_lines
from tests.tiny import SENTENCES

SHORT = [["a", "b"], ["c"]]
VOCABULARY = ["<S>", "</S>", "<UNK>", "a", "b"]
A, B = 3, 4


def tokenizer_of(vocabulary: Sequence[str] = VOCABULARY) -> ElmoTokenizer:
    tokenizer = ElmoTokenizer()
    tokenizer.word_vocabulary = vocabulary
    return tokenizer


def stream(sentences: Sequence[Sequence[str]], backward: bool = False) -> list[str]:
    """All words of sentences with their boundaries, each sentence reversed if `backward`."""
    with_boundaries = [["<S>", *words, "</S>"] for words in sentences]
    return [word for words in with_boundaries for word in (reversed(words) if backward else words)]


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """24 sentences, 4 of the tiny ones six times, each time with a word of their own."""
    return write_corpus([[*words, str(time)] for time in range(6) for words in SENTENCES], tmp_path / "corpus")


@pytest.fixture
def tokenizer(corpus: Corpus) -> ElmoTokenizer:
    return tokenizer_of(build_vocabulary(count_words(corpus)))


# ---------------------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------------------


def test_lines_come_without_white_space_and_empty_ones_not_at_all(tmp_path: Path):
    (tmp_path / "some").write_bytes(b"\xef\xbb\xbf\n\n  One two \r\n \t \r\nthree\rfour\xc2\x85five\n\nsix")
    (tmp_path / "empty").write_bytes(b"")
    paths = [tmp_path / "some", str(tmp_path / "empty"), tmp_path / "some"]
    assert list(read_lines(paths)) == ["One two", "three", "four\x85five", "six"] * 2
    assert list(read_lines(paths[1])) == []


def test_a_folder_means_its_text_files_in_the_order_of_their_names(tmp_path: Path):
    for name in ("b.txt", "c.md", "a.txt"):
        (tmp_path / name).write_text(f"from {name}", encoding="utf-8")
    (tmp_path / "aa.txt.gz").write_bytes(gzip.compress("aus Zürich\n".encode()))
    (tmp_path / "z.txt").mkdir()
    assert list(read_lines(tmp_path)) == ["from a.txt", "aus Zürich", "from b.txt"]


def test_a_folder_without_txt_means_all_its_files_and_a_pattern_those_that_fit(tmp_path: Path):
    # As the files of the One Billion Word Benchmark are called.
    for name in ("news.en-00002-of-00100", "news.en-00001-of-00100", "other", ".hidden", "odd[1]"):
        (tmp_path / name).write_text(f"from {name}", encoding="utf-8")
    assert list(read_lines(tmp_path / "news.en-*")) == ["from news.en-00001-of-00100", "from news.en-00002-of-00100"]
    # The name of a file that is there is no pattern.
    assert list(read_lines(tmp_path / "odd[1]")) == ["from odd[1]"]
    assert sorted(read_lines(tmp_path)) == [
        "from news.en-00001-of-00100",
        "from news.en-00002-of-00100",
        "from odd[1]",
        "from other",
    ]


def test_a_dash_is_the_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.txt").write_bytes("\ufeffZürich\n\nBern \n".encode())
    with open(tmp_path / "a.txt", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert list(read_lines(["-", tmp_path / "a.txt"])) == ["Zürich", "Bern"] * 2


def test_bytes_that_are_no_utf8_are_replaced_and_reported_once_a_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9\ngood\n\xff \xed\xa0\x80\n" + "café �\n".encode())
    (tmp_path / "b.txt").write_bytes(b"good\n")
    with caplog.at_level(logging.WARNING, logger="elmo_hf"):
        lines = list(read_lines(tmp_path))
    assert lines == ["caf�", "good", b"\xff \xed\xa0\x80".decode(errors="replace"), "café �", "good"]
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{tmp_path / 'a.txt'}: 2 lines are no UTF-8")


def test_missing_files_are_named_before_anything_is_read(tmp_path: Path):
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match=r"none\.txt: must be a text file or a folder of them, was missing"):
        read_lines([tmp_path / "a.txt", tmp_path / "none.txt"])
    with pytest.raises(FileNotFoundError, match="folder: must be a folder with text files, has none"):
        read_lines(tmp_path / "folder")
    with pytest.raises(FileNotFoundError, match="must be a pattern of text files, fits none"):
        read_lines(tmp_path / "b.*")


@pytest.mark.parametrize("damage", [lambda data: data[:-12], lambda data: b"plain text", lambda data: data[:12] * 9])
def test_a_damaged_gzip_file_is_named(damage: Any, tmp_path: Path):
    (tmp_path / "a.gz").write_bytes(damage(gzip.compress(b"some text\n" * 100)))
    with pytest.raises(ValueError, match=r"a\.gz: must be a whole gzip file, was not: "):
        list(read_lines(tmp_path / "a.gz"))


# ---------------------------------------------------------------------------------------------------------------------
# Vocabulary
# ---------------------------------------------------------------------------------------------------------------------


def test_a_vocabulary_is_in_the_order_of_bilm_tf_and_equal_counts_in_that_of_the_words():
    counts = count_words([["b", "z", "a", "<UNK>"], ["z", "a", "b", "<S>", "</S>"], ["z", "é", "Z"]])
    assert counts["z"] == 3
    assert build_vocabulary(counts) == ["<S>", "</S>", "<UNK>", "z", "a", "b", "Z", "é"]
    assert build_vocabulary(counts, min_count=2) == ["<S>", "</S>", "<UNK>", "z", "a", "b"]
    assert build_vocabulary(counts, max_size=5) == ["<S>", "</S>", "<UNK>", "z", "a"]


def test_words_are_counted_as_the_corpus_has_them(tmp_path: Path):
    sentences = [["New York", " x\t", ""], ["x"]]
    assert (
        count_words(sentences)
        == count_words(write_corpus(sentences, tmp_path / "corpus"))
        == {
            "New": 1,
            "York": 1,
            "x": 2,
        }
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_count": 0}, "`min_count` must be at least 1, was: 0"),
        ({"max_size": 3}, "`max_size` must be more than the 3 special words, was: 3"),
        ({"min_count": 3}, "`counts` must have a word that occurs 3 times, `min_count`, has none"),
    ],
)
def test_a_vocabulary_without_words_is_refused(options: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        build_vocabulary({"<S>": 9, "a": 2}, **options)


# ---------------------------------------------------------------------------------------------------------------------
# The corpus on disk
# ---------------------------------------------------------------------------------------------------------------------


def test_a_corpus_gives_its_sentences_back(corpus: Corpus):
    assert len(corpus) == 24
    assert list(corpus) == [[*words, str(time)] for time in range(6) for words in SENTENCES]
    assert corpus[-1] == [*SENTENCES[-1], "5"]
    assert corpus.num_words == sum(map(len, corpus)) == corpus.lengths.sum()
    assert corpus.num_positions == corpus.num_words + 2 * 24
    with pytest.raises(IndexError):
        corpus[24]


def test_the_files_are_a_sentence_a_line_and_where_each_begins(tmp_path: Path):
    counts: list[int] = []
    write_corpus(
        [["é", "b"], [], ["two words", "\x1c"], [" "], ["\ud800"]], tmp_path / "deep" / "corpus", counts.append
    )
    assert counts == [1, 2, 3]
    folder = tmp_path / "deep" / "corpus"
    assert (folder / "sentences.txt").read_bytes() == "é b\ntwo words\n?\n".encode()
    assert np.load(folder / "index.npy").tolist() == [[0, 0], [5, 4], [15, 8], [17, 11]]
    assert {path.name for path in tmp_path.rglob("*")} == {"deep", "corpus", "sentences.txt", "index.npy"}


def test_a_corpus_is_there_as_a_whole_or_not_at_all(tmp_path: Path):
    def broken() -> Iterator[list[str]]:
        yield ["a"]
        raise KeyboardInterrupt

    for sentences, error, message in (
        (broken(), KeyboardInterrupt, None),
        ([[], [" "]], ValueError, "a corpus must have at least one word, was given none"),
        (["a b"], TypeError, "A sentence must be a list of words, was: 'a b'"),
        ([["a", 1]], TypeError, r"A sentence must be a list of words of type `str`, was: \['a', 1\]"),
    ):
        with pytest.raises(error, match=message):
            write_corpus(sentences, tmp_path / "corpus")
        assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(FileExistsError, match="must be a new or empty folder, was there already"):
            write_corpus(SHORT, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    (tmp_path / "empty").mkdir()
    assert list(write_corpus(SHORT, tmp_path / "empty")) == SHORT


def test_the_stream_has_boundaries_and_sentences_reversed_in_place(tmp_path: Path):
    corpus = write_corpus(SHORT, tmp_path / "corpus")
    assert corpus.positions(0, 7) == ["<S>", "a", "b", "</S>", "<S>", "c", "</S>"]
    assert corpus.positions(0, 7, backward=True) == ["</S>", "b", "a", "<S>", "</S>", "c", "<S>"]
    assert corpus.positions(3, 5) == ["</S>", "<S>"]
    assert corpus.positions(7, 7) == []
    for start, stop in ((-1, 2), (3, 2), (0, 8)):
        with pytest.raises(ValueError, match=f"within the 7 positions, were: {start} and {stop}"):
            corpus.positions(start, stop)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_positions_are_a_slice_of_all_sentences_in_a_row(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
):
    word = st.text("ab é\u3000\x85\n東\ud800", max_size=4)
    sentences = data.draw(st.lists(st.lists(word, max_size=5), max_size=6))
    kept = [" ".join(words).replace("\ud800", "?").split() for words in [["w"], *sentences]]
    kept = [words for words in kept if words]
    corpus = write_corpus([["w"], *sentences], tmp_path_factory.mktemp("corpus"))
    assert list(corpus) == kept
    start = data.draw(st.integers(0, corpus.num_positions))
    stop = data.draw(st.integers(start, corpus.num_positions))
    for backward in (False, True):
        assert len(stream(kept)) == corpus.num_positions
        assert corpus.positions(start, stop, backward) == stream(kept, backward)[start:stop]


def test_a_pickle_of_a_corpus_is_its_path(corpus: Corpus):
    data = pickle.dumps(corpus)
    assert len(data) < 500
    assert list(pickle.loads(data)) == list(corpus)


def test_any_stream_of_datasets_can_be_written(tmp_path: Path):
    tokenizer = ElmoTokenizer()
    texts = datasets.Dataset.from_list([{"text": "It's muddy."}, {"text": ""}, {"text": "Yes"}])
    for number, rows in enumerate((texts, texts.to_iterable_dataset())):
        corpus = write_corpus((tokenizer.tokenize(row["text"]) for row in rows), tmp_path / str(number))
        assert list(corpus) == [["It", "'s", "muddy", "."], ["Yes"]]
    words = datasets.Dataset.from_list([{"tokens": words} for words in SENTENCES])
    assert list(write_corpus(words["tokens"], tmp_path / "words")) == SENTENCES


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("index.npy", b"", "index.npy: could not be read"),
        ("index.npy", b"no array at all, but longer than a header is", "index.npy: could not be read"),
        ("index.npy", lambda data: data[:-8], "index.npy: could not be read"),
        ("index.npy", np.zeros((3, 2)), r"must be int64 \(sentences \+ 1, 2\), was: float64 \(3, 2\)"),
        ("index.npy", np.zeros(6, np.int64), r"must be int64 \(sentences \+ 1, 2\), was: int64 \(6,\)"),
        ("index.npy", np.zeros((1, 2), np.int64), r"must go from \(0, 0\) to the end of sentences.txt at byte 6"),
        ("index.npy", np.array([[0, 1], [6, 7]]), r"must go from \(0, 0\) to the end of sentences.txt at byte 6"),
        ("sentences.txt", lambda data: data[:-1], r"must go from \(0, 0\) to the end of sentences.txt at byte 5"),
        ("sentences.txt", b"", r"must go from \(0, 0\) to the end of sentences.txt at byte 0"),
    ],
)
def test_damaged_files_are_named(name: str, data: Any, message: str, tmp_path: Path):
    write_corpus(SHORT, tmp_path / "corpus")
    path = tmp_path / "corpus" / name
    if isinstance(data, np.ndarray):
        np.save(path, data)
    else:
        path.write_bytes(data if isinstance(data, bytes) else data(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        Corpus(tmp_path / "corpus")


def test_an_index_of_another_text_is_noticed_at_the_sentence(tmp_path: Path):
    corpus = write_corpus(SHORT, tmp_path / "corpus")
    np.save(tmp_path / "corpus" / "index.npy", np.array([[0, 0], [2, 4], [6, 7]]))
    with pytest.raises(ValueError, match=r"must have 1 \+ 2 positions for sentence 0, has: 4. Write the corpus again"):
        Corpus(corpus.folder)[0]


def test_a_missing_file_is_named(tmp_path: Path):
    write_corpus(SHORT, tmp_path / "corpus")
    (tmp_path / "corpus" / "index.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"index\.npy: must be a file of a corpus, was missing"):
        Corpus(tmp_path / "corpus")


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path):
    def peak(number: int) -> int:
        path = tmp_path / f"{number}.txt"
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(f"{index} a line of about forty characters each\n" for index in range(number))
        tracemalloc.start()
        corpus = write_corpus(map(str.split, read_lines(path)), tmp_path / str(number))
        windows = BilmWindows(corpus, tokenizer, rows=2)
        for index in range(len(windows) - 9, len(windows)):
            windows[index]
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    tokenizer = tokenizer_of()
    peak(100)
    few, many = peak(1_000), peak(20_000)
    # The text of the second is larger by 900 kB, its index by 300 kB.
    assert many - few < 50_000


# ---------------------------------------------------------------------------------------------------------------------
# Windows
# ---------------------------------------------------------------------------------------------------------------------


def test_inputs_and_labels_of_windows_are_those_made_by_hand(tmp_path: Path):
    tokenizer = tokenizer_of()
    windows = BilmWindows(write_corpus(SHORT, tmp_path / "corpus"), tokenizer, rows=1, unroll_steps=3)
    assert len(windows) == 2
    expected = [
        (["<S>", "a", "b"], [A, B, 1], ["</S>", "b", "a"], [B, A, 0]),
        (["</S>", "<S>", "c"], [-100, 2, 1], ["<S>", "</S>", "c"], [-100, 2, 0]),
    ]
    for item, (words, labels, backward_words, backward_labels) in zip(windows, expected, strict=True):
        assert tokenizer.convert_ids_to_tokens(item["input_ids"]) == words
        assert tokenizer.convert_ids_to_tokens(item["backward_input_ids"]) == backward_words
        assert item["labels"].tolist() == labels
        assert item["backward_labels"].tolist() == backward_labels
        assert {value.dtype for value in item.values()} == {torch.int64}


def test_windows_of_bilm_tf_read_no_boundary_that_is_predicted_last(tmp_path: Path):
    tokenizer = tokenizer_of()
    corpus = write_corpus(SHORT, tmp_path / "corpus")
    item = BilmWindows(corpus, tokenizer, rows=1, unroll_steps=5, read_last_boundary=False)[0]
    assert tokenizer.convert_ids_to_tokens(item["input_ids"]) == ["<S>", "a", "b", "<S>", "c"]
    assert tokenizer.convert_ids_to_tokens(item["backward_input_ids"]) == ["</S>", "b", "a", "</S>", "c"]
    assert item["labels"].tolist() == [A, B, 1, 2, 1]
    assert item["backward_labels"].tolist() == [B, A, 0, 2, 0]


@pytest.mark.parametrize(("rows", "unroll_steps"), [(1, 1), (1, 20), (3, 7), (4, 5)])
def test_windows_of_bilm_tf_tile_its_stream(rows: int, unroll_steps: int, corpus: Corpus, tokenizer: ElmoTokenizer):
    windows = BilmWindows(corpus, tokenizer, rows, unroll_steps, read_last_boundary=False)
    for prefix, step in (("", 1), ("backward_", -1)):
        sentences = [["<S>", *words, "</S>"][::step] for words in corpus]
        read = [word for sentence in sentences for word in sentence[:-1]]
        followed = [word for sentence in sentences for word in sentence[1:]]
        order = [index * rows + row for row in range(rows) for index in range(len(windows) // rows)]
        items = [windows[index] for index in order]
        length = len(windows) * unroll_steps
        found = [token for item in items for token in tokenizer.convert_ids_to_tokens(item[f"{prefix}input_ids"])]
        assert found == read[:length]
        labels = [label for item in items for label in item[f"{prefix}labels"].tolist()]
        assert labels == tokenizer.words_to_labels(followed[:length]).tolist()
        assert len(read) - length < rows * unroll_steps


def test_nothing_is_to_be_predicted_after_the_last_sentence(tmp_path: Path):
    corpus = write_corpus(SHORT, tmp_path / "corpus")
    item = BilmWindows(corpus, tokenizer_of(), rows=1, unroll_steps=7)[0]
    assert item["labels"].tolist() == [A, B, 1, -100, 2, 1, -100]
    assert item["backward_labels"].tolist() == [B, A, 0, -100, 2, 0, -100]


def test_boundaries_have_the_character_ids_that_the_model_gives_them(tmp_path: Path):
    item = BilmWindows(write_corpus(SHORT, tmp_path / "corpus"), tokenizer_of(), rows=1, unroll_steps=7)[0]
    begin, end = [259, 257, 260] + [261] * 47, [259, 258, 260] + [261] * 47
    assert item["input_ids"][[0, 3]].tolist() == item["backward_input_ids"][[3, 0]].tolist() == [begin, end]


@pytest.mark.parametrize(("rows", "unroll_steps"), [(1, 1), (1, 20), (3, 7), (4, 5), (9, 20)])
def test_the_windows_of_a_row_continue_each_other_and_tile_the_stream(
    rows: int, unroll_steps: int, corpus: Corpus, tokenizer: ElmoTokenizer
):
    windows = BilmWindows(corpus, tokenizer, rows, unroll_steps)
    batches = list(DataLoader(windows, batch_size=rows, collate_fn=default_data_collator))
    steps = corpus.num_positions // (rows * unroll_steps)
    assert len(batches) == steps
    for backward, prefix in ((False, ""), (True, "backward_")):
        # (rows, steps * unroll_steps, ...)
        ids = torch.cat([batch[f"{prefix}input_ids"] for batch in batches], dim=1)
        labels = torch.cat([batch[f"{prefix}labels"] for batch in batches], dim=1)
        read = [word for row in ids for word in tokenizer.convert_ids_to_tokens(row)]
        words = stream(list(corpus), backward)
        assert read == words[: rows * steps * unroll_steps]
        following = tokenizer.words_to_labels([*words[1:], ""])[: len(read)]
        opening = tokenizer.words_to_labels(["</S>" if backward else "<S>"])
        following[np.isin(following, opening)] = -100
        following[len(words) - 1 :] = -100
        assert labels.flatten().tolist() == following.tolist()
    assert corpus.num_positions - len(windows) * unroll_steps < rows * unroll_steps


def test_a_batch_fetched_at_once_is_its_items_one_by_one(corpus: Corpus, tokenizer: ElmoTokenizer):
    windows = BilmWindows(corpus, tokenizer, rows=3, unroll_steps=4)
    indices = [5, 0, 5, len(windows) - 1, -1]
    for item, index in zip(windows.__getitems__(indices), indices, strict=True):
        torch.testing.assert_close(item, windows[index])
    for index in (len(windows), -len(windows) - 1):
        with pytest.raises(IndexError):
            windows[index]


# The library has threads of its own, and a machine may have a single processor.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:This DataLoader will create:UserWarning")
def test_two_workers_fetch_the_same_batches(corpus: Corpus, tokenizer: ElmoTokenizer):
    windows = BilmWindows(corpus, tokenizer, rows=4, unroll_steps=6)
    options: dict[str, Any] = {"batch_size": 4, "collate_fn": default_data_collator}
    alone = list(DataLoader(windows, **options))
    shared = list(DataLoader(windows, num_workers=2, multiprocessing_context="fork", **options))
    assert len(alone) > 4
    torch.testing.assert_close(shared, alone, rtol=0, atol=0)
    torch.testing.assert_close(pickle.loads(pickle.dumps(windows))[3], windows[3], rtol=0, atol=0)


def test_two_processes_that_take_turns_have_rows_of_their_own(corpus: Corpus, tokenizer: ElmoTokenizer):
    windows = BilmWindows(corpus, tokenizer, rows=4, unroll_steps=5)
    words = stream(list(corpus))
    part = windows.windows_per_row * 5
    for process in range(2):
        batches = BatchSamplerShard(BatchSampler(SequentialSampler(windows), 2, drop_last=False), 2, process)
        loader = DataLoader(windows, batch_sampler=batches, collate_fn=default_data_collator)
        ids = torch.cat([batch["input_ids"] for batch in loader], dim=1)
        for row in range(2):
            begin = (2 * process + row) * part
            assert tokenizer.convert_ids_to_tokens(ids[row]) == words[begin : begin + part]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rows": 0}, "`rows` must be at least 1, was: 0"),
        ({"rows": 1, "unroll_steps": 0}, "`unroll_steps` must be at least 1, was: 0"),
        (
            {"rows": 4, "unroll_steps": 2},
            "`rows` must be at most 3 for the 7 positions of .*corpus in windows of 2, was: 4",
        ),
    ],
)
def test_too_many_rows_are_refused_with_the_number_that_fits(options: dict[str, int], message: str, tmp_path: Path):
    corpus = write_corpus(SHORT, tmp_path / "corpus")
    with pytest.raises(ValueError, match=message):
        BilmWindows(corpus, tokenizer_of(), **options)
    assert len(BilmWindows(corpus, tokenizer_of(), rows=3, unroll_steps=2)) == 3


# ---------------------------------------------------------------------------------------------------------------------
# Sentences
# ---------------------------------------------------------------------------------------------------------------------


def test_sentences_have_the_labels_of_their_own_words(tmp_path: Path):
    tokenizer = tokenizer_of()
    sentences = BilmSentences(write_corpus(SHORT, tmp_path / "corpus"), tokenizer)
    assert [item["labels"].tolist() for item in sentences] == [[A, B], [2]]
    assert [tokenizer.convert_ids_to_tokens(item["input_ids"]) for item in sentences] == SHORT


def test_a_batch_of_sentences_is_padded(tmp_path: Path):
    tokenizer = tokenizer_of()
    sentences = BilmSentences(write_corpus(SHORT, tmp_path / "corpus"), tokenizer)
    (batch,) = DataLoader(sentences, batch_size=2, collate_fn=DataCollatorForTokenClassification(tokenizer))
    assert batch["labels"].tolist() == [[A, B], [2, -100]]
    assert batch["input_ids"].shape == (2, 2, 50)
    assert not batch["input_ids"][1, 1].any()
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize("max_words", [1, 2, 3, 5, 100])
def test_long_sentences_are_cut_into_pieces(max_words: int, corpus: Corpus, tokenizer: ElmoTokenizer):
    pieces = BilmSentences(corpus, tokenizer, max_words)
    expected = [words[begin : begin + max_words] for words in corpus for begin in range(0, len(words), max_words)]
    assert [tokenizer.convert_ids_to_tokens(item["input_ids"]) for item in pieces] == expected
    assert len(pieces) == len(expected)


def test_pieces_without_a_word_are_refused(corpus: Corpus, tokenizer: ElmoTokenizer):
    with pytest.raises(ValueError, match="`max_words` must be at least 1 or None, was: 0"):
        BilmSentences(corpus, tokenizer, 0)
