"""
`examples/embed_with_ray.py` on this machine: one worker against two, and what a worker costs beside the bare model.

    python -m benchmarks.ray_embedding TEXT [--sentences 40000]

A worker has one thread. The time of a job is that of the whole job in a cluster that runs already, the start of its
workers included; CPU seconds are those that a worker spends in its batches.
"""

import argparse
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import ray
import torch
from transformers.utils import logging

from benchmarks.corpus_embedding import bare
from benchmarks.machine import describe
from elmo_hf.corpus_embedding import load_embedder
from elmo_hf.table_embedding import EmbedTable
from elmo_hf.text_files import read_lines
from examples.embed_with_ray import embed, number_sentences


class TimedEmbedTable(EmbedTable):
    """With a column of CPU seconds, all of a batch in its first row."""

    def __call__(self, rows: Any) -> Any:
        self._embedded([])  # loads the model
        start = time.process_time()
        rows = super().__call__(rows)
        seconds = [time.process_time() - start] + [0.0] * (rows.num_rows - 1)
        return rows.append_column("seconds", [seconds])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="a sentence per line")
    parser.add_argument("--sentences", type=int, default=40_000)
    parser.add_argument("--rows", type=int, default=2048)
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    lines = list(islice(read_lines(arguments.text), arguments.sentences))
    embedder = load_embedder(device="cpu")
    sentences = [embedder.tokenizer.tokenize(line) for line in lines]
    words = sum(map(len, sentences))
    print(describe())
    print(f"{len(lines):,} sentences, {words:,} words; one thread per worker", flush=True)

    torch.set_num_threads(1)
    bare(embedder, sentences[:1000], 128)
    start = time.process_time()
    bare(embedder, sentences[: len(sentences) // 4], 128)
    rate = sum(map(len, sentences[: len(sentences) // 4])) / (time.process_time() - start)
    print(f"bare model: {rate:,.0f} words per CPU second", flush=True)

    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    jobs = {}
    with tempfile.TemporaryDirectory() as folder:
        number_sentences(lines, Path(folder, "sentences"))
        for workers in (1, 2):
            place = Path(folder, str(workers))
            place.mkdir()
            (place / "sentences").symlink_to(Path(folder, "sentences"))
            start = time.perf_counter()
            embed(place, workers, arguments.rows, {"threads": 1}, TimedEmbedTable)
            jobs[workers] = time.perf_counter() - start
            table = pq.read_table(place / "vectors", columns=["sentence", "seconds"])
            if sorted(table["sentence"].to_pylist()) != list(range(len(lines))):
                raise SystemExit("error: each sentence must be there once.")
            cpu = sum(table["seconds"].to_pylist())
            print(f"{workers} workers: {jobs[workers]:.0f} s, {words / jobs[workers]:,.0f} words per second; ", end="")
            print(
                f"{words / cpu:,.0f} per CPU second of a worker, {words / cpu / rate:.2f} of the bare model",
                flush=True,
            )
    print(f"two against one: {jobs[1] / jobs[2]:.2f}")
    # 10^8 sentences of so many words.
    hours = 1e8 * words / len(lines) / (words / cpu) / 3600
    print(f"10^8 sentences of {words / len(lines):.1f} words: {hours:,.0f} core hours")


if __name__ == "__main__":
    main()
