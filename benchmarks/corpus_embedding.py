"""
A file of vectors of many sentences: words per second of `elmo-hf embed` against the bare model, and whether its memory
stays flat.

    python -m benchmarks.corpus_embedding TEXT [--sentences 100000] [--formats parquet hdf5]

The bare model reads the same sentences, split already, in the same windows and at the best of three batch sizes, and
keeps nothing. The rates of both come from turns about in one process, a piece of the sentences each.
"""

import argparse
import re
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from transformers.utils import logging

from benchmarks.machine import describe
from elmo_hf import ElmoEmbedder
from elmo_hf.batching import run_in_batches
from elmo_hf.corpus_embedding import embed_sentences_to_file, load_embedder
from elmo_hf.text_files import read_lines


def megabytes() -> float:
    """Memory of this process now."""
    (found,) = re.findall(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found) / 1e3


def bare(embedder: ElmoEmbedder, sentences: list[list[str]], batch_size: int) -> float:
    """Seconds."""
    choice = embedder.selection("mix")
    start = time.perf_counter()
    for _ in run_in_batches(sentences, lambda batch: [embedder._read(choice, batch)] * len(batch), batch_size):
        pass
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="a sentence per line")
    parser.add_argument("--sentences", type=int, default=100_000)
    parser.add_argument("--formats", nargs="+", default=["parquet", "hdf5"])
    parser.add_argument("--pieces", type=int, default=20, help="turns of each")
    parser.add_argument("--no-whole", dest="whole", action="store_false", help="leave out all at once, and memory")
    parser.add_argument("--model", default=None)
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    embedder = load_embedder(arguments.model)
    lines = list(islice(read_lines(arguments.text), arguments.sentences))
    sentences = [embedder.tokenizer.tokenize(line) for line in lines]
    words = sum(map(len, sentences))
    print(describe())
    print(f"{len(lines):,} sentences, {words:,} words, {torch.get_num_threads()} threads")
    tenth = sentences[: len(sentences) // 10]
    best = min((64, 128, 256), key=lambda size: bare(embedder, tenth, size))
    print(f"best batch of the bare model: {best}", flush=True)
    embedder.batch_size = best
    with tempfile.TemporaryDirectory() as folder:
        compare(embedder, lines, sentences, arguments.formats, arguments.pieces, Path(folder))
        for suffix in arguments.formats if arguments.whole else ():
            memory, start = Memory(words), time.perf_counter()
            whole = Path(folder, f"whole.{suffix}")
            embed_sentences_to_file(embedder, lines, whole, progress=memory.watch)
            print(f"{suffix}: all at once {words / (time.perf_counter() - start):,.0f} words per second", end=", ")
            print(f"{whole.stat().st_size / 1e6:,.0f} MB")
            first, highest = memory.peaks[0], max(memory.peaks)
            print(
                f"  memory: first tenth {first:,.0f} MB, highest {highest:,.0f} MB ({highest / first:.3f})", flush=True
            )


def compare(
    embedder: ElmoEmbedder, lines: list[str], sentences: list[list[str]], formats: list[str], pieces: int, folder: Path
):
    """Prints the rates of the bare model and of each format, which take turns."""
    length = len(sentences) // pieces
    seconds: dict[str, list[float]] = {name: [] for name in ("bare", *formats)}
    for number in range(pieces):
        piece = slice(number * length, (number + 1) * length)
        seconds["bare"].append(bare(embedder, sentences[piece], embedder.batch_size))
        for suffix in formats:
            output, start = folder / f"{number}.{suffix}", time.perf_counter()
            embed_sentences_to_file(embedder, lines[piece], output)
            seconds[suffix].append(time.perf_counter() - start)
            output.unlink()
    words = sum(map(len, sentences[: pieces * length]))
    print(f"{pieces} turns of {length:,} sentences each:")
    for name, times in seconds.items():
        ratios = [bare / mine for bare, mine in zip(seconds["bare"], times, strict=True)]
        print(f"  {name:<8} {words / sum(times):8,.0f} words per second", end="")
        print(f", {sum(seconds['bare']) / sum(times):.3f} of the bare model (median of turns {median(ratios):.3f})")


class Memory:
    """The highest of each tenth of the words."""

    def __init__(self, num_words: int):
        self.num_words, self.done, self.peaks = num_words, 0, [0.0]

    def watch(self, count: int):
        self.done += count
        if self.done > len(self.peaks) * self.num_words / 10 and len(self.peaks) < 10:
            self.peaks.append(0.0)
        self.peaks[-1] = max(self.peaks[-1], megabytes())


if __name__ == "__main__":
    main()
