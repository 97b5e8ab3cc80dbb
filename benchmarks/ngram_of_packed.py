"""
Perplexity of the n-gram model of a packed text, to compare a biLM that was trained on it with.

    python -m benchmarks.ngram_of_packed PACKED_DIR --vocab vocab.txt --eval FOLDER ... [--order 5]

PACKED_DIR is what `examples/pretrain_english.py pack` wrote; each FOLDER is a text of its own. The model is counted
once for each direction, in memory: some 15 GB for 56 million words and order 5.
"""

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.ngram import UNKNOWN, KneserNey
from elmo_hf import ElmoTokenizer
from elmo_hf.text_files import read_lines
from examples.packed_text import END, read_numbers


def sentences_of(packed: Path, vocab_size: int) -> list[np.ndarray]:
    """Words of each sentence of the training text, those outside of the vocabulary `<UNK>`."""
    found = []
    for file in sorted((packed / "train").glob("*.xz")):
        numbers = read_numbers(file)
        numbers[numbers >= vocab_size] = UNKNOWN
        found += np.split(numbers, np.flatnonzero(numbers == END) + 1)
    return [sentence[:-1] for sentence in found if len(sentence)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packed", type=Path, metavar="PACKED_DIR")
    parser.add_argument("--vocab", type=Path, required=True)
    parser.add_argument("--eval", type=Path, nargs="+", required=True)
    parser.add_argument("--order", type=int, default=5)
    arguments = parser.parse_args()
    tokenizer = ElmoTokenizer(word_vocab_file=arguments.vocab)
    vocab_size = len(tokenizer.word_vocabulary)
    texts = {
        folder: [tokenizer.words_to_labels(tokenizer.tokenize(line)) for line in read_lines([folder])]
        for folder in arguments.eval
    }
    train = sentences_of(arguments.packed, vocab_size)
    found: dict[Path, list[float]] = {folder: [] for folder in texts}
    for direction in (1, -1):
        model = KneserNey(arguments.order).fit((sentence[::direction] for sentence in train), vocab_size)
        for folder, sentences in texts.items():
            found[folder].append(model.perplexity([sentence[::direction] for sentence in sentences]))
        del model
    table = Table(
        "text", "forward", "backward", "words and ends", title=f"Modified Kneser-Ney, {arguments.order}-gram"
    )
    for folder, values in found.items():
        number = sum(map(len, texts[folder])) + len(texts[folder])
        table.add_row(folder.name, *(f"{value:.1f}" for value in values), f"{number:,}")
    Console().print(table)


if __name__ == "__main__":
    main()
