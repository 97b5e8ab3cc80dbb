"""Raw text to measure on: a UTF-8 file, one paragraph per line, or a tar archive of such."""

import random
import tarfile
from collections.abc import Iterator
from pathlib import Path


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
