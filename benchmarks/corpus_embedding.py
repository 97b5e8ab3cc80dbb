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

import torch
from transformers.utils import logging

from benchmarks.machine import describe
from elmo_hf import ElmoEmbedder
from elmo_hf.batching import run_in_batches
from elmo_hf.corpus import read_lines
from elmo_hf.corpus_embedding import embed_sentences_to_file, load_embedder


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
    parser.add_argument("--pieces", type=int, default=4, help="turns of each")
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
    length = len(sentences) // arguments.pieces
    tenth = sentences[: len(sentences) // 10]
    best = min((64, 128, 256), key=lambda size: bare(embedder, tenth, size))
    print(f"best batch of the bare model: {best}")
    embedder.batch_size = best
    for suffix in arguments.formats:
        seconds = {"bare": 0.0, suffix: 0.0}
        with tempfile.TemporaryDirectory() as folder:
            for number in range(arguments.pieces):
                piece = slice(number * length, (number + 1) * length)
                seconds["bare"] += bare(embedder, sentences[piece], best)
                start = time.perf_counter()
                embed_sentences_to_file(embedder, lines[piece], Path(folder, f"{number}.{suffix}"))
                seconds[suffix] += time.perf_counter() - start
                Path(folder, f"{number}.{suffix}").unlink()
            memory, start = Memory(words), time.perf_counter()
            whole = Path(folder, f"whole.{suffix}")
            embed_sentences_to_file(embedder, lines, whole, progress=memory.watch)
            size, whole_seconds = whole.stat().st_size, time.perf_counter() - start
        rates = [words / seconds[name] for name in (suffix, "bare")]
        print(f"{suffix}: {rates[0]:,.0f} words per second in pieces, the bare model {rates[1]:,.0f}", end="; ")
        print(f"ratio {rates[0] / rates[1]:.2f}; all at once {words / whole_seconds:,.0f}, {size / 1e6:,.0f} MB")
        first, highest = memory.peaks[0], max(memory.peaks)
        print(f"  memory: first tenth {first:,.0f} MB, highest {highest:,.0f} MB ({highest / first:.3f})", flush=True)


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
