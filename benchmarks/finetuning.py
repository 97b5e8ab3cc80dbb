"""
What a frozen biLM is worth to a head, and what it costs.

    python -m benchmarks.finetuning MODEL_DIR --wnut FOLDER --polarity FOLDER --seeds 3
    python -m benchmarks.finetuning --frozen

The first trains the heads of `examples/` over all layers, over the word vectors alone and over random weights, with
several seeds each, and prints test scores as mean ± standard deviation. A frozen biLM gives the same layers in every
epoch: they are computed once and kept, 4 bytes x layers x `hidden_size` a word. Each seed has its own random biLM.
The second measures time and peak memory of a training step at the original size, each in a process of its own.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import ProgressCallback

from benchmarks.inference_speed import SIZES, num_words, read_sentences
from benchmarks.machine import best_times, describe, peak_memory
from elmo_hf import ElmoConfig, ElmoEmbedder, ElmoForTokenClassification, ElmoModel, batch_to_ids
from elmo_hf.modeling_elmo import ElmoModelOutput
from examples import finetune_classification, finetune_ner
from examples.finetuning import FEATURES, Task, load_model, make_trainer, option_parser, scores

console = Console(width=100, highlight=False)

# Head and training of each column. Without a BiLSTM, the head has no context but what the features bring.
TASKS = {
    "WNUT-17, entity F1": (finetune_ner, ["--epochs", "8"]),
    "polarity, accuracy": (finetune_classification, ["--epochs", "3"]),
    "polarity, no BiLSTM": (finetune_classification, ["--epochs", "10", "--head-lstm-size", "0"]),
}
# What runs in a process of its own, and whether the biLM is frozen there.
STEPS = {"forward only": True, "frozen biLM": True, "whole model": False}


class StoredLayers(nn.Module):
    """Stands in a head for a frozen [`ElmoModel`] whose layers were computed before."""

    def __init__(self, elmo: ElmoModel):
        super().__init__()
        self.scalar_mixes, self.dropout = elmo.scalar_mixes, elmo.dropout
        # Nothing of them is left to train or to save.
        self.character_encoder, self.encoder = nn.ModuleList(), nn.ModuleList()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *_: Any, **__: Any) -> ElmoModelOutput:
        """Mixes (batch, words, layers, hidden_size) layers."""
        mixed = self.scalar_mixes[0](list(input_ids.unbind(-2)), attention_mask)
        return ElmoModelOutput(last_hidden_state=self.dropout(mixed), attention_mask=attention_mask)


def store(model: Any, tokenizer: Any, examples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Examples with their (words, layers, hidden_size) layers as `input_ids`."""
    layers = ElmoEmbedder(model.elmo, tokenizer).embed((example["words"] for example in examples), layers="all")
    return [
        {"input_ids": torch.from_numpy(array).transpose(0, 1), "labels": example["labels"]}
        for example, array in zip(examples, layers, strict=True)
    ]


def collate(examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    layers = [example["input_ids"] for example in examples]
    labels = [torch.tensor(example["labels"]) for example in examples]
    one_a_word = labels[0].dim() > 0
    return {
        "input_ids": pad_sequence(layers, batch_first=True),
        "attention_mask": pad_sequence([torch.ones(len(words), dtype=torch.bool) for words in layers], True),
        "labels": pad_sequence(labels, True, -100) if one_a_word else torch.stack(labels),
    }


def compare(
    task: Task, arguments: argparse.Namespace, kinds: Sequence[str], seeds: int, name: str
) -> dict[str, list[float]]:
    """Test scores of each kind of features, one a seed, and of the majority. Prints each as soon as it is known."""
    task.collator = lambda tokenizer: collate
    found: dict[str, list[float]] = {"majority": [], **{features: [] for features in kinds}}
    data: dict[str, list[dict[str, Any]]] = {}
    runs = [(features, seed) for features in kinds for seed in range(seeds)]
    for features, seed in track(runs, description=name, console=console):
        arguments.features, arguments.seed = features, seed
        model, tokenizer = load_model(task, arguments)
        if features == "random" or not data:
            data = {split: store(model, tokenizer, examples) for split, examples in task.splits.items()}
        model.elmo = StoredLayers(model.elmo)
        trainer = make_trainer(task, model, tokenizer, data, arguments)
        trainer.remove_callback(ProgressCallback)
        trainer.train()
        rows = scores(task, trainer, data)
        found[features].append(rows["model, test"][task.best])
        console.print(f"{name}, {features}, seed {seed}: {100 * found[features][-1]:.1f}")
        found["majority"] = [rows["majority, test"][task.best]]
    return found


def comparison_table(options: argparse.Namespace) -> Table:
    folders = {finetune_ner: options.wnut, finetune_classification: options.polarity}
    kinds = options.features or FEATURES
    columns = {}
    for name, (example, given) in TASKS.items():
        folder = folders[example]
        if folder is None:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            arguments = option_parser(name, temporary).parse_args([options.model, "--data", str(folder), *given])
            arguments.epochs = options.epochs or arguments.epochs
            task = example.read_task(folder, options.limit)
            columns[name] = compare(task, arguments, kinds, options.seeds, name)
    table = Table(title=f"Test scores in percent, frozen biLM, {options.seeds} seeds")
    table.add_column("features")
    for name in columns:
        table.add_column(name, justify="right")
    for row in ("majority", *kinds):
        table.add_row(row, *(_mean_and_deviation(column[row]) for column in columns.values()))
    return table


def _mean_and_deviation(values: list[float]) -> str:
    deviation = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{deviation}"


def measure_step(name: str, rounds: int) -> None:
    """Prints seconds with new and with remembered words, peak GB, and how many weights of the biLM got a gradient."""
    torch.manual_seed(0)
    with torch.device("meta"):
        model = ElmoForTokenClassification(ElmoConfig(**SIZES["original"], head_lstm_size=100, num_labels=13))
    model = model.to_empty(device="cpu").train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.05)
    sentences = step_sentences()
    ids = batch_to_ids(sentences)
    labels = torch.where((ids > 0).any(-1), 1, -100)
    if STEPS[name]:
        model.freeze_bilm()
    optimizer = torch.optim.AdamW(model.parameter_groups(1e-3, 1e-5))

    def step() -> None:
        if name == "forward only":
            with torch.no_grad():
                model(ids)
            return
        model(ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def step_of_new_words() -> None:
        model.elmo.character_encoder.word_vectors.clear()
        step()

    step()
    seconds = best_times({"new": step_of_new_words, "known": step}, rounds)
    peak = peak_memory()
    if name != "forward only":
        model(ids, labels=labels).loss.backward()
    bilm = [*model.elmo.character_encoder.parameters(), *model.elmo.encoder.parameters()]
    print(seconds["new"], seconds["known"], peak, sum(parameter.grad is not None for parameter in bilm), len(bilm))


def step_sentences() -> list[list[str]]:
    """32 sentences: the 30 reference sentences and the first two again."""
    sentences = read_sentences(None)
    return (sentences + sentences)[:32]


def step_table(rounds: int) -> Table:
    words = num_words(step_sentences())
    table = Table(title=f"One step at the original size, batch 32 ({words} words), BiLSTM tagger, AdamW")
    for column in ("", "seconds", "seconds, known words", "peak GB", "biLM weights with gradient"):
        table.add_column(column, justify="right" if column else "left")
    for name in STEPS:
        command = [sys.executable, "-m", "benchmarks.finetuning", "--step", name, "--rounds", str(rounds)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        new, known, peak, trained, total = map(float, output.split())
        table.add_row(name, f"{new:.2f}", f"{known:.2f}", f"{peak:.2f}", f"{trained:.0f} of {total:.0f}")
    table.caption = "known words: their vectors are remembered from an earlier step, as in a second epoch"
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="folder or Hub name of an ELMo")
    parser.add_argument("--wnut", type=Path, help="folder of WNUT-17, as for examples.finetune_ner")
    parser.add_argument("--polarity", type=Path, help="folder of sentence polarity")
    parser.add_argument("--features", choices=FEATURES, action="append", help="all kinds without it")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="of every task, those of TASKS when not given")
    parser.add_argument("--limit", type=int, help="no more examples than this of each part of the data")
    parser.add_argument("--frozen", action="store_true", help="measure training steps instead")
    parser.add_argument("--rounds", type=int, default=3, help="of the steps, of which the fastest counts")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        measure_step(options.step, options.rounds)
        return
    if not options.frozen and (options.model is None or (options.wnut is None and options.polarity is None)):
        parser.error("give MODEL_DIR and --wnut, --polarity or both; or --frozen.")
    table = step_table(options.rounds) if options.frozen else comparison_table(options)
    console.print(describe())
    console.print(table)


if __name__ == "__main__":
    main()
