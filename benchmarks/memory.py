"""
Peak memory of embedding on a CPU: does it grow with the number of sentences, and what does a long sentence need?

    python -m benchmarks.memory

Each figure is the peak resident memory of a process of its own, Python and PyTorch included.
"""

import argparse
import subprocess
import sys

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.inference_speed import SIZES, read_sentences
from benchmarks.machine import describe, peak_memory
from elmo_hf import ElmoConfig, ElmoEmbedder, ElmoModel, ElmoTokenizer

# (size, sentences, words per sentence; 0 for the reference sentences over and over)
RUNS = [
    ("small", 500, 0),
    ("small", 2000, 0),
    ("small", 8000, 0),
    ("original", 1, 5000),
]


def embed(size: str, number: int, length: int):
    """Embeds sentences one after the other and keeps none."""
    torch.manual_seed(0)
    with torch.device("meta"):
        model = ElmoModel(ElmoConfig(**SIZES[size]))
    model = model.to_empty(device="cpu").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.05)
    if length:
        sentences = ([f"word{index}" for index in range(length)] for _ in range(number))
    else:
        reference = read_sentences(None)
        # No word twice in a row of runs, so that the cache of word vectors fills as it would.
        sentences = (
            [f"{word}{index // 300}" for word in reference[index % len(reference)]] for index in range(number)
        )
    words = sum(len(vectors) for vectors in ElmoEmbedder(model, ElmoTokenizer()).embed(sentences))
    print(words, peak_memory())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        size, number, length = arguments.run
        embed(size, int(number), int(length))
        return
    table = Table(title="Peak resident memory of embedding")
    for column in ("size", "sentences", "words", "peak GB"):
        table.add_column(column, justify="right")
    for size, number, length in RUNS:
        command = [sys.executable, "-m", "benchmarks.memory", "--run", size, str(number), str(length)]
        words, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        table.add_row(size, str(number), words, f"{float(peak):.2f}")
    console = Console(width=100)
    console.print(describe())
    console.print(table)


if __name__ == "__main__":
    main()
