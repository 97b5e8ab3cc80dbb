"""
Sentiment: praise or not, for the sentences from film reviews of Pang and Lee (2005), "sentence polarity".

    python -m examples.finetune_classification MODEL_DIR --data FOLDER

FOLDER has rt-polarity.pos and rt-polarity.neg: https://www.cs.cornell.edu/people/pabo/movie-review-data
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, pipeline

from examples.finetuning import Task, console, option_parser, train, write_text

FILES = {"negative": "rt-polarity.neg", "positive": "rt-polarity.pos"}
SENTENCES = [
    "a warm, funny and wonderfully acted film .",
    "two hours of tired jokes and a plot without a point .",
    "the cast is better than the script, which is not saying much .",
]


def main(options: Sequence[str] | None = None) -> None:
    arguments = option_parser(__doc__, "models/elmo-sentence-polarity").parse_args(options)
    task = read_task(arguments.data, arguments.limit)
    if arguments.write_text is not None:
        write_text(task, arguments.write_text)
        return
    train(task, arguments)
    classify(arguments.output)


def read_task(folder: Path, limit: int | None = None) -> Task:
    """80, 10 and 10 percent of each class, the same in every run; at most `limit` examples of each part."""
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "dev": [], "test": []}
    for label, name in enumerate(FILES.values()):
        examples = [{"words": sentence.split(), "labels": label} for sentence in read_lines(folder / name)]
        random.Random(0).shuffle(examples)
        tenth = len(examples) // 10
        splits["dev"] += examples[:tenth]
        splits["test"] += examples[tenth : 2 * tenth]
        splits["train"] += examples[2 * tenth :]
    for examples in splits.values():
        random.Random(0).shuffle(examples)

    def score(predicted: np.ndarray, right: np.ndarray) -> dict[str, float]:
        return {"accuracy": float((predicted == right).mean())}

    return Task(
        splits={name: examples[:limit] for name, examples in splits.items()},
        labels=list(FILES),
        auto_class=AutoModelForSequenceClassification,
        collator=DataCollatorWithPadding,
        score=score,
        best="accuracy",
    )


def read_lines(path: Path) -> list[str]:
    """Sentences of a file, which is UTF-8 in some distributions and Latin-1 in the original one."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    # Not `splitlines`: an ellipsis of Windows is a line end in Latin-1.
    return [line for line in text.split("\n") if line.strip()]


def classify(folder: Path) -> None:
    """Loads the saved folder into a pipeline, which splits text into words by itself."""
    judge: Any = pipeline("text-classification", model=str(folder))
    table = Table("text", "class", "probability", title=f'pipeline("text-classification", "{folder}")')
    for sentence in SENTENCES:
        (answer,) = judge(sentence)
        table.add_row(sentence, answer["label"], f"{answer['score']:.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
