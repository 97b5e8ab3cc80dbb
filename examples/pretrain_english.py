"""
The recipe of the English model inside the package, from four archives of text to one folder.

    python -m examples.pretrain_english text ARCHIVES_DIR WORK_DIR
    python -m examples.pretrain_english pack WORK_DIR
    python -m examples.pretrain_english train WORK_DIR/packed RUN_DIR
    python -m examples.pretrain_english finish RUN_DIR MODEL_DIR

`text` cleans the archives (see `english_text.py`), `pack` turns words into numbers, `train` trains on a GPU, in pieces
if it must, `finish` writes the model with 16-bit weights, its log and its curve. Each does again only what is
not there. `trials` runs the short trainings by which sizes, rates and shares were chosen, each on as many words.

On a machine without a GPU, `elmo-hf pretrain` trains on `WORK_DIR/text/train/*` as it does on any text.
"""

import argparse
import csv
import dataclasses
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoTokenizer
from elmo_hf.configuration_elmo import WORD_VOCABULARY_START
from elmo_hf.files import atomic_file
from examples import english_text, packed_text
from examples.glove import learn_vectors
from examples.graph_training import (
    Training,
    full_softmax,
    perplexities,
    rate_at,
    read_text,
    rough_softmax,
    sampled_softmax,
    shares_of_rows,
    spelled_words,
)

# Words of a packed text, of which a GPU that is lent for minutes can be sent 60 MB. Novels and textbooks are whole.
MAX_WORDS = {"books": 19_500_000, "speeches": 18_500_000}


@dataclass
class Recipe:
    """Everything that a training depends on, besides its text and its length."""

    projection_dim: int = 160
    cell_size: int = 896
    char_cnn_filters: tuple[tuple[int, int], ...] = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256))
    num_highway_layers: int = 1
    word_vocab_size: int = 30_000
    dropout: float = 0.1
    rows: int = 256
    unroll_steps: int = 20
    learning_rate: float = 0.006
    weight_decay: float = 0.01
    beta2: float = 0.99
    # How often a window that begins with a sentence starts from zeros instead of the carried state.
    reset: float = 0.5
    # How much of the weights their average takes on in each batch.
    average: float = 0.002
    # Words that the softmax samples; 0 for all, as on a GPU.
    num_samples: int = 0
    # Whether products are of bfloat16, for which the CPU should have instructions.
    bfloat16: bool = False
    # A folder of a model whose weights to start from.
    start: str | None = None
    # Batches of words whose vectors by GloVe, in this folder, the character encoder learns first.
    teacher_batches: int = 0
    teacher: str = "glove"
    # Of the batches, the share with a rising rate (500 batches at most), and the share with a falling one.
    warm_up: float = 0.1
    decay: float = 0.3
    # Of the words that are read, per source.
    shares: dict[str, float] = field(
        default_factory=lambda: {"novels": 0.27, "books": 0.36, "speeches": 0.25, "textbooks": 0.12}
    )

    def config(self) -> ElmoConfig:
        return ElmoConfig(
            projection_dim=self.projection_dim,
            cell_size=self.cell_size,
            num_hidden_layers=2,
            char_cnn_filters=[list(filters) for filters in self.char_cnn_filters],
            num_highway_layers=self.num_highway_layers,
            word_vocab_size=self.word_vocab_size,
            num_sampled_words=self.num_samples or 2048,
            bilm_dropout=self.dropout,
        )


_BASE = Recipe()
_SHARES = {"novels": 0.25, "books": 0.31, "speeches": 0.33, "textbooks": 0.11}
# Where the trials began, and where they went on.
_FIRST: dict[str, Any] = {
    "projection_dim": 256,
    "cell_size": 512,
    "rows": 512,
    "learning_rate": 0.004,
    "dropout": 0.0,
    "shares": _SHARES,
}
_SECOND: dict[str, Any] = {**_FIRST, "projection_dim": 160, "cell_size": 896, "learning_rate": 0.008}
# In the order in which they were run, each on as many words of one packed text.
TRIALS: dict[str, dict[str, Any]] = {
    "256 x 512": _FIRST,
    "256 x 512, learning rate 0.002": {**_FIRST, "learning_rate": 0.002},
    "256 x 512, learning rate 0.008": {**_FIRST, "learning_rate": 0.008},
    "192 x 704": {**_FIRST, "projection_dim": 192, "cell_size": 704},
    "128 x 1024": {**_FIRST, "projection_dim": 128, "cell_size": 1024},
    "320 x 384": {**_FIRST, "projection_dim": 320, "cell_size": 384},
    "256 x 416, 1,024 filters": {
        **_FIRST,
        "char_cnn_filters": ((1, 32), (2, 64), (3, 128), (4, 256), (5, 288), (6, 256)),
        "cell_size": 416,
    },
    "160 x 384, half the size": {
        **_FIRST,
        "projection_dim": 160,
        "cell_size": 384,
        "char_cnn_filters": ((1, 32), (2, 32), (3, 64), (4, 128), (5, 128)),
    },
    "256 x 512, dropout 0.1": {**_FIRST, "dropout": 0.1},
    "160 x 896": _SECOND,
    "128 x 1152": {**_SECOND, "projection_dim": 128, "cell_size": 1152},
    "160 x 896, learning rate 0.016": {**_SECOND, "learning_rate": 0.016},
    "160 x 896, dropout 0.1": {**_SECOND, "dropout": 0.1},
    "160 x 896, 256 rows": {**_SECOND, "rows": 256, "learning_rate": 0.006},
    "160 x 896, 256 rows in windows of 40": {**_SECOND, "rows": 256, "unroll_steps": 40},
    "160 x 896, a fifth of speeches": {
        **_SECOND,
        "shares": {**_SHARES, "novels": 0.31, "books": 0.38, "speeches": 0.2},
    },
}
# For a CPU, on fewer words: what products in bfloat16 cost, and a start from vectors of words.
_CPU = {**_SECOND, "rows": 128, "learning_rate": 0.006, "num_samples": 2048}
CPU_TRIALS: dict[str, dict[str, Any]] = {
    "on a CPU": _CPU,
    "on a CPU, bfloat16": {**_CPU, "bfloat16": True},
    "on a CPU, bfloat16, GloVe first": {**_CPU, "bfloat16": True, "teacher_batches": 1000},
}


# Batches between two lines of the log, and between two looks at other text.
LOG_BATCHES, CHECK_BATCHES = 100, 8000
# Batches before the speed of a training is known.
FIRST_BATCHES = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("text")
    command.add_argument("archives", type=Path, metavar="ARCHIVES_DIR")
    command.add_argument("work", type=Path, metavar="WORK_DIR")
    command = commands.add_parser("pack")
    command.add_argument("work", type=Path, metavar="WORK_DIR")
    command.add_argument("--all", action="store_true", help="of the text, not the 60 MB that can be sent to a GPU")
    command.add_argument("--start", type=Path, metavar="MODEL_DIR", help="a model whose vocabulary comes first")
    command = commands.add_parser("trials")
    command.add_argument("packed", type=Path, metavar="PACKED_DIR")
    command.add_argument("output", type=Path, metavar="TABLE")
    command.add_argument("--words", type=float, default=5e6, help="that each trial reads")
    command.add_argument("--teacher", type=Path, default=Path("glove"), help="the folder of GloVe's vectors")
    command.add_argument("--only", nargs="*", default=list(TRIALS), help="names of trials, on a CPU too")
    command = commands.add_parser("profile")
    command.add_argument("packed", type=Path, metavar="PACKED_DIR")
    command = commands.add_parser("train")
    command.add_argument("packed", type=Path, metavar="PACKED_DIR")
    command.add_argument("output", type=Path, metavar="RUN_DIR")
    command.add_argument("--words", type=float, default=2e8, help="to read, at most")
    command.add_argument("--seconds", type=float, help="to train in all, at most: fewer words are read then")
    command.add_argument("--piece", type=float, help="seconds to train now; the same command goes on")
    command.add_argument("--check", type=int, default=CHECK_BATCHES, help="batches between looks at other text")
    command.add_argument("--options", type=json.loads, default={}, help="of the recipe, as JSON")
    command = commands.add_parser("finish")
    command.add_argument("run", type=Path, metavar="RUN_DIR")
    command.add_argument("output", type=Path, metavar="MODEL_DIR")
    arguments = parser.parse_args()
    if arguments.command == "text":
        english_text.write_texts(arguments.archives, arguments.work / "text")
    elif arguments.command == "pack":
        packed_text.pack(
            arguments.work / "text",
            arguments.work / "packed",
            max_words=None if arguments.all else MAX_WORDS,
            vocabulary=words_of(arguments.start)[len(WORD_VOCABULARY_START) :] if arguments.start else (),
        )
    elif arguments.command == "trials":
        trials(arguments.packed, arguments.output, arguments.words, arguments.only, arguments.teacher)
    elif arguments.command == "profile":
        profile(arguments.packed)
    elif arguments.command == "train":
        recipe = dataclasses.replace(_BASE, **arguments.options)
        limits = arguments.words, arguments.seconds, arguments.piece
        train(arguments.packed, arguments.output, recipe, *limits, arguments.check)
    else:
        finish(arguments.run, arguments.output)


def words_of(model: str | Path) -> list[str]:
    """The words that the model of a folder predicts."""
    return ElmoTokenizer.from_pretrained(model).word_vocabulary or []


class Material:
    """A packed text on the GPU, or on the CPU where there is none."""

    def __init__(self, packed: Path):
        self.packed = packed
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Products of 10 bits of mantissa, in training and in the perplexities of its log.
        torch.backends.cuda.matmul.allow_tf32 = True
        self.train, self.check = (read_text(packed, kind, self.device) for kind in ("train", "check"))
        self.spelled = spelled_words(packed, self.device)
        self.has_kernel = self.device.type == "cuda" and kernel_works(self.device)

    def training(self, recipe: Recipe) -> Training:
        torch.manual_seed(0)
        model = ElmoForPreTraining(recipe.config()).to(self.device).train()
        model.elmo.character_encoder.word_cache_size = 0
        if recipe.start is not None:
            if words_of(recipe.start) != packed_text.read_words(self.packed)[: recipe.word_vocab_size]:
                raise ValueError(
                    f"{self.packed}: must have the words of {recipe.start} first, has others. Pack the text for it."
                )
            model.load_state_dict(ElmoForPreTraining.from_pretrained(recipe.start).state_dict())
        if recipe.teacher_batches:
            words, encode = packed_text.read_words(self.packed), model.elmo.character_encoder
            cosine = learn_vectors(encode, words, self.spelled, Path(recipe.teacher), recipe.teacher_batches)
            print(f"cosine to GloVe {cosine:.2f}", flush=True)
        rows = self.train.rows(shares_of_rows(recipe.shares, recipe.rows), recipe.unroll_steps)
        return Training(
            model,
            self.train,
            rows,
            self.spelled,
            recipe.unroll_steps,
            recipe.learning_rate,
            recipe.weight_decay,
            recipe.reset,
            recipe.average,
            loss=sampled_softmax if recipe.num_samples else rough_softmax if self.has_kernel else full_softmax,
            beta2=recipe.beta2,
            bfloat16=recipe.bfloat16,
        )

    def perplexities(self, training: Training, average: bool = False) -> dict[str, float]:
        if average:
            training.swap_average()
        found = perplexities(training.model, self.check, self.spelled)
        if average:
            training.swap_average()
        return found


def kernel_works(device: torch.device) -> bool:
    """Whether the kernel of the softmax can be compiled there, and gives what PyTorch does."""
    try:
        from examples.softmax_kernel import losses_and_gradients

        logits = 3 * torch.randn(64, 30_000, device=device)
        labels = torch.arange(64, device=device) * 450
        labels[::7] = -100
        logits.requires_grad_()
        expected = F.cross_entropy(logits, labels, reduction="none")
        (gradients,) = torch.autograd.grad(expected.sum(), logits)
        found = logits.detach().clone()
        losses = losses_and_gradients(found, labels)
        torch.testing.assert_close(losses, expected.detach(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found, gradients, rtol=1e-4, atol=1e-5)
    except Exception as error:  # a compiler may fail in many ways, and training goes on without it
        print(f"no kernel for the softmax: {error}", flush=True)
        return False
    return True


def profile(packed: Path) -> None:
    material = Material(packed)
    training = material.training(_BASE)
    for _ in range(20):
        training.train(0.1)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        for _ in range(5):
            training.train(0.1)
        torch.cuda.synchronize()
    print(found.key_averages().table(sort_by="cuda_time_total", row_limit=45, max_name_column_width=90))


def trials(packed: Path, output: Path, words: float, names: list[str], teacher: Path) -> None:
    material, lines = Material(packed), []
    for name in names:
        # So short a training has no time for a long average.
        recipe = dataclasses.replace(
            _BASE, **{"average": 0.02, "teacher": str(teacher), **{**TRIALS, **CPU_TRIALS}[name]}
        )
        before = time.perf_counter()
        training = material.training(recipe)
        ready = time.perf_counter() - before
        number = round(words / recipe.rows / recipe.unroll_steps)
        before = time.perf_counter()
        for batch in range(number):
            training.train(rate_at(batch / number, warm_up=0.1))
        forward, backward = training.mean_losses()
        seconds = time.perf_counter() - before
        found = material.perplexities(training)
        averaged = material.perplexities(training, average=True)
        lines.append(
            {
                "trial": name,
                "batches": number,
                "parameters": training.model.elmo.num_parameters(),
                "seconds before": round(ready),
                "words per second": round(words / seconds),
                "training loss": round((forward + backward) / 2, 4),
                **{source: round(value, 2) for source, value in found.items()},
                **{f"{source}, averaged weights": round(value, 2) for source, value in averaged.items()},
            }
        )
        print(json.dumps(lines[-1]), flush=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
        del training
        torch.cuda.empty_cache()


def train(
    packed: Path,
    output: Path,
    recipe: Recipe,
    words: float,
    seconds: float | None = None,
    piece: float | None = None,
    check_batches: int = CHECK_BATCHES,
) -> None:
    """
    Trains to the end, or as far as one piece goes; what is in `output` goes on where it was stopped.

    Args:
        packed: the text.
        output: the folder of the training.
        recipe: how to train.
        words: to read in all.
        seconds: how long to train in all, at most: by the speed of the first batches, fewer words are read.
        piece: how long to train in this call, at most.
        check_batches: between two looks at other text, after which the training is saved.
    """
    output.mkdir(parents=True, exist_ok=True)
    described = json.dumps(dataclasses.asdict(recipe), indent=1) + "\n"
    state_file, recipe_file = output / "state.pt", output / "recipe.json"
    if state_file.exists() and recipe_file.read_text(encoding="utf-8") != described:
        raise ValueError(f"{output}: must be a new folder or hold a training by the same recipe, holds another one.")
    recipe_file.write_text(described, encoding="utf-8")
    vocabulary = packed_text.read_words(packed)[: recipe.word_vocab_size]
    (output / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    material = Material(packed)
    training = material.training(recipe)
    per_batch = recipe.rows * recipe.unroll_steps
    batch, number, before = 0, math.ceil(words / per_batch), 0.0
    lines: list[dict[str, Any]] = []
    if state_file.exists():
        state = torch.load(state_file, map_location=material.device)
        batch, number, before, lines = (state[name] for name in ("batch", "number", "seconds", "lines"))
        training.load_state_dict(state["training"])
    begin = time.perf_counter()
    while batch < number:
        training.train(rate_at(batch / number, min(recipe.warm_up, 500 / number), recipe.decay))
        batch += 1
        past = before + time.perf_counter() - begin
        if batch == FIRST_BATCHES and seconds is not None:
            training.mean_losses()  # waits for the GPU
            number = min(number, int(batch * seconds / (before + time.perf_counter() - begin)))
        stops = batch == number or (piece is not None and past - before >= piece)
        if batch % LOG_BATCHES == 0 or stops:
            lines.append(_log_line(training, batch, number, per_batch, past))
        if batch % check_batches == 0 or stops:
            lines[-1]["perplexity"] = material.perplexities(training)
            lines[-1]["averaged_perplexity"] = material.perplexities(training, average=True)
            lines[-1]["words_without_room"] = training.words_without_room
            print(json.dumps(lines[-1]), flush=True)
            state = {"batch": batch, "number": number, "lines": lines, "training": training.state_dict()}
            with atomic_file(state_file, overwrite=True) as file:
                torch.save({**state, "seconds": before + time.perf_counter() - begin}, file)
            (output / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        if stops:
            break
    save(training.model, output, "last")
    training.swap_average()
    save(training.model, output, "average")


def _log_line(training: Training, batch: int, number: int, per_batch: int, seconds: float) -> dict[str, Any]:
    forward, backward = training.mean_losses()
    return {
        "batch": batch,
        "of": number,
        "words": batch * per_batch,
        "seconds": round(seconds, 1),
        "words_per_second": round(batch * per_batch / seconds),
        "forward_loss": round(forward, 4),
        "backward_loss": round(backward, 4),
    }


def save(model: ElmoForPreTraining, output: Path, name: str) -> None:
    """16-bit weights in two files, the encoder and the softmax: what comes back from a lent machine may be small."""
    halved = {key: weight.detach().to("cpu", torch.float16) for key, weight in model.state_dict().items()}
    for part in ("elmo", "softmax"):
        weights = {key: weight for key, weight in halved.items() if key.startswith(f"{part}.")}
        save_file(weights, output / f"{name}.{part}.safetensors")


def finish(run: Path, output: Path, name: str = "average") -> None:
    recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    config = Recipe(**recipe).config()
    model = ElmoForPreTraining(config).eval()
    weights = {}
    for part in ("elmo", "softmax"):
        weights.update(load_file(run / f"{name}.{part}.safetensors"))
    model.load_state_dict(weights)
    # Of its training alone: who trains a head over it finds the same vectors in each epoch.
    model.config.bilm_dropout = 0.0
    # The configuration says float32, which is what the weights become when they are loaded.
    model.save_pretrained(output, state_dict=weights)
    tokenizer = ElmoTokenizer()
    tokenizer.word_vocabulary = (run / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    tokenizer.save_pretrained(output)
    # The package has the code.
    for copy in output.glob("*_elmo.py"):
        copy.unlink()
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    write_log(lines, output / "training_log.csv")
    draw_curve(lines, output / "training_curve.png")
    table = Table("file", "bytes")
    for path in sorted(output.iterdir()):
        table.add_row(path.name, f"{path.stat().st_size:,}")
    Console().print(table)


def write_log(lines: list[dict[str, Any]], path: Path) -> None:
    columns = ["batch", "words", "seconds", "forward_loss", "backward_loss"]
    checks = [f"{kind}perplexity" for kind in ("", "averaged_")]
    sources = list(next(line for line in lines if "perplexity" in line)["perplexity"])
    columns += [f"{check}_{source}" for check in checks for source in sources]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for line in lines:
            found = {
                f"{check}_{name}": round(value, 2) for check in checks for name, value in line.get(check, {}).items()
            }
            writer.writerow({**line, **found})


def draw_curve(lines: list[dict[str, Any]], path: Path) -> None:
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    words = [line["words"] / 1e6 for line in lines]
    for direction in ("forward", "backward"):
        left.plot(words, [line[f"{direction}_loss"] for line in lines], linewidth=1, label=direction)
    left.set(
        xlabel="million words read", ylabel="loss (nats)", title="training, all words of the softmax", ylim=(3.7, 5)
    )
    left.legend()
    checks = [line for line in lines if "perplexity" in line]
    for source in checks[0]["perplexity"]:
        for kind, style in (("perplexity", "--"), ("averaged_perplexity", "-")):
            values = [line[kind][source] for line in checks]
            label = source if kind == "averaged_perplexity" else None
            color = f"C{list(checks[0]['perplexity']).index(source)}"
            right.plot(
                [line["words"] / 1e6 for line in checks],
                values,
                style,
                marker="o",
                markersize=3,
                color=color,
                label=label,
            )
    right.set(xlabel="million words read", ylabel="perplexity", title="text kept aside (dashed: weights not averaged)")
    right.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
