"""
Words to character ids: `elmo_hf.tokenization_elmo` beside AllenNLP's `batch_to_ids`, in one process and in turn.

    python -m benchmarks.tokenization TEXT

TEXT is a UTF-8 text, one paragraph a line, or a tar archive of such, from each of which an equal share is taken.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.allennlp_modules import load_allennlp
from benchmarks.inference_speed import num_words, split
from benchmarks.machine import best_times, describe
from benchmarks.texts import sample
from elmo_hf.tokenization_elmo import ElmoTokenizer, batch_to_ids


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--characters", type=int, default=300_000, help="of text to encode")
    parser.add_argument("--batch-size", type=int, default=32, help="sentences")
    parser.add_argument("--rounds", type=int, default=5, help="of which the fastest counts")
    arguments = parser.parse_args()

    tokenizer = ElmoTokenizer()
    texts = sample(arguments.text, arguments.characters)
    sentences = [tokenizer.tokenize(text) for text in texts]
    theirs = load_allennlp().batch_to_ids
    if not torch.equal(batch_to_ids(sentences[:50]), theirs(sentences[:50])):
        raise ValueError("Both must give the same ids, they do not: there is nothing to compare.")

    def task(encode: Callable[[Any], Any], data: list) -> Callable[[], None]:
        batches = split(data, arguments.batch_size)

        def run():
            for batch in batches:
                encode(batch)

        return run

    padded = {"padding": True, "return_tensors": "pt"}
    seconds = best_times(
        {
            "AllenNLP batch_to_ids, words": task(theirs, sentences),
            "elmo_hf batch_to_ids, words": task(batch_to_ids, sentences),
            "ElmoTokenizer, words": task(
                lambda batch: tokenizer(batch, is_split_into_words=True, **padded), sentences
            ),
            "ElmoTokenizer, raw text": task(lambda batch: tokenizer(batch, **padded), texts),
        },
        arguments.rounds,
    )

    words = num_words(sentences)
    table = Table(title=f"{words:,} words in {len(sentences):,} paragraphs, {arguments.batch_size} a batch")
    for column in ("", "words/s", "x AllenNLP"):
        table.add_column(column, justify="right" if column else "left")
    baseline = next(iter(seconds.values()))
    for name, duration in seconds.items():
        table.add_row(name, f"{words / duration:,.0f}", f"{baseline / duration:.1f}")
    console = Console(width=100)
    console.print(describe())
    console.print(table)


if __name__ == "__main__":
    main()
