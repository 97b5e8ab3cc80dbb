"""
Where the time of a model goes on a CPU, by kinds of operators.

    python -m benchmarks.inference_profile --corpus SENTENCES [--size elmo-english]

Shares of the time of PyTorch's operators, on one thread (its profiler does not see threads of the engine), random
weights, and vectors of words that no earlier pass has left. `between` is what is spent between operators, in Python.
"""

import argparse
import random
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from benchmarks.inference_speed import BATCH_SIZES, SIZES, num_words, read_sentences, split
from benchmarks.machine import describe
from benchmarks.quantization import run_all
from elmo_hf import ElmoConfig, ElmoModel, batch_to_ids

KINDS = {
    "products": ("_linear_pointwise", "mm", "addmm", "bmm", "baddbmm", "_convolution", "mkldnn_convolution", "linear"),
    "functions": ("sigmoid_", "sigmoid", "tanh_", "tanh", "relu", "relu_"),
    "sums and clips": ("add_", "add", "mul_", "mul", "addcmul_", "clamp_", "clamp", "sub_", "rsub", "lerp"),
    "checks": ("sum", "equal"),
    "copies and gathering": (
        "copy_",
        "index",
        "index_select",
        "cat",
        "stack",
        "clone",
        "index_copy",
        "masked_scatter_",
    ),
}
SENTENCES = 64


def shares(model: ElmoModel, batches: list[torch.Tensor]) -> tuple[dict[str, float], float]:
    """Share of each kind, and seconds of a pass without the profiler."""
    run_all(model, batches)
    model.character_encoder.word_vectors.forget_words()
    start = time.perf_counter()
    run_all(model, batches)
    whole = time.perf_counter() - start
    model.character_encoder.word_vectors.forget_words()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run_all(model, batches)
    kind_of = {name: kind for kind, names in KINDS.items() for name in names}
    spent = dict.fromkeys([*KINDS, "other operators"], 0.0)
    for event in profiler.key_averages():
        spent[kind_of.get(event.key.split("::")[-1], "other operators")] += event.self_cpu_time_total / 1e6
    spent["between"] = max(0.0, whole - sum(spent.values()))
    return {kind: seconds / sum(spent.values()) for kind, seconds in spent.items()}, whole


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="a tokenised sentence per line; those of the reference without it")
    parser.add_argument("--size", choices=SIZES, action="append", help="all sizes without it")
    arguments = parser.parse_args()
    sentences = read_sentences(arguments.corpus)
    random.Random(0).shuffle(sentences)
    torch.set_num_threads(1)
    console = Console(width=130)
    console.print(describe())
    for size in arguments.size or SIZES:
        torch.manual_seed(0)
        model = ElmoModel(ElmoConfig(**SIZES[size])).eval()
        table = Table(title=f"{size} size, share of the time")
        for batch_size in BATCH_SIZES:
            some = sentences[: 8 if batch_size == 1 else SENTENCES]
            found, seconds = shares(model, [batch_to_ids(batch) for batch in split(some, batch_size)])
            if not table.columns:
                for column in ("batch", "words per second", *found):
                    table.add_column(column, justify="right")
            rate = num_words(some) / seconds
            table.add_row(str(batch_size), f"{rate:,.0f}", *(f"{share:.3f}" for share in found.values()))
        console.print(table)


if __name__ == "__main__":
    main()
