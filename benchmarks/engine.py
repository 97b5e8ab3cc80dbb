"""
What the engine costs: looking whether what was prepared still holds, memory, and rounding.

    python -m benchmarks.engine                     # all three
    python -m benchmarks.engine --only check        # or memory, or rounding

Check: milliseconds of the check within one call, and its share of the call, for sentences of 20 words. Memory: what
a process of its own holds, before and after batches of 1, 8 and 64. Rounding: mean distance of each layer to
float64, beside AllenNLP's with the same random weights, and that of a model in training, which takes another way.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.inference_speed import SIZES, model_pair, read_sentences
from benchmarks.machine import describe
from elmo_hf import ElmoConfig, ElmoModel, batch_to_ids, engine_elmo

ROUNDS = 15
BATCH_SIZES = (1, 8, 32, 64)


def resident_memory() -> float:
    """GB that this process holds now. Linux only."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e9


def sentences(number: int, words: int = 20) -> torch.Tensor:
    return batch_to_ids([[f"word{row}-{column % 13}" for column in range(words)] for row in range(number)])


def timed(function: Callable, spent: list[float]) -> Callable:
    def wrapper(*args, **kwargs):
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            spent.append(time.perf_counter() - start)

    return wrapper


@torch.no_grad()
def check_table() -> Table:
    table = Table(title="check of what was prepared, sentences of 20 words")
    for column in ("size", "batch", "call ms", "check ms", "share"):
        table.add_column(column, justify="right")
    for size, options in SIZES.items():
        model = ElmoModel(ElmoConfig(**options)).eval()
        for batch_size in BATCH_SIZES:
            ids = sentences(batch_size)
            model(ids)
            model(ids)
            calls, shares = [], []
            for _ in range(ROUNDS if batch_size < 32 else 5):
                spent: list[float] = []
                described = mock.patch.object(engine_elmo, "_describe", timed(engine_elmo._describe, spent))
                holds = mock.patch.object(
                    engine_elmo.WeightRecord, "holds", timed(engine_elmo.WeightRecord.holds, spent)
                )
                with described, holds:
                    start = time.perf_counter()
                    model(ids)
                    calls.append(time.perf_counter() - start)
                shares.append(sum(spent))
            call, check = (sorted(values)[len(values) // 2] for values in (calls, shares))
            table.add_row(size, str(batch_size), f"{1e3 * call:.1f}", f"{1e3 * check:.2f}", f"{check / call:.1%}")
    return table


@torch.no_grad()
def print_memory():
    """Of this process, which is to be a new one."""
    torch.manual_seed(0)
    model = ElmoModel(ElmoConfig()).eval()
    figures = [resident_memory()]
    for batch_size in (1, 8, 64):
        for _ in range(2):
            model(sentences(batch_size))
        figures.append(resident_memory())
    print(*figures)


def memory_table() -> Table:
    command = [sys.executable, "-m", "benchmarks.engine", "--only", "memory-of-this-process"]
    figures = list(map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()))
    weights = sum(parameter.numel() * 4 for parameter in ElmoModel(ElmoConfig()).parameters()) / 1e9
    table = Table(title=f"resident GB, original size ({weights:.3f} GB of weights)")
    for name in ("model made", "after batch 1", "after batch 8", "after batch 64"):
        table.add_column(name, justify="right")
    table.add_row(*(f"{figure:.3f}" for figure in figures))
    table.caption = f"2.0 x the weights + 0.3 GB: {2 * weights + 0.3:.3f}"
    return table


def rounding_table() -> Table:
    table = Table(title="mean distance to float64, original size, random weights, 32 sentences in one batch")
    for column in ("layer", "elmo_hf", "elmo_hf, with gradients", "AllenNLP"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs, _ = model_pair("original", Path(folder))
    ids = batch_to_ids((read_sentences(None) * 2)[:32])
    with torch.no_grad():
        found = ours(ids, output_hidden_states=True).hidden_states
        activations = [layer[:, 1:-1] for layer in theirs(ids)["activations"]]
    trained = ours(ids, output_hidden_states=True).hidden_states
    with torch.no_grad():
        exact = ours.double()(ids, output_hidden_states=True)
    for index, layer in enumerate(exact.hidden_states):
        distances = [
            (candidate[index][exact.mask].double() - layer[exact.mask]).abs().mean().item()
            for candidate in (found, [value.detach() for value in trained], activations)
        ]
        table.add_row(str(index), *(f"{distance:.2e}" for distance in distances))
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["check", "memory", "rounding", "memory-of-this-process"])
    only = parser.parse_args().only
    if only == "memory-of-this-process":
        print_memory()
        return
    console = Console(width=100)
    console.print(describe())
    for name, make in (("memory", memory_table), ("check", check_table), ("rounding", rounding_table)):
        if only in (None, name):
            console.print(make())


if __name__ == "__main__":
    main()
