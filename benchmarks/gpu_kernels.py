"""
Words per second on a GPU with the kernels of `lstm_fused_elmo` and without them, in pairs, in float32 without TF32.

    python -m benchmarks.gpu_kernels [--sizes small original] [--rounds N]

Random weights and words, sentences of 5 to 40 words, the same for both; forward and training as in `gpu_speed`. The
largest difference of a number of the top layer stands beside them.
"""

import argparse
import random
from functools import partial
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.gpu_speed import best_seconds, forward, training
from benchmarks.inference_speed import SIZES, num_words, split
from elmo_hf import ElmoConfig, ElmoModel, batch_to_ids, lstm_elmo


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["small", "original"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64, 256])
    parser.add_argument("--rounds", type=int, default=3, help="the fastest counts")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    draw = random.Random(0)
    sentences = [[f"word{draw.randrange(5000)}" for _ in range(draw.randrange(5, 41))] for _ in range(512)]
    table = Table("size", "batch", "what", "with kernels", "without", "x", "largest difference")
    without = mock.patch.object(lstm_elmo, "has_fused_steps", return_value=False)
    for size in arguments.sizes:
        torch.manual_seed(0)
        model = ElmoModel(ElmoConfig(**SIZES[size])).eval().cuda()
        for batch_size in arguments.batches:
            some = sentences[: min(512, 4 * batch_size)]
            batches = [batch_to_ids(batch).cuda() for batch in split(some, batch_size)]
            with torch.no_grad():
                top = model(batches[0]).last_hidden_state
                with without:
                    difference = (top - model(batches[0]).last_hidden_state).abs().max()
            for what, run in (("forward", forward), ("training", training)):
                if what == "training" and batch_size not in (8, 64):
                    continue
                fast, _ = best_seconds(partial(run, model, batches), arguments.rounds)
                with without:
                    slow, _ = best_seconds(partial(run, model, batches), arguments.rounds)
                rates = [f"{num_words(some) / seconds:,.0f}" for seconds in (fast, slow)]
                table.add_row(size, str(batch_size), what, *rates, f"{slow / fast:.2f}", f"{difference:.1e}")
    for column in table.columns[3:]:
        column.justify = "right"
    console = Console(width=120)
    console.print(torch.cuda.get_device_name(), torch.__version__)
    console.print(table)


if __name__ == "__main__":
    main()
