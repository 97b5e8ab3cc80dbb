"""
The same word in other company: nearest neighbours of a word as it stands in a sentence, as in table 4 of the paper.

    python examples/word_senses.py [MODEL_DIR] [--sentences FILE]
    python examples/word_senses.py [MODEL_DIR] --query "She struck a note upon the harp ." --word note

Layer 0 knows how a word is spelled and gives it one vector; the layers above it know the sentence. FILE is a UTF-8
text, one sentence per line, to look for neighbours in; without it our own do, in the manner of old novels and of
modern textbooks, speeches and news. Without MODEL_DIR it is `elmo-english`, the model of the package, which needs no
network.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers.utils.logging import disable_progress_bar

from elmo_hf import ElmoEmbedder
from elmo_hf.small_model import find_model

FIXTURES = Path(__file__).parent.parent / "tests" / "fixtures"
SENTENCES = (FIXTURES / "word_senses.tsv", FIXTURES / "modern_senses.tsv")
QUERIES = (
    ("bank", "They sat down on the bank and threw stones into the river."),
    ("bank", "His uncle owned a bank in the City."),
    ("rose", "He picked a red rose from the hedge and put it in his coat."),
    ("rose", "The whole company rose and drank the health of the bride."),
    ("cell", "A cell is surrounded by a thin membrane."),
    ("cell", "The prisoner was alone in his cell."),
    ("current", "The current through the lamp is one ampere."),
    ("current", "The current president was elected in 2019."),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=find_model, default="elmo-english", help="folder or Hub repository")
    parser.add_argument("--sentences", type=Path, help="where to look for neighbours")
    parser.add_argument("--query", help="a sentence of yours")
    parser.add_argument("--word", help="the word in it")
    parser.add_argument("--layer", type=int, default=-1, help="for neighbours in context, -1 the top one")
    arguments = parser.parse_args()
    if (arguments.query is None) != (arguments.word is None):
        parser.error("--query and --word go together.")

    disable_progress_bar()
    embedder = ElmoEmbedder.from_pretrained(arguments.model)
    if arguments.sentences is None:
        lines = [line for file in SENTENCES for line in file.read_text(encoding="utf-8").splitlines()[1:]]
        pool = [line.split("\t")[2].split() for line in lines]
    else:
        pool = [embedder.tokenizer.tokenize(line) for line in arguments.sentences.read_text("utf-8").splitlines()]
    texts = QUERIES if arguments.query is None else ((arguments.word, arguments.query),)
    queries = [(word, embedder.tokenizer.tokenize(text)) for word, text in texts]
    for word, query in queries:
        for option, sentences in (("--query", [query]), ("--sentences", pool)):
            if not any(word in sentence for sentence in sentences):
                parser.error(f"{option} must have the word {word!r}, does not.")
    layer = range(embedder.model.config.num_hidden_layers + 1)[arguments.layer]

    vocabulary = sorted({word for sentence in pool for word in sentence if word.isalpha() and word.islower()})
    console = Console()
    for word, query in queries:
        table = Table(title=highlighted(query, word), title_justify="left", show_header=False)
        similar = nearest_words(embedder, vocabulary, word)
        table.add_row("layer 0", "", "  ".join(f"{other} {cosine:.2f}" for cosine, other in similar))
        table.add_section()
        for cosine, sentence in nearest_contexts(embedder, pool, query, word, layer):
            table.add_row(f"layer {layer}", f"{cosine:.2f}", highlighted(sentence, word))
        console.print(table)
    if arguments.query is None:
        console.print(layer_table(embedder, queries))


def layer_table(embedder: ElmoEmbedder, queries: list[tuple[str, list[str]]]) -> Table:
    """How alike a word is in both of two sentences, on each layer: queries with the same word come in pairs."""
    layers = range(embedder.model.config.num_hidden_layers + 1)
    table = Table("word", *(f"layer {layer}" for layer in layers), title="cosine between its two sentences above")
    for (word, first), (_, second) in zip(queries[::2], queries[1::2], strict=True):
        pairs = (_vectors(embedder, [first, second], [word, word], layer) for layer in layers)
        table.add_row(Text(word, style="bold green"), *(f"{one @ other:.2f}" for one, other in pairs))
    return table


def nearest_words(
    embedder: ElmoEmbedder, vocabulary: list[str], word: str, number: int = 6
) -> list[tuple[float, str]]:
    """The other words of the vocabulary with the most similar vectors on layer 0, where sentences do not matter."""
    others = [other for other in vocabulary if other != word]
    vectors = _vectors(embedder, [[word], *([other] for other in others)], [word, *others], layer=0)
    return _most_similar(vectors[0], vectors[1:], others, number)


def nearest_contexts(
    embedder: ElmoEmbedder, sentences: list[list[str]], query: list[str], word: str, layer: int, number: int = 3
) -> list[tuple[float, list[str]]]:
    """
    The sentences in which a word has the vectors most similar to the one that it has in a query.

    Args:
        sentences: lists of words; those without the word are left out, and so is the query itself.
        query: list of words, one of them `word`. If it is there more than once, the first counts.
        layer: number of the layer, 0 for the word vectors.
        number: of neighbours.

    Returns:
        Pairs of cosine and sentence, the most similar first.
    """
    others = [sentence for sentence in sentences if word in sentence and sentence != query]
    vectors = _vectors(embedder, [query, *others], [word] * (len(others) + 1), layer)
    return _most_similar(vectors[0], vectors[1:], others, number)


def highlighted(sentence: list[str], word: str, width: int = 12) -> Text:
    """A sentence, or what stands around the word in a long one, `width` words on each side."""
    place = sentence.index(word)
    before, after = sentence[max(0, place - width) : place], sentence[place + 1 : place + 1 + width]
    text = Text("… " if place > width else "").append("".join(f"{other} " for other in before))
    text.append(word, style="bold green").append("".join(f" {other}" for other in after))
    return text.append(" …" if len(sentence) > place + 1 + width else "")


def _vectors(embedder: ElmoEmbedder, sentences: list[list[str]], words: list[str], layer: int) -> np.ndarray:
    """(sentences, hidden_size) of one word of each, of unit length."""
    embedded = embedder.embed(sentences, layers=layer)
    vectors = np.stack([v[s.index(w)] for v, s, w in zip(embedded, sentences, words, strict=True)])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _most_similar(vector: np.ndarray, candidates: np.ndarray, names: list, number: int) -> list[tuple[float, Any]]:
    cosines = candidates @ vector
    return [(float(cosines[place]), names[place]) for place in np.argsort(-cosines, kind="stable")[:number]]


if __name__ == "__main__":
    main()
