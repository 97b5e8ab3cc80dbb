"""`examples/pretrain_english.py`: from archives over numbers to a model, on the CPU and in small."""

import csv
import dataclasses
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoTokenizer
from elmo_hf.corpus import BilmWindows, write_corpus
from elmo_hf.scoring import perplexity
from examples import english_text, graph_training, packed_text, pretrain_english
from examples.glove import learn_vectors
from examples.novels import HELD_OUT

SENTENCES = {
    "novels": ["The river ran by the old house .", "She read a book .", "No !"] * 12,
    "speeches": ["We thank the President of the Assembly for the peace of the world .", "The peace is old ."] * 15,
}


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    for kind in ("train", "check"):
        for source, sentences in SENTENCES.items():
            folder = tmp_path / "text" / kind / source
            folder.mkdir(parents=True)
            (folder / "one.txt").write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8")
    packed_text.pack(tmp_path / "text", tmp_path / "packed")
    return tmp_path / "packed"


def test_packed_text_holds_the_sentences(packed: Path):
    words = packed_text.read_words(packed)
    assert words[:3] == ["<S>", "</S>", "<UNK>"]
    for source, sentences in SENTENCES.items():
        numbers = packed_text.read_numbers(packed / "train" / f"{source}.xz")
        text = " ".join(words[number] for number in numbers).split("</S>")
        assert [sentence.strip() for sentence in text[:-1]] == sentences
    counts = np.bincount(
        np.concatenate([packed_text.read_numbers(packed / "train" / f"{source}.xz") for source in SENTENCES]),
        minlength=len(words),
    )
    assert (np.diff(counts[3:]) <= 0).all()


def test_numbers_beyond_two_bytes_come_back(tmp_path: Path):
    numbers = np.array([1, 65534, 65535, 65536, 300_000, 0, 16_000_000])
    packed_text._write(numbers, tmp_path / "numbers.xz")
    assert packed_text.read_numbers(tmp_path / "numbers.xz").tolist() == numbers.tolist()


def test_a_limit_takes_whole_documents(packed: Path, tmp_path: Path):
    folder = tmp_path / "text" / "train" / "novels"
    for name in "abcdef":
        (folder / f"{name}.txt").write_text("Four words are here\n" * 5, encoding="utf-8")
    packed_text.pack(tmp_path / "text", tmp_path / "less", max_words={"novels": 30})
    taken = json.loads((tmp_path / "less" / "sizes.json").read_text())["train/novels"]
    assert 30 <= taken < 30 + 20 + sum(len(sentence.split()) for sentence in SENTENCES["novels"])


def test_a_vocabulary_comes_first(packed: Path, tmp_path: Path):
    packed_text.pack(tmp_path / "text", tmp_path / "again", vocabulary=["peace", "nowhere", "!"])
    words, before = (packed_text.read_words(folder) for folder in (tmp_path / "again", packed))
    assert words == [
        *before[:3],
        "peace",
        "nowhere",
        "!",
        *(word for word in before[3:] if word not in ("peace", "!")),
    ]
    for source in SENTENCES:
        (found, numbers) = (
            [of[number] for number in packed_text.read_numbers(folder / "train" / f"{source}.xz")]
            for of, folder in ((words, tmp_path / "again"), (before, packed))
        )
        assert found == numbers


def test_windows_are_those_of_the_library(packed: Path, tmp_path: Path):
    vocab_size, steps, rows = 12, 5, 3
    text = graph_training.read_text(packed, "train", torch.device("cpu"))
    words = packed_text.read_words(packed)
    tokenizer = ElmoTokenizer()
    tokenizer.word_vocabulary = words[:vocab_size]
    corpus = write_corpus((sentence.split() for sentence in SENTENCES["novels"]), tmp_path / "corpus")
    # Equal parts of both begin at the same positions when these fill them.
    places = graph_training.Rows(
        torch.arange(rows) * (corpus.num_positions // (rows * steps)) * steps,
        torch.full((rows,), corpus.num_positions // (rows * steps)),
    )
    expected = BilmWindows(corpus, tokenizer, rows, steps)
    spelled = graph_training.spelled_words(packed, torch.device("cpu"))
    for step in range(expected.windows_per_row):
        found = graph_training.windows_at(text, places, torch.tensor(step), steps, vocab_size)
        for direction, prefix in enumerate(("", "backward_")):
            items = [expected[step * rows + row] for row in range(rows)]
            ids = torch.stack([item[f"{prefix}input_ids"] for item in items], 1)
            labels = torch.stack([item[f"{prefix}labels"] for item in items], 1)
            assert torch.equal(spelled[found.read[direction].long()].view(ids.shape).long(), ids)
            assert torch.equal(found.labels[direction].view(labels.shape), labels)


def test_a_row_begins_again_after_its_last_window(packed: Path):
    text = graph_training.read_text(packed, "train", torch.device("cpu"))
    rows = text.rows({"novels": 2, "speeches": 1}, 4)
    first = graph_training.windows_at(text, rows, torch.tensor(0), 4, 20)
    again = graph_training.windows_at(text, rows, rows.windows.prod(), 4, 20)
    assert torch.equal(first.read, again.read)
    assert torch.equal(first.labels, again.labels)
    assert rows.starts[2] == text.bounds["speeches"][0]
    with pytest.raises(ValueError, match="novels: must have 4 words for each of 1000 rows"):
        text.rows({"novels": 1000}, 4)


def test_distinct_words_are_those_of_unique():
    read = torch.randint(50, (2, 40), dtype=torch.int32)
    words, places, number = graph_training.distinct_words(read, 60, 45)
    expected = read.unique()
    assert number == len(expected)
    assert torch.equal(words[:number], expected.long())
    assert torch.equal(words[places], read.long())
    # Without room for all, those that find none become another word.
    words, places, number = graph_training.distinct_words(read, 60, 10)
    assert number == len(expected)
    assert len(words) == 10
    assert places.max() == 9


def small_model(**overrides) -> ElmoForPreTraining:
    torch.manual_seed(0)
    options: dict[str, Any] = {"projection_dim": 8, "cell_size": 12, "num_hidden_layers": 2, "num_highway_layers": 1}
    options |= {"char_cnn_filters": [[1, 8], [3, 8]], "word_vocab_size": 12, "num_sampled_words": None}
    return ElmoForPreTraining(ElmoConfig(**options | overrides)).train()


def test_the_loss_and_the_state_are_those_of_the_model(packed: Path):
    device = torch.device("cpu")
    text, spelled = (graph_training.read_text(packed, "train", device), graph_training.spelled_words(packed, device))
    model = small_model()
    rows, steps, states = text.rows({"novels": 2, "speeches": 3}, 4), 4, None
    bilm = graph_training.Bilm(model, spelled, 5, steps, graph_training.full_softmax)
    for step in range(4):
        windows = graph_training.windows_at(text, rows, torch.tensor(step), steps, 12)
        ids = [spelled[read.long()].view(steps, 5, -1).transpose(0, 1).long() for read in windows.read]
        labels = [found.view(steps, 5).t() for found in windows.labels]
        expected = model(ids[0], None, None, states, labels[0], ids[1], labels[1])
        states = tuple(state.detach() for state in expected.lstm_states)
        losses = bilm(windows)
        torch.testing.assert_close(losses, torch.stack([expected.forward_loss, expected.backward_loss]))
        torch.testing.assert_close(bilm.hidden.movedim(2, 0), states[0])
        torch.testing.assert_close(bilm.cell.movedim(2, 0), states[1])
        gradients = [torch.autograd.grad(loss, model.parameters()) for loss in (losses.mean(), expected.loss)]
        for one, two in zip(*gradients, strict=True):
            torch.testing.assert_close(one, two)


def test_a_reset_starts_sentences_from_zeros(packed: Path):
    device = torch.device("cpu")
    text, spelled = (graph_training.read_text(packed, "train", device), graph_training.spelled_words(packed, device))
    model, steps = small_model().eval(), 4
    # In both directions, the window at position 0 begins a sentence; that at 2 does not.
    for start, is_reset in ((0, True), (2, False)):
        rows = graph_training.Rows(torch.tensor([start]), torch.tensor([1]))
        windows = graph_training.windows_at(text, rows, torch.tensor(0), steps, 12)
        losses = []
        for carried, reset in ((0.5, 1.0), (0.0, 0.0)):
            bilm = graph_training.Bilm(model, spelled, 1, steps, graph_training.full_softmax)
            bilm.hidden += carried
            bilm.cell += carried
            losses.append(bilm(windows, reset))
        assert torch.equal(*losses) == is_reset


def test_the_rate_rises_stays_and_falls():
    rates = [graph_training.rate_at(done / 100, 0.1, 0.2) for done in range(101)]
    assert rates[0] == 0
    assert rates[5] == pytest.approx(0.5)
    assert rates[10:80] == pytest.approx([1.0] * 70)
    assert rates[100] == pytest.approx(0.02)
    assert sorted(rates[80:], reverse=True) == rates[80:]


def test_all_rows_are_shared_out():
    shares = {"novels": 0.27, "books": 0.36, "speeches": 0.25, "textbooks": 0.12}
    assert graph_training.shares_of_rows(shares, 256) == {"novels": 69, "books": 92, "speeches": 64, "textbooks": 31}
    assert sum(graph_training.shares_of_rows(shares, 7).values()) == 7


RECIPE = pretrain_english.Recipe(
    projection_dim=8,
    cell_size=12,
    char_cnn_filters=((1, 8), (3, 8)),
    word_vocab_size=16,
    rows=6,
    unroll_steps=4,
    dropout=0.1,
    average=0.2,
    learning_rate=0.02,
    shares={"novels": 0.5, "speeches": 0.5},
)


def test_pieces_make_the_same_weights(packed: Path, tmp_path: Path):
    pretrain_english.train(packed, tmp_path / "whole", RECIPE, words=8 * 24)
    for batch in range(1, 9):
        pretrain_english.train(packed, tmp_path / "parts", RECIPE, words=8 * 24, piece=0.0)
        assert torch.load(tmp_path / "parts" / "state.pt")["batch"] == batch
    for name in ("last.elmo", "last.softmax", "average.elmo"):
        whole, parts = (load_file(tmp_path / kind / f"{name}.safetensors") for kind in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(weight, parts[key]) for key, weight in whole.items())
    with pytest.raises(ValueError, match="same recipe"):
        pretrain_english.train(packed, tmp_path / "parts", dataclasses.replace(RECIPE, rows=8), words=8 * 24)


def test_training_ends_in_a_folder_that_scores_as_it_did(packed: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(pretrain_english, "LOG_BATCHES", 10)
    recipe = dataclasses.replace(RECIPE, dropout=0.0)
    pretrain_english.train(packed, tmp_path / "run", recipe, words=60 * 24)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["batch"] for line in log] == [10, 20, 30, 40, 50, 60]
    assert log[-1]["forward_loss"] < 0.7 * log[0]["forward_loss"]
    pretrain_english.finish(tmp_path / "run", tmp_path / "model")
    model = ElmoForPreTraining.from_pretrained(tmp_path / "model").eval()
    tokenizer = ElmoTokenizer.from_pretrained(tmp_path / "model")
    assert model.config.bilm_dropout == 0
    assert tokenizer.word_vocabulary[:3] == ["<S>", "</S>", "<UNK>"]
    assert (tmp_path / "model" / "training_curve.png").stat().st_size > 10_000
    with (tmp_path / "model" / "training_log.csv").open() as file:
        assert list(csv.DictReader(file))[-1]["words"] == "1440"
    found = perplexity(model, tokenizer, [sentence.split() for sentence in SENTENCES["novels"]])
    # Sentence by sentence instead of with carried state, and in 16 bits.
    assert found.average == pytest.approx(log[-1]["averaged_perplexity"]["novels"], rel=0.35)


def test_a_training_starts_from_a_model_with_its_words(packed: Path, tmp_path: Path):
    pretrain_english.train(packed, tmp_path / "run", RECIPE, words=4 * 24)
    pretrain_english.finish(tmp_path / "run", tmp_path / "model")
    recipe = dataclasses.replace(RECIPE, start=str(tmp_path / "model"))
    training = pretrain_english.Material(packed).training(recipe)
    right = ElmoForPreTraining.from_pretrained(tmp_path / "model").state_dict()
    assert all(torch.equal(weight, right[name]) for name, weight in training.model.state_dict().items())
    packed_text.pack(tmp_path / "text", tmp_path / "other", vocabulary=["peace"])
    with pytest.raises(ValueError, match=r"must have the words of .* first, has others"):
        pretrain_english.Material(tmp_path / "other").training(recipe)


@pytest.mark.parametrize("options", [{"num_samples": 6}, {"num_samples": 6, "bfloat16": True}, {"bfloat16": True}])
def test_sampled_words_and_bfloat16_learn(packed: Path, tmp_path: Path, options: dict[str, Any], monkeypatch):
    monkeypatch.setattr(pretrain_english, "LOG_BATCHES", 10)
    recipe = dataclasses.replace(RECIPE, dropout=0.0, **options)
    pretrain_english.train(packed, tmp_path / "run", recipe, words=60 * 24, check_batches=30)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    checks = [line["perplexity"]["novels"] for line in log if "perplexity" in line]
    assert len(checks) == 2
    assert checks[1] < checks[0] < 16


def test_a_character_encoder_learns_vectors(tmp_path: Path):
    words = ["the", "river", "old", "house", "peace", "world", "book"]
    folder = tmp_path / "glove"
    folder.mkdir()
    torch.manual_seed(0)
    np.save(folder / "vectors.npy", torch.randn(len(words), 5).numpy())
    pyarrow.parquet.write_table(pyarrow.table({"word": words}), folder / "index.parquet")
    encode = small_model().elmo.character_encoder
    text = ["<S>", "</S>", "<UNK>", *(word.title() for word in words), "elsewhere"]
    spelled = torch.from_numpy(ElmoTokenizer().words_to_character_ids(text).astype(np.int16))
    assert learn_vectors(encode, text, spelled, folder, batches=60) > 0.8


def archive(path: Path, files: dict[str, str]):
    with tarfile.open(path, "w:xz") as found:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            content = text.encode()
            info.size = len(content)
            found.addfile(info, io.BytesIO(content))


LONG = "It was a long way to the house of the old man , and the road that he took by the river was as good as any . "


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    folder = tmp_path / "archives"
    folder.mkdir()
    novel = "He went home. She did not.\nCHAPTER II\n"
    archive(
        folder / "eltec-eng.tar.xz",
        {f"{name}.txt": f"{LONG}\n{name} is a name of it.\n" for name in HELD_OUT}
        | {"ENG18400_Trollope.txt": novel, "WORKS.tsv": "file\ttitle\tauthor\n"},
    )
    archive(
        folder / "gutenberg.tar.xz",
        {
            "Hardy_Thomas__A_Pair.txt": "Not to be read.\n",
            "Wells__One.txt": f"End of the Project Gutenberg EBook of it\n{LONG}\nIt was here, he said.[12]\n* * *\n",
        },
    )
    archive(
        folder / "un-general-debates.tar.xz",
        {
            "AFG_16_1961.txt": "We are glad to be here.\n",
            "AFG_20_1965.txt": "1. We spoke of self- determination. 2. It is good [277th meeting], and a short- and a "
            "long-term one.\n",
        },
    )
    archive(
        folder / "openstax.tar.xz",
        {
            "psychology.txt": "The mind is a thing of its own.\n",
            "astronomy.txt": "At the end you will be able to:\nThe sun is not a planet.\n12 13 14 x 2\n",
        },
    )
    return folder


def test_text_is_cleaned_and_nothing_kept_aside_is_trained_on(archives: Path, tmp_path: Path):
    output = tmp_path / "text"
    english_text.write_texts(archives, output)

    def lines(kind: str, source: str) -> list[str]:
        files = sorted((output / kind / source).glob("*.txt"))
        text = "".join(file.read_text(encoding="utf-8") for file in files)
        return text.replace("\u2019", "'").splitlines()

    assert lines("train", "novels") == ["He went home.", "She did not."]
    # The long paragraph stands in a novel that is kept aside, too.
    assert lines("train", "books") == ["It was here, he said."]
    assert lines("train", "speeches") == [
        "We spoke of self-determination.",
        "It is good, and a short- and a long-term one.",
    ]
    assert lines("train", "textbooks") == ["The sun is not a planet."]
    assert lines("held_out", "speeches") == lines("check", "speeches") == ["We are glad to be here."]
    assert lines("held_out", "textbooks") == ["The mind is a thing of its own."]
    assert len(lines("held_out", "novels")) == 10
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.txt")}
    english_text.write_texts(archives, output)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.txt")} == before
    # Going on, it still knows what is kept aside.
    shutil.rmtree(output / "train" / "books")
    english_text.write_texts(archives, output)
    assert lines("train", "books") == ["It was here, he said."]


def test_quotes_become_those_of_a_typesetter():
    sentence = """"It's mine," he said—'no.' ("Well")"""
    assert english_text.typographic(sentence) == "“It\u2019s mine,” he said—\u2018no.\u2019 (“Well”)"
