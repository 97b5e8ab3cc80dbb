"""
The recipe of `elmo-novels`: 90 novels, one command, one folder.

    python examples/pretrain_novels.py prepare eltec-eng.tar.xz WORK_DIR
    elmo-hf pretrain WORK_DIR/config --train WORK_DIR/text/train --eval WORK_DIR/text/check --output WORK_DIR/run ...
    python examples/pretrain_novels.py finish WORK_DIR MODEL_DIR

`prepare` writes the text, one sentence per line, and the configuration, and prints the command. It may be stopped
at any time and goes on with `--resume`. `finish` writes what it trained with 16-bit weights, with the log of the
training and its curve. Both take a minute.
"""

import argparse
import csv
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import torch
from rich.console import Console
from transformers.trainer_utils import get_last_checkpoint

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoTokenizer

# Encoder of 5.2 MB and softmax of 6.4 MB in 16 bits. Chosen over 128 x 512 of the same size: after 230,000 words its
# perplexity was 244 to 258.
CONFIG = {
    "projection_dim": 160,
    "cell_size": 384,
    "num_hidden_layers": 2,
    "char_cnn_filters": [[1, 32], [2, 32], [3, 64], [4, 128], [5, 128]],
    "num_highway_layers": 1,
    "num_sampled_words": 2048,
}
# Two processes of 64 rows: on two cores, a quarter faster than one process with two threads.
OPTIONS = (
    "--max-vocab 20000 --rows 64 --unroll-steps 20 --optimizer adamw --learning-rate 0.003 --max-steps {steps} "
    "--save-steps 250 --eval-steps 500 --seed 0"
)
# Of each novel that is kept aside, for the curve; the rest of them is not looked at before the end.
CHECK_SENTENCES = 800


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("prepare")
    command.add_argument("archive", type=Path)
    command.add_argument("work", type=Path)
    command.add_argument("--steps", type=int, default=7000, help="batches of 2,560 words")
    command = commands.add_parser("finish")
    command.add_argument("work", type=Path)
    command.add_argument("output", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "prepare":
        prepare(arguments.archive, arguments.work, arguments.steps)
    else:
        finish(arguments.work, arguments.output)


def prepare(archive: Path, work: Path, steps: int) -> None:
    subprocess.run([sys.executable, Path(__file__).with_name("novels.py"), archive, work / "text"], check=True)
    (work / "text" / "check").mkdir(exist_ok=True)
    for novel in sorted((work / "text" / "held_out").glob("*.txt")):
        with novel.open(encoding="utf-8") as lines:
            text = "".join(islice(lines, CHECK_SENTENCES))
        (work / "text" / "check" / novel.name).write_text(text, encoding="utf-8")
    ElmoConfig(**CONFIG).save_pretrained(work / "config")
    folders = f"--train {work}/text/train --eval {work}/text/check --output {work}/run"
    print(
        f"OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m elmo_hf pretrain {work}/config {folders} "
        + OPTIONS.format(steps=steps)
    )


def finish(work: Path, output: Path) -> None:
    model = ElmoForPreTraining.from_pretrained(work / "run").float().eval()
    tokenizer = ElmoTokenizer.from_pretrained(work / "run")
    halved = {name: weight.to(torch.float16) for name, weight in model.state_dict().items()}
    # The configuration still says float32, which is what the weights become when they are loaded.
    model.save_pretrained(output, state_dict=halved)
    tokenizer.save_pretrained(output)
    # The package has the code.
    for copy in output.glob("*_elmo.py"):
        copy.unlink()
    history = json.loads(Path(get_last_checkpoint(work / "run"), "trainer_state.json").read_text())["log_history"]
    write_log(history, output / "training_log.csv")
    draw_curve(history, output / "training_curve.png")
    console = Console()
    for path in sorted(output.iterdir()):
        console.print(f"{path.stat().st_size:>10,}  {path.name}")


def write_log(history: list[dict], path: Path) -> None:
    columns = ["step", "loss", "forward_sampled_loss", "backward_sampled_loss", "learning_rate", "words_per_second"]
    columns += ["eval_loss", "eval_perplexity", "eval_forward_perplexity", "eval_backward_perplexity"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(entry for entry in history if "loss" in entry or "eval_loss" in entry)


def draw_curve(history: list[dict], path: Path) -> None:
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    points = [(entry["step"], entry["loss"]) for entry in history if "loss" in entry]
    left.plot(*zip(*points, strict=True), linewidth=1)
    left.set(xlabel="batches of 2,560 words", ylabel="sampled loss (nats)", title="training, 2,048 sampled words")
    for direction in ("forward", "backward"):
        name = f"eval_{direction}_perplexity"
        points = [(entry["step"], entry[name]) for entry in history if name in entry]
        right.plot(*zip(*points, strict=True), marker="o", markersize=3, label=direction)
    right.set(xlabel="batches of 2,560 words", ylabel="perplexity", title="five novels kept aside, full softmax")
    right.legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
