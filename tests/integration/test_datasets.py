"""datasets: tokenizing in `map`, on the fly and from a stream, and tables of character ids read back from disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, load_from_disk
from transformers import DataCollatorForTokenClassification, Trainer, TrainingArguments

from elmo_hf import ElmoForTokenClassification, ElmoTokenizer
from tests.tiny import SENTENCES, character_ids, tiny_config


def test_the_recipe_gives_the_same_rows_in_all_three_ways(run_recipe: Callable[[str], dict[str, Any]]):
    found = run_recipe("Data with datasets")
    words, tags = found["dataset"]["words"], found["dataset"]["tags"]
    assert len(found["encoded"]) == len(words) == 2
    (batch,) = found["batches"]
    for row, (sentence, labels) in enumerate(zip(words, tags, strict=True)):
        expected = character_ids([sentence])[0]
        encoded, transformed = found["encoded"][row], found["transformed"][row]
        assert torch.equal(encoded["input_ids"], expected)
        assert encoded["labels"].tolist() == transformed["labels"] == labels
        assert torch.equal(torch.tensor(transformed["input_ids"]), expected)
        assert torch.equal(batch["input_ids"][row, : len(sentence)], expected)
        assert batch["labels"][row].tolist() == labels + [-100] * (5 - len(sentence))
        assert batch["attention_mask"][row].tolist() == [1] * len(sentence) + [0] * (5 - len(sentence))
    assert not batch["input_ids"][1, 4:].any()


def test_a_trainer_reads_the_rows_of_all_three_ways(run_recipe: Callable[[str], dict[str, Any]], tmp_path: Path):
    found = run_recipe("Data with datasets")
    losses = []
    for name in ("encoded", "transformed", "stream"):
        torch.manual_seed(0)
        trainer = Trainer(
            model=ElmoForTokenClassification(tiny_config(dropout=0.0, num_labels=3)),
            args=TrainingArguments(
                str(tmp_path / name),
                max_steps=1,
                per_device_train_batch_size=2,
                remove_unused_columns=name != "transformed",
                report_to="none",
                use_cpu=True,
                disable_tqdm=True,
                dataloader_pin_memory=False,
            ),
            train_dataset=found[name],
            data_collator=DataCollatorForTokenClassification(found["tokenizer"]),
        )
        losses.append(trainer.train().training_loss)
    # The rows come in another order.
    assert losses == pytest.approx([losses[0]] * 3)


def test_labels_follow_their_words_into_the_windows_of_a_long_sentence():
    tokenizer = ElmoTokenizer()
    dataset = Dataset.from_dict({"words": SENTENCES, "tags": [list(range(len(words))) for words in SENTENCES]})

    def windows(batch: dict[str, list]) -> Any:
        encoded = tokenizer(
            batch["words"],
            is_split_into_words=True,
            truncation=True,
            max_length=4,
            stride=1,
            return_overflowing_tokens=True,
        )
        sentences = encoded.pop("overflow_to_sample_mapping")
        encoded["labels"] = [
            [batch["tags"][sentence][word] for word in encoded.word_ids(row)] for row, sentence in enumerate(sentences)
        ]
        encoded["sentence"] = sentences
        return encoded

    rows = dataset.map(windows, batched=True, batch_size=2, remove_columns=dataset.column_names)
    labels = [(row["sentence"], row["labels"]) for row in rows]
    # Sentences are counted within the batch of `map`.
    assert labels == [
        (0, [0, 1, 2, 3]),
        (0, [3, 4, 5]),
        (1, [0, 1, 2, 3]),
        (1, [3, 4, 5, 6]),
        (0, [0]),
        (1, [0, 1, 2, 3]),
        (1, [3, 4, 5, 6]),
        (1, [6, 7, 8, 9]),
        (1, [9, 10]),
    ]
    for row, sentence in zip(rows, [0, 0, 1, 1, 2, 3, 3, 3, 3], strict=True):
        words = [SENTENCES[sentence][label] for label in row["labels"]]
        assert torch.equal(torch.tensor(row["input_ids"]), character_ids([words])[0])


def test_padded_batches_come_back_from_disk_as_arrays_of_three_dimensions(tmp_path: Path):
    tokenizer = ElmoTokenizer()
    dataset = Dataset.from_dict({"words": SENTENCES}).map(
        lambda batch: tokenizer(batch["words"], is_split_into_words=True, padding=True),
        batched=True,
        remove_columns=["words"],
    )
    dataset.save_to_disk(tmp_path)
    loaded = load_from_disk(tmp_path).with_format("torch")[:]
    assert torch.equal(loaded["input_ids"], character_ids())
    assert loaded["input_ids"].dtype == torch.int64
    assert loaded["attention_mask"].sum(1).tolist() == [len(words) for words in SENTENCES]


def test_collators_pad_rows_of_every_format():
    tokenizer = ElmoTokenizer()
    dataset = Dataset.from_dict({"words": SENTENCES, "labels": [[0] * len(words) for words in SENTENCES]}).map(
        lambda batch: tokenizer(batch["words"], is_split_into_words=True), batched=True, remove_columns=["words"]
    )
    collate = DataCollatorForTokenClassification(tokenizer)
    for format_name in (None, "torch", "numpy"):
        batch = collate([dataset.with_format(format_name)[row] for row in range(4)])
        assert torch.equal(batch["input_ids"], character_ids())
        assert (batch["labels"] == 0).sum(1).tolist() == [len(words) for words in SENTENCES]
