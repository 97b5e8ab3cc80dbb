"""
Named entities: a BiLSTM tagger over ELMo, on the tweets and comments of WNUT-17 (emerging and rare entities).

    python -m examples.finetune_ner MODEL_DIR --data FOLDER

FOLDER has the three files of the shared task: https://github.com/leondz/emerging_entities_17
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from seqeval.metrics import f1_score, precision_score, recall_score
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification, pipeline

from examples.finetuning import Task, console, option_parser, train, write_text

FILES = {"train": "wnut17train.conll", "dev": "emerging.dev.conll", "test": "emerging.test.annotated"}
SENTENCES = [
    "Just landed in Stockholm, heading to the ABBA museum!",
    "Has anyone tried the new Pixel phone by Google?",
    "Nobody told Serena Williams that the match in Melbourne was off.",
]


def main(options: Sequence[str] | None = None) -> None:
    arguments = option_parser(__doc__, "models/elmo-wnut17").parse_args(options)
    task = read_task(arguments.data, arguments.limit)
    if arguments.write_text is not None:
        write_text(task, arguments.write_text)
        return
    train(task, arguments)
    tag(arguments.output)


def read_task(folder: Path, limit: int | None = None) -> Task:
    """The shared task, its first `limit` sentences of each part."""
    tagged = {split: read_conll(folder / name)[:limit] for split, name in FILES.items()}
    labels = sorted({tag for sentences in tagged.values() for _, tags in sentences for tag in tags})
    index = {label: number for number, label in enumerate(labels)}

    def score(predicted: np.ndarray, right: np.ndarray) -> dict[str, float]:
        """Of whole entities, exact in boundaries and type, and the share of words with the right tag."""
        counts = right != -100
        predicted_tags, right_tags = (
            [[labels[tag] for tag in row[mask]] for row, mask in zip(tags, counts, strict=True)]
            for tags in (predicted, right)
        )
        measures = {"f1": f1_score, "precision": precision_score, "recall": recall_score}
        return {
            **{
                name: float(measure(right_tags, predicted_tags, zero_division=0)) for name, measure in measures.items()
            },
            "accuracy": float((predicted == right)[counts].mean()),
        }

    return Task(
        splits={
            split: [{"words": words, "labels": [index[tag] for tag in tags]} for words, tags in sentences]
            for split, sentences in tagged.items()
        },
        labels=labels,
        auto_class=AutoModelForTokenClassification,
        collator=DataCollatorForTokenClassification,
        score=score,
        best="f1",
    )


def read_conll(path: Path) -> list[tuple[list[str], list[str]]]:
    """Words and tags of each sentence: one word and its tag a line, a tab between, an empty line after a sentence."""
    sentences: list[tuple[list[str], list[str]]] = []
    words: list[str] = []
    tags: list[str] = []
    # Not `splitlines`: words of tweets may have the rarer line ends of Unicode.
    for line in [*path.read_text(encoding="utf-8").split("\n"), ""]:
        if line.strip():
            word, tag = line.split("\t")
            words.append(word)
            tags.append(tag.strip())
        elif words:
            sentences.append((words, tags))
            words, tags = [], []
    return sentences


def tag(folder: Path) -> None:
    """Loads the saved folder into a pipeline, which splits text into words by itself."""
    find_entities: Any = pipeline("token-classification", model=str(folder), aggregation_strategy="simple")
    table = Table("text", "entities", title=f'pipeline("token-classification", "{folder}")')
    for sentence in SENTENCES:
        entities = find_entities(sentence)
        found = "\n".join(f"{entity['word']}: {entity['entity_group']} ({entity['score']:.2f})" for entity in entities)
        table.add_row(sentence, found or "none")
    console.print(table)


if __name__ == "__main__":
    main()
