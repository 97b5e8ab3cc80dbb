"""The fine-tuning examples: what they read, what they score, and that they learn, save and load again."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForTokenClassification, AutoTokenizer

from benchmarks.finetuning import StoredLayers, collate, store
from examples import finetune_classification, finetune_ner
from examples.finetuning import load_model, option_parser

PLACES = ["London", "Paris", "Rome", "Oslo"]
NAMES = ["Ada", "Grace", "Alan", "Edsger"]


@pytest.fixture
def wnut(tmp_path: Path) -> Path:
    """A folder like that of WNUT-17, in which a place or a person can be told by the word."""
    folder = tmp_path / "wnut"
    folder.mkdir()
    sentences = [
        f"{name}\tB-person\nwent\tO\nto\tO\n{place}\tB-location\n.\tO\n" for place in PLACES for name in NAMES
    ]
    for name in finetune_ner.FILES.values():
        (folder / name).write_text("\n".join(sentences), encoding="utf-8")
    return folder


@pytest.fixture
def polarity(tmp_path: Path) -> Path:
    """A folder like that of sentence polarity, in which one word decides."""
    folder = tmp_path / "polarity"
    folder.mkdir()
    for name, word in zip(finetune_classification.FILES.values(), ("dull", "brilliant"), strict=True):
        (folder / name).write_text("".join(f"number {index} is {word}\n" for index in range(40)))
    return folder


def train(example: Any, data: Path, model: Path, output: Path, *options: str) -> None:
    given = [str(model), "--data", str(data), "--output", str(output), "--batch-size", "4", "--head-lstm-size", "8"]
    # Its vectors have no numbers to spare.
    example.main([*given, "--dropout", "0", "--learning-rate", "0.02", *options])


def trained_parts(before: Path, after: Path) -> set[str]:
    """Which modules of the biLM differ between two folders."""
    old, new = (load_file(folder / "model.safetensors") for folder in (before, after))
    return {
        name.split(".")[0]
        for name in old
        if not name.startswith("scalar_mixes") and not torch.equal(old[name], new[f"elmo.{name}"])
    }


# What they read and how they score


def test_words_and_tags_are_read_sentence_by_sentence(tmp_path: Path):
    path = tmp_path / "some.conll"
    # As in the shared task: lines of one tab between sentences, and words that Python counts as line ends.
    path.write_text("a\tO\nb\u2028c\tB-person\n\t\n\n東京\tB-location", encoding="utf-8")
    assert finetune_ner.read_conll(path) == [(["a", "b\u2028c"], ["O", "B-person"]), (["東京"], ["B-location"])]


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_reviews_are_read_in_either_encoding(encoding: str, tmp_path: Path):
    path = tmp_path / "rt-polarity.pos"
    path.write_bytes("une comédie .\nwait\x85 what ?\n".encode(encoding))
    assert finetune_classification.read_lines(path) == ["une comédie .", "wait\x85 what ?"]


def test_reviews_are_split_the_same_way_each_time_with_both_classes_alike(polarity: Path):
    splits = finetune_classification.read_task(polarity).splits
    assert splits == finetune_classification.read_task(polarity).splits
    assert {name: len(examples) for name, examples in splits.items()} == {"train": 64, "dev": 8, "test": 8}
    for examples in splits.values():
        assert sum(example["labels"] for example in examples) == len(examples) / 2
    texts = [" ".join(example["words"]) for examples in splits.values() for example in examples]
    assert len(set(texts)) == 80


@pytest.mark.parametrize("example", [finetune_ner, finetune_classification])
def test_sentences_to_train_on_are_written_for_a_bilm_without_labels(
    example: Any, wnut: Path, polarity: Path, tmp_path: Path
):
    data, file = wnut if example is finetune_ner else polarity, tmp_path / "text.txt"
    example.main(["no-model", "--data", str(data), "--write-text", str(file)])
    words = [sentence["words"] for sentence in example.read_task(data).splits["train"]]
    assert [line.split() for line in file.read_text(encoding="utf-8").splitlines()] == words


def test_entities_are_scored_whole_and_padding_is_left_out(wnut: Path):
    task = finetune_ner.read_task(wnut)
    assert task.labels == ["B-location", "B-person", "O"]
    location, person, other = range(3)
    right = np.array([[person, other, location], [location, other, -100]])
    predicted = np.array([[person, other, person], [other, other, location]])
    # One of three entities found, one of two predicted is right.
    assert task.score(predicted, right) == pytest.approx(
        {"f1": 2 / 5, "precision": 1 / 2, "recall": 1 / 3, "accuracy": 3 / 5}
    )
    assert task.score(np.full_like(right, other), right)["f1"] == 0


# What they train


def test_a_tagger_learns_to_find_entities_with_a_frozen_bilm(
    wnut: Path, reference_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    output = tmp_path / "tagger"
    train(finetune_ner, wnut, reference_model_dir, output, "--epochs", "6")
    assert trained_parts(reference_model_dir, output) == set()
    assert not (output / "checkpoints").exists()
    assert (output / "layer_weights.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert all(part in printed for part in ("model, test", "LSTM layer 2", "gamma", "Stockholm"))
    # What was saved finds what it was trained to find.
    model = AutoModelForTokenClassification.from_pretrained(output).eval()
    inputs = AutoTokenizer.from_pretrained(output)("Grace went to Oslo .", return_tensors="pt")
    with torch.no_grad():
        best = model(**inputs).logits[0].argmax(-1).tolist()
    assert [model.config.id2label[index] for index in best] == ["B-person", "O", "O", "B-location", "O"]


def test_a_classifier_learns_with_its_bilm(
    polarity: Path, reference_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    output = tmp_path / "classifier"
    options = ["--no-freeze", "--bilm-learning-rate", "0.005", "--epochs", "3"]
    train(finetune_classification, polarity, reference_model_dir, output, *options)
    assert trained_parts(reference_model_dir, output) == {"character_encoder", "encoder"}
    # Split by the borders of the table: nothing, the row, its one score.
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if line.count("│") == 3]
    found = {row[1].strip(): row[2].strip() for row in rows}
    assert (found["majority, test"], found["model, test"]) == ("50.0", "100.0")


def test_static_features_are_the_word_vectors_and_random_ones_are_not_the_checkpoint(
    wnut: Path, reference_model_dir: Path
):
    task = finetune_ner.read_task(wnut, limit=2)
    features = {}
    for kind in ("elmo", "static", "random"):
        given = [str(reference_model_dir), "--data", str(wnut), "--features", kind]
        model, tokenizer = load_model(task, option_parser("", "").parse_args(given))
        inputs = tokenizer(task.splits["dev"][0]["words"], is_split_into_words=True, return_tensors="pt")
        outputs = model.elmo.eval()(**inputs, output_hidden_states=True)
        features[kind] = (outputs.last_hidden_state, outputs.hidden_states)
    assert torch.equal(features["static"][0], features["static"][1][0])
    torch.testing.assert_close(features["elmo"][0], sum(features["elmo"][1]) / 3)
    assert torch.equal(features["elmo"][1][0], features["static"][1][0])
    assert not torch.allclose(features["elmo"][1][0], features["random"][1][0])


@pytest.mark.parametrize("example", [finetune_ner, finetune_classification])
def test_a_head_over_stored_layers_scores_as_the_whole_model_does(
    example: Any, wnut: Path, polarity: Path, reference_model_dir: Path
):
    data = wnut if example is finetune_ner else polarity
    task = example.read_task(data, limit=5)
    given = [str(reference_model_dir), "--data", str(data)]
    model, tokenizer = load_model(task, option_parser("", "").parse_args(given))
    model.eval()
    examples = task.splits["train"]
    words = [example["words"] for example in examples]
    with torch.no_grad():
        expected = model(**tokenizer(words, is_split_into_words=True, padding=True, return_tensors="pt")).logits
        stored = collate(store(model, tokenizer, examples))
        model.elmo = StoredLayers(model.elmo)
        given = model(**stored).logits
    torch.testing.assert_close(given, expected, rtol=1e-5, atol=1e-6)
