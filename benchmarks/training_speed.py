"""
Forward and backward pass of the whole biLM on a CPU: this library and AllenNLP 2.10.1 with `requires_grad=True`.

    python -m benchmarks.training_speed --size original --batch 32
    python -m benchmarks.training_speed --size original --batch 32 --ours

With `--ours`, float32 and autocast to bfloat16, without AllenNLP.

Times are taken in one process, in turn; peak memory in a process for each, which runs two passes. A gradient of both
is compared before anything is timed.
"""

import argparse
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.allennlp_modules import load_allennlp
from benchmarks.inference_speed import SIZES, Sentences, num_words, read_sentences
from benchmarks.machine import best_times, describe, peak_memory, peak_memory_of
from elmo_hf import ElmoConfig, ElmoModel, batch_to_ids
from elmo_hf.checkpoints.bilm_hdf5 import read_model, write_weights
from elmo_hf.checkpoints.bilm_options import write_options

NAMES = ("elmo_hf", "AllenNLP")
OURS = ("elmo_hf", "elmo_hf, bfloat16")


def task(name: str, folder: Path, sentences: Sentences) -> Callable[[], torch.Tensor]:
    """One pass forward and backward, which returns the gradient of a weight that both have."""
    options, weights = folder / "options.json", folder / "weights.hdf5"
    ids = batch_to_ids(sentences)
    if name in OURS:
        ours = read_model(options, weights).train()

        def run_ours() -> torch.Tensor:
            ours.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=name != "elmo_hf"):
                outputs = ours(ids, output_hidden_states=True)
            sum(layer.float().square().sum() for layer in outputs.hidden_states).backward()
            return ours.encoder.forward_layers[0].weight_hh.grad

        return run_ours

    theirs = load_allennlp()._ElmoBiLm(str(options), str(weights), requires_grad=True).train()
    # Without the boundaries, as ours has it: (batch, words + 2, 1)
    is_word = torch.nn.functional.pad((ids > 0).any(-1), (1, 1))[..., None]

    def run_theirs() -> torch.Tensor:
        theirs.zero_grad()
        theirs._elmo_lstm.reset_states()
        sum((layer * is_word).square().sum() for layer in theirs(ids)["activations"]).backward()
        return theirs._elmo_lstm.forward_layer_0.state_linearity.weight.grad

    return run_theirs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--corpus", type=Path, help="tokenised sentences, one per line; those of the reference if absent"
    )
    parser.add_argument("--size", choices=SIZES, default="original")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ours", action="store_true", help="in float32 and bfloat16, not beside AllenNLP")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sentences = read_sentences(arguments.corpus)
    random.Random(0).shuffle(sentences)
    sentences = (sentences * (arguments.batch // len(sentences) + 1))[: arguments.batch]
    if arguments.memory_of:
        name, folder = arguments.memory_of
        run = task(name, Path(folder), sentences)
        run()
        run()
        print(peak_memory())
        return

    names = OURS if arguments.ours else NAMES
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        torch.manual_seed(0)
        config = ElmoConfig(**SIZES[arguments.size])
        write_options(config, folder / "options.json")
        write_weights(ElmoModel(config), config, folder / "weights.hdf5")
        both = {name: task(name, folder, sentences) for name in names}
        ours, theirs = (run() for run in both.values())
        difference = ((ours - theirs).abs().max() / theirs.abs().max()).item()
        seconds = best_times(both, arguments.rounds)
        of_text = ["--batch", str(arguments.batch)] + (["--corpus", str(arguments.corpus)] if arguments.corpus else [])
        memory = {name: peak_memory_of("training_speed", "--memory-of", name, temporary, *of_text) for name in names}

    table = Table(title=f"{arguments.size} size, batch {arguments.batch}, forward and backward")
    for column in ("", "words per second", "seconds", "peak GB"):
        table.add_column(column, justify="right")
    for name in both:
        rate = num_words(sentences) / seconds[name]
        table.add_row(name, f"{rate:.0f}", f"{seconds[name]:.2f}", f"{memory[name]:.2f}")
    table.add_row(
        "ratio", f"{seconds[names[1]] / seconds['elmo_hf']:.2f}", "", f"{memory['elmo_hf'] / memory[names[1]]:.2f}"
    )
    table.caption = f"largest difference of a gradient, relative to the largest gradient: {difference:.1e}"
    console = Console(width=100)
    console.print(describe())
    console.print(table)


if __name__ == "__main__":
    main()
