"""
Words per second on a GPU: this library in float32 and bfloat16, and AllenNLP, with the same random weights.

    python -m benchmarks.gpu_speed [--corpus FILE] [--rounds N]

Forward: all layers of batches of character ids that are on the GPU already. Training: forward, backward of the mean
square of the top layer, and one step of SGD. TF32 is off. Memory is the highest of one pass.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.inference_speed import model_pair, num_words, read_sentences, split
from benchmarks.machine import describe
from elmo_hf import ElmoModel, batch_to_ids

BATCH_SIZES = (1, 8, 32, 64, 256)


def best_seconds(run: Callable[[], object], rounds: int) -> tuple[float, float]:
    """The fastest of `rounds` after one to warm up, and the GB that it needed."""
    best = float("inf")
    for turn in range(rounds + 1):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start) if turn else best
    return best, torch.cuda.max_memory_allocated() / 1e9


def forward(model: nn.Module, batches: list[Tensor]):
    options = {"output_hidden_states": True} if isinstance(model, ElmoModel) else {}
    with torch.no_grad():
        for batch in batches:
            model(batch, **options)


def training(model: nn.Module, batches: list[Tensor]):
    model.requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    for batch in batches:
        found = model(batch)
        top = found.last_hidden_state if isinstance(model, ElmoModel) else found["activations"][-1]
        top.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--corpus", type=Path, help="tokenised sentences, one per line; those of the reference if absent"
    )
    parser.add_argument("--rounds", type=int, default=3, help="the fastest counts")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    console = Console(width=120)
    console.print(f"{describe()}, {torch.cuda.get_device_name()}")
    sentences = read_sentences(arguments.corpus)
    sentences = (sentences * (512 // len(sentences) + 1))[:512]
    for size in ("small", "original"):
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs, _ = (model.cuda() for model in model_pair(size, Path(folder)))
        table = Table(title=f"{size} size, words per second")
        for column in ("batch", "what", "elmo_hf", "bfloat16", "AllenNLP", "x AllenNLP", "GB", "GB AllenNLP"):
            table.add_column(column, justify="right")
        for batch_size in BATCH_SIZES:
            some = sentences[: min(512, 8 * batch_size)]
            batches = [batch_to_ids(batch).cuda() for batch in split(some, batch_size)]
            for what, run in (("forward", forward), ("training", training)):
                if what == "training" and batch_size not in (8, 32, 64):
                    continue
                seconds, memory = best_seconds(partial(run, ours, batches), arguments.rounds)
                with torch.autocast("cuda", torch.bfloat16):
                    half, _ = best_seconds(partial(run, ours, batches), arguments.rounds)
                slow, their_memory = best_seconds(partial(run, theirs, batches), 1)
                words = num_words(some)
                table.add_row(
                    str(batch_size),
                    what,
                    *(f"{words / value:,.0f}" for value in (seconds, half, slow)),
                    f"{slow / seconds:.1f}",
                    f"{memory:.2f}",
                    f"{their_memory:.2f}",
                )
        console.print(table)


if __name__ == "__main__":
    main()
