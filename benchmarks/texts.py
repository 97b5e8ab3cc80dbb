"""
Raw text to measure on: a UTF-8 file, one paragraph per line, or a tar archive of such.

    python -m benchmarks.texts TEXT [--characters 2000000] > SENTENCES

prints a tokenised sentence per line of randomly chosen paragraphs, for `--corpus SENTENCES` of other benchmarks.
"""

import argparse
import random
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from elmo_hf import ElmoTokenizer

# After a full stop or the like and at most one quotation mark, before a capital letter or a quotation mark.
_BETWEEN_SENTENCES = re.compile(r"""(?:(?<=[.!?])|(?<=[.!?]["'\u2019\u201d]))\s+(?=["'\u2018\u201cA-Z])""")


def paragraphs_of_each(path: Path) -> Iterator[list[str]]:
    """The paragraphs of each text."""
    if not tarfile.is_tarfile(path):
        yield _paragraphs(path.read_bytes())
        return
    with tarfile.open(path) as archive:
        for member in archive:
            source = archive.extractfile(member)
            if member.name.endswith(".txt") and source is not None:
                yield _paragraphs(source.read())


def _paragraphs(text: bytes) -> list[str]:
    return [line for line in text.decode("utf-8").splitlines() if line.strip()]


def sample(path: Path, characters: int, seed: int = 0) -> list[str]:
    """At least so many characters of randomly chosen paragraphs, the same number from each text."""
    generator = random.Random(seed)
    texts = list(paragraphs_of_each(path))
    chosen = []
    for paragraphs in texts:
        generator.shuffle(paragraphs)
        left = characters / len(texts)
        for paragraph in paragraphs:
            if left <= 0:
                break
            chosen.append(paragraph)
            left -= len(paragraph)
    return chosen


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--characters", type=int, default=2_000_000)
    arguments = parser.parse_args()
    tokenizer = ElmoTokenizer()
    for paragraph in sample(arguments.text, arguments.characters):
        for sentence in _BETWEEN_SENTENCES.split(paragraph):
            words = tokenizer.tokenize(sentence)
            if words:
                print(*words)


if __name__ == "__main__":
    main()
