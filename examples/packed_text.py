"""
Text as numbers, small enough to be sent to a machine with a GPU: what `pretrain_english.py` trains on.

A folder of it has `words.txt`, one word per line, the most frequent first after `<S>`, `</S>` and `<UNK>`, and
`KIND/SOURCE.xz` for each source of text: the number of each word, and `</S>` after each sentence.
"""

import json
import lzma
import random
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from elmo_hf import ElmoTokenizer
from elmo_hf.configuration_elmo import WORD_VOCABULARY_START

BEGIN, END, UNKNOWN = range(3)
_SENTENCE_END = -1
# Files that are split at a time; fewer are split by this process.
WORTH_PROCESSES = 64
# Of numbers of two bytes; 1 % smaller than by the preset.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9, "lc": 3, "lp": 1, "pb": 1}]


def pack(
    text: Path,
    output: Path,
    kinds: Sequence[str] = ("train", "check"),
    max_words: dict[str, int] | None = None,
    vocabulary: Sequence[str] = (),
):
    """
    Writes the text of `text/KIND/SOURCE/*.txt`, a sentence per line.

    Args:
        text: what `english_text.py` wrote.
        output: the folder to make.
        kinds: what of it.
        max_words: of a source of training text, how many words are taken, at most; whole documents, drawn by chance.
        vocabulary: words that come first, in this order, for a model that predicts them; without `<S>`, `</S>`,
            `<UNK>`.
    """
    words = {word: number for number, word in enumerate(vocabulary)}
    streams: dict[tuple[str, str], list[np.ndarray]] = {}
    for kind in kinds:
        for folder in sorted(path for path in (text / kind).iterdir() if path.is_dir()):
            files = sorted(folder.glob("*.txt"))
            random.Random(1).shuffle(files)
            limit = (max_words or {}).get(folder.name) if kind == "train" else None
            streams[kind, folder.name] = list(_numbered(files, words, limit))
    counts = np.zeros(len(words), np.int64)
    for (kind, _), stream in streams.items():
        for document in stream if kind == "train" else ():
            counts += np.bincount(document[document >= 0], minlength=len(words))
    counts[: len(vocabulary)] = np.arange(len(vocabulary), 0, -1) + counts.max()
    order = np.argsort(-counts, kind="stable")
    # (words,) the number of each in the file
    numbers = np.empty(len(words), np.int64)
    numbers[order] = np.arange(len(words)) + len(WORD_VOCABULARY_START)
    spelled = list(words)
    output.mkdir(parents=True, exist_ok=True)
    lines = [*WORD_VOCABULARY_START, *(spelled[index] for index in order)]
    (output / "words.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sizes = {}
    for (kind, source), stream in streams.items():
        whole = np.concatenate(stream)
        numbered = np.where(whole == _SENTENCE_END, END, numbers[whole])
        (output / kind).mkdir(exist_ok=True)
        _write(numbered, output / kind / f"{source}.xz")
        sizes[f"{kind}/{source}"] = int((whole >= 0).sum())
    (output / "sizes.json").write_text(json.dumps(sizes, indent=1) + "\n", encoding="utf-8")


def _numbered(files: Sequence[Path], words: dict[str, int], limit: int | None) -> Iterator[np.ndarray]:
    """Words of each document as numbers, new words being added to `words`."""
    taken = 0
    with closing(_split_all(files)) as documents:
        for spelled, document in documents:
            known = np.array([words.setdefault(word, len(words)) for word in spelled], np.int32)
            yield np.where(document == _SENTENCE_END, _SENTENCE_END, known[document])
            taken += int((document >= 0).sum())
            if limit is not None and taken >= limit:
                return


def _split_all(files: Sequence[Path]) -> Generator[tuple[list[str], np.ndarray], None, None]:
    """What `_split` gives for each file, many files by several processes."""
    if len(files) < WORTH_PROCESSES:
        yield from map(_split, files)
        return
    # A process that was forked may hang with what its parent's threads held.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        # Not all at once, since the last ones may not be wanted.
        for start in range(0, len(files), WORTH_PROCESSES):
            yield from pool.map(_split, files[start : start + WORTH_PROCESSES], chunksize=4)


def _split(file: Path) -> tuple[list[str], np.ndarray]:
    tokenizer, words, numbers = ElmoTokenizer(), {}, []
    for line in file.read_text(encoding="utf-8").splitlines():
        if sentence := tokenizer.tokenize(line):
            numbers += [words.setdefault(word, len(words)) for word in sentence]
            numbers.append(_SENTENCE_END)
    return list(words), np.array(numbers, np.int32)


def _write(numbers: np.ndarray, file: Path):
    """Two bytes per word, three more for those beyond: about one byte per word in the end."""
    parts = np.ascontiguousarray(numbers.astype("<u4")).view(np.uint8).reshape(-1, 4)
    rare = numbers >= 0xFFFF
    low = np.where(rare, 0xFFFF, numbers).astype("<u2")
    with lzma.open(file, "wb", filters=_FILTERS) as stream:
        stream.write(np.int64([len(numbers), rare.sum()]).tobytes())
        stream.write(low.tobytes())
        stream.write(parts[rare, :3].tobytes())


def read_numbers(file: Path) -> np.ndarray:
    """(N,) int32 what `pack` wrote."""
    with lzma.open(file) as stream:
        number, num_rare = np.frombuffer(stream.read(16), np.int64)
        numbers = np.frombuffer(stream.read(2 * number), "<u2").astype(np.int32)
        rare = np.frombuffer(stream.read(3 * num_rare), np.uint8).reshape(-1, 3).astype(np.int32)
    numbers[numbers == 0xFFFF] = rare @ np.array([1, 1 << 8, 1 << 16], np.int32)
    return numbers


@dataclass
class Streams:
    """
    One source, as both directions read it: `<S>`, words, `</S>` of each sentence, and from `</S>` to `<S>`.

    Attributes:
        forward: (N,) int32 numbers of words.
        backward: (N,) int32 the same positions, each sentence reversed.
    """

    forward: np.ndarray
    backward: np.ndarray


def read_streams(file: Path) -> Streams:
    numbers = read_numbers(file)
    ends = np.flatnonzero(numbers == END)
    forward = np.insert(numbers, np.concatenate([[0], ends[:-1] + 1]), BEGIN)
    # A sentence's positions now begin one further for each sentence before it.
    starts = np.flatnonzero(forward == BEGIN)
    stops = np.append(starts[1:], len(forward))
    sentence = np.repeat(np.arange(len(starts)), stops - starts)
    backward = forward[starts[sentence] + stops[sentence] - 1 - np.arange(len(forward))]
    return Streams(forward, backward)


def read_words(folder: Path) -> list[str]:
    return (folder / "words.txt").read_text(encoding="utf-8").split("\n")[:-1]
