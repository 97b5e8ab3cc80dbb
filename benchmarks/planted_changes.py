"""
Whether `elmo-hf change` finds words that changed: in every second sentence of a text, 25 pairs of words take each
other's places, and the 50 are to be ranked above as many words of like frequency that stayed.

    python -m benchmarks.planted_changes TEXT [--sentences 40000] [--model FOLDER]

Prints the area under the ROC curve (1: every changed word above every other; 0.5: by chance) of each measure.
"""

import argparse
import random
from itertools import islice
from pathlib import Path

from transformers.utils import logging

from elmo_hf.corpus import count_words
from elmo_hf.corpus_embedding import load_embedder
from elmo_hf.text_files import read_lines
from elmo_hf.usage import change_between, uses_of_words, words_for_change

PLANTED = 50


def area(changed: list[float], others: list[float]) -> float:
    """Under the ROC curve."""
    wins = sum((one > other) + 0.5 * (one == other) for one in changed for other in others)
    return wins / (len(changed) * len(others))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="a sentence per line")
    parser.add_argument("--sentences", type=int, default=40_000)
    parser.add_argument("--model", default=None)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    embedder = load_embedder(arguments.model)
    lines = islice(read_lines(arguments.text), arguments.sentences)
    sentences = [embedder.tokenizer.tokenize(line) for line in lines]
    halves = sentences[::2], sentences[1::2]
    # Past the hundred most frequent, which are hardly words of meaning.
    words = words_for_change(count_words(halves[0]), count_words(halves[1]), 20, 700)[100:]
    draw = random.Random(arguments.seed)
    # Of neighbours in frequency, so that both are as well known.
    starts = draw.sample(range(0, len(words) - 3, 4), PLANTED // 2)
    pairs = [(words[start], words[start + 2]) for start in starts]
    others = [word for start in starts for word in (words[start + 1], words[start + 3])]
    swap = {one: other for pair in pairs for one, other in (pair, pair[::-1])}
    new = [[swap.get(word, word) for word in sentence] for sentence in halves[1]]
    print(f"{len(sentences):,} sentences, {len(swap)} words changed, {len(others)} stayed, from {pairs[0]} on")
    changes = change_between(*(uses_of_words(embedder, half, {*swap, *others}) for half in (halves[0], new)))
    for measure in ("apd", "prototype", "jsd"):
        values = {change.word: getattr(change, measure) for change in changes}
        found = area([values[word] for word in swap], [values[word] for word in others])
        print(f"{measure:<10} {found:.3f}", flush=True)


if __name__ == "__main__":
    main()
