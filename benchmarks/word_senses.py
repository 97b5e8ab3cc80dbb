"""
Do vectors of a word in context tell its senses apart? 22 ambiguous words, two senses each, six sentences a sense.

    python -m benchmarks.word_senses MODEL_DIR

An item is right when the most similar other item of the same word (cosine) has the same sense, and, as a second
measure, when the mean vector of its own sense is nearer than that of the other one, both without the item.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from transformers.utils.logging import disable_progress_bar

from elmo_hf import ElmoEmbedder, ElmoModel, ElmoTokenizer

ITEMS = Path(__file__).parent.parent / "tests" / "fixtures" / "word_senses.tsv"
# Layer 0 has one vector for a word wherever it stands; float32 rounding is all that differs.
ROUNDING = 1e-5


class Item(NamedTuple):
    """A sentence, in which `word` occurs once."""

    word: str
    sense: str
    sentence: list[str]


def read_items(path: Path = ITEMS) -> list[Item]:
    """Items of a file with the columns word, sense and sentence, of which the last has spaces between words."""
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return [Item(word, sense, sentence.split()) for word, sense, sentence in (line.split("\t") for line in lines)]


def accuracy(model: ElmoModel, tokenizer: ElmoTokenizer, items: list[Item], layer: int | str) -> float:
    """Share of items whose nearest neighbour has the same sense. `layer` is a number or `"average"`."""
    return float(neighbour_scores(word_vectors(model, tokenizer, items, layer), items).mean())


def word_vectors(model: ElmoModel, tokenizer: ElmoTokenizer, items: list[Item], layer: int | str) -> np.ndarray:
    """(items, hidden_size) float32, of unit length."""
    sentences = ElmoEmbedder(model, tokenizer).embed((item.sentence for item in items), layers=layer)
    vectors = np.stack([words[item.sentence.index(item.word)] for words, item in zip(sentences, items, strict=True)])
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def neighbour_scores(vectors: np.ndarray, items: list[Item]) -> np.ndarray:
    """
    (items,) 1 where the nearest other item of the word has the same sense, 0 where it does not. Between several that
    are equally near chance decides: the share of them with the same sense.

    Args:
        vectors: (items, features) of unit length.
    """
    scores = np.zeros(len(items))
    for places, senses in _words(items):
        similarity = vectors[places] @ vectors[places].T
        np.fill_diagonal(similarity, -np.inf)
        scores[places] = _share_of_nearest(similarity, senses[:, None] == senses)
    return scores


def centroid_scores(vectors: np.ndarray, items: list[Item]) -> np.ndarray:
    """The same with the mean vector of each sense, the item left out, in place of other items; two or more a sense."""
    scores = np.zeros(len(items))
    for places, senses in _words(items):
        members = senses == np.unique(senses)[:, None]
        others = members[:, None, :] & ~np.eye(len(places), dtype=bool)
        # (senses, items, features), then (senses, items)
        sums = others @ vectors[places]
        similarity = (sums * vectors[places]).sum(-1) / np.linalg.norm(sums, axis=-1)
        scores[places] = _share_of_nearest(similarity.T, members.T)
    return scores


def _words(items: list[Item]) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each word (n,) places of its items and their senses."""
    places = defaultdict(list)
    for place, item in enumerate(items):
        places[item.word].append(place)
    senses = np.array([item.sense for item in items])
    return [(np.array(of_word), senses[of_word]) for of_word in places.values()]


def _share_of_nearest(similarity: np.ndarray, is_right: np.ndarray) -> np.ndarray:
    """(items,) how many of the most similar candidates are right, both (items, candidates)."""
    is_nearest = similarity >= similarity.max(1, keepdims=True) - ROUNDING
    return (is_nearest & is_right).sum(1) / is_nearest.sum(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder or Hub repository")
    parser.add_argument("--items", type=Path, default=ITEMS, help="a file with the columns word, sense and sentence")
    arguments = parser.parse_args()

    disable_progress_bar()
    model = ElmoModel.from_pretrained(arguments.model).eval()
    tokenizer = ElmoTokenizer.from_pretrained(arguments.model)
    items = read_items(arguments.items)
    # Of equal vectors chance chooses.
    vectors = {"chance": np.ones((len(items), 1))}
    vectors |= {
        f"layer {n}": word_vectors(model, tokenizer, items, n) for n in range(model.config.num_hidden_layers + 1)
    }
    vectors["average"] = word_vectors(model, tokenizer, items, "average")
    nearest = {name: neighbour_scores(value, items) for name, value in vectors.items()}

    total = Table("vectors", "nearest neighbour", "nearest mean", title=f"Right sense, of {len(items)} items")
    for name, scores in nearest.items():
        total.add_row(name, f"{scores.mean():.1%}", f"{centroid_scores(vectors[name], items).mean():.1%}")
    del nearest["chance"]
    words = Table("word", "senses", *nearest, title="Nearest neighbour, by word")
    for word in dict.fromkeys(item.word for item in items):
        places = [place for place, item in enumerate(items) if item.word == word]
        senses = dict.fromkeys(items[place].sense for place in places)
        words.add_row(word, ", ".join(senses), *(f"{scores[places].mean():.0%}" for scores in nearest.values()))
    for table, first in ((total, 1), (words, 2)):
        for column in table.columns[first:]:
            column.justify = "right"
        Console().print(table)


if __name__ == "__main__":
    main()
