"""What both fine-tuning examples are made of: options, a model with a new head, its training, and what they show."""

import argparse
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoTokenizer, EvalPrediction, Trainer, TrainingArguments, set_seed
from transformers.utils import logging

import elmo_hf  # noqa: F401 (registers ELMo with the Auto classes)
from elmo_hf.small_model import find_model

# What the head reads: the learned mix of all layers, the word vectors before the LSTMs, or an untrained biLM.
FEATURES = ("elmo", "static", "random")

console = Console(highlight=False)


@dataclass
class Task:
    """
    A data set and how to learn from it.

    Attributes:
        splits: "train", "dev" and "test"; an example has `words` and `labels`, one index or one per word.
        labels: names of the classes.
        auto_class: loads a model with the head that fits.
        collator: makes the collator, given the tokenizer.
        score: scores by name, given predicted and right classes as integers of one shape, -100 where nothing counts.
        best: the score that chooses the best epoch.
    """

    splits: dict[str, list[dict[str, Any]]]
    labels: list[str]
    auto_class: Any
    collator: Callable[[Any], Any]
    score: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    best: str


def option_parser(documentation: str, output: str) -> argparse.ArgumentParser:
    """Options of a fine-tuning script that documents itself so and writes into the folder `output`."""
    parser = argparse.ArgumentParser(
        description=documentation.strip().partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("model", type=find_model, help="folder or Hub name of an ELMo, or elmo-english")
    add("--data", type=Path, required=True, help="folder of the data set")
    add("--output", type=Path, default=Path(output), help="folder for model, tokenizer and layer_weights.png")
    add("--features", choices=FEATURES, default="elmo", help="all layers, word vectors alone, or random weights")
    add("--freeze", action=argparse.BooleanOptionalAction, default=True, help="train the mix and the head alone")
    add("--epochs", type=int, default=10)
    add("--batch-size", type=int, default=16)
    add("--learning-rate", type=float, default=2e-3, help="of the mix and the head")
    add("--bilm-learning-rate", type=float, default=1e-5, help="of the biLM, with --no-freeze")
    add("--head-lstm-size", type=int, default=100, help="width of one direction of the head's BiLSTM; 0: none")
    add("--dropout", type=float, default=0.3, help="on the mix that the head reads")
    add("--seed", type=int, default=0)
    add("--limit", type=int, help="no more examples than this of each part of the data")
    add("--write-text", type=Path, metavar="FILE", help="only write what is trained on there, for `elmo-hf pretrain`")
    return parser


def write_text(task: Task, path: Path) -> None:
    """The sentences to train on without their labels, one per line, words separated by spaces."""
    text = "".join(" ".join(example["words"]) + "\n" for example in task.splits["train"])
    path.write_text(text, encoding="utf-8")
    console.print(f"{path}: {len(task.splits['train']):,} sentences")


def load_model(task: Task, arguments: argparse.Namespace) -> tuple[Any, Any]:
    """The pretrained model under a new head for the task, and its tokenizer."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    set_seed(arguments.seed)
    config = AutoConfig.from_pretrained(
        arguments.model,
        id2label=dict(enumerate(task.labels)),
        label2id={label: index for index, label in enumerate(task.labels)},
        head_lstm_size=arguments.head_lstm_size or None,
        dropout=arguments.dropout,
    )
    if arguments.features == "static":
        config.scalar_mix_parameters = [1.0, *[-9e10] * config.num_hidden_layers]
    if arguments.features == "random":
        # Untrained layers have far smaller numbers, which would be most of the difference.
        config.do_layer_norm = True
        model = task.auto_class.from_config(config)
    else:
        model = task.auto_class.from_pretrained(arguments.model, config=config)
    if arguments.freeze:
        model.freeze_bilm()
    return model, AutoTokenizer.from_pretrained(arguments.model)


def encode(examples: Sequence[dict[str, Any]], tokenizer: Any) -> list[dict[str, Any]]:
    """`input_ids` (words, 50) and `labels` of each example."""
    return [
        {
            "input_ids": tokenizer(example["words"], is_split_into_words=True)["input_ids"],
            "labels": example["labels"],
        }
        for example in examples
    ]


def make_trainer(
    task: Task, model: Any, tokenizer: Any, data: dict[str, list[dict[str, Any]]], arguments: argparse.Namespace
) -> Trainer:
    """A `Trainer` that evaluates after each epoch and ends with the best one."""

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        return task.score(prediction.predictions.argmax(-1), prediction.label_ids)

    # transformers 5 has another name for it.
    grouped: dict[str, Any] = {"group_by_length": True}
    if "train_sampling_strategy" in {field.name for field in fields(TrainingArguments)}:
        grouped = {"train_sampling_strategy": "group_by_length"}
    training_arguments = TrainingArguments(
        output_dir=str(arguments.output / "checkpoints"),
        num_train_epochs=arguments.epochs,
        per_device_train_batch_size=arguments.batch_size,
        per_device_eval_batch_size=arguments.batch_size,
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model=task.best,
        save_total_limit=1,
        save_only_model=True,
        seed=arguments.seed,
        report_to="none",
        # The loading of a model shows none, the training does.
        disable_tqdm=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        **grouped,
    )
    groups = model.parameter_groups(arguments.learning_rate, arguments.bilm_learning_rate, weight_decay=0.01)
    return Trainer(
        model=model,
        args=training_arguments,
        train_dataset=data["train"],
        eval_dataset=data["dev"],
        data_collator=task.collator(tokenizer),
        processing_class=tokenizer,
        compute_metrics=compute_metrics,
        optimizers=(torch.optim.AdamW(groups), None),
    )


def train(task: Task, arguments: argparse.Namespace) -> Trainer:
    """Trains, shows the scores and what was learned about the layers, and saves model and tokenizer."""
    model, tokenizer = load_model(task, arguments)
    data = {name: encode(examples, tokenizer) for name, examples in task.splits.items()}
    sizes = ", ".join(f"{len(examples):,} {name}" for name, examples in data.items())
    trainable, total = model.num_parameters(only_trainable=True), model.num_parameters()
    console.print(f"Examples: {sizes}. Training {trainable:,} of {total:,} parameters.")
    trainer = make_trainer(task, model, tokenizer, data, arguments)
    trainer.train()
    # The best model is loaded by now.
    shutil.rmtree(trainer.args.output_dir)
    trainer.save_model(str(arguments.output))
    show_scores(scores(task, trainer, data))
    show_layer_weights(model, arguments.output)
    return trainer


def scores(task: Task, trainer: Trainer, data: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Scores of always answering the most frequent label, and of the model, on "dev" and "test"."""
    labels = np.concatenate([np.ravel(example["labels"]) for example in data["train"]])
    ((most_frequent, _),) = Counter(labels.tolist()).most_common(1)
    found = {}
    for split in ("dev", "test"):
        output: Any = trainer.predict(data[split])
        found[f"majority, {split}"] = task.score(np.full_like(output.label_ids, most_frequent), output.label_ids)
        found[f"model, {split}"] = task.score(output.predictions.argmax(-1), output.label_ids)
    return found


def show_scores(found: dict[str, dict[str, float]]) -> None:
    table = Table(title="Scores in percent")
    table.add_column("")
    for name in next(iter(found.values())):
        table.add_column(name, justify="right")
    for name, row in sorted(found.items()):
        table.add_row(name, *(f"{100 * value:.1f}" for value in row.values()))
    console.print(table)


def show_layer_weights(model: Any, folder: Path) -> None:
    """Prints the weight of each layer in the mix and draws it into `layer_weights.png`; nothing if it was fixed."""
    mix = model.elmo.scalar_mixes[0]
    if mix.fixed_parameters is not None:
        return
    weights, gamma = mix.weights().tolist(), mix.gamma.item()
    names = ["word vectors", *(f"LSTM layer {layer}" for layer in range(1, len(weights)))]
    table = Table(title="What the mix learned")
    table.add_column("layer")
    table.add_column("weight", justify="right")
    for name, weight in zip(names, weights, strict=True):
        table.add_row(name, f"{weight:.3f}")
    table.add_section()
    table.add_row("gamma", f"{gamma:.3f}")
    console.print(table)

    figure = Figure(figsize=(5, 0.5 + 0.4 * len(names)), layout="constrained")
    axes = figure.subplots()
    axes.bar_label(axes.barh(names, weights), fmt="%.2f", padding=3)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_title(f"Weight of each layer in the mix, $\\gamma$ = {gamma:.2f}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "layer_weights.png", dpi=150)
