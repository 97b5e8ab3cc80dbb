"""
Perplexity after training with and without the boundary that a direction predicts last, see `BilmWindows`.

    python -m benchmarks.boundaries TRAIN.txt HELD_OUT.txt [--steps N]

Two models of the same size, first weights and number of batches, trained on the same text by AdamW, then both scored
on the same sentences: each alone, and with the state carried from sentence to sentence.
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table
from transformers import TrainingArguments, default_data_collator, set_seed

from benchmarks.machine import describe
from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoTokenizer
from elmo_hf.bilm_trainer import BilmTrainer, adamw_recipe, schedule_decay
from elmo_hf.corpus import BilmWindows, Corpus, build_vocabulary, count_words, write_corpus
from elmo_hf.scoring import perplexity
from elmo_hf.text_files import read_lines

ROWS, UNROLL_STEPS = 64, 20


def trained(
    corpus: Corpus, tokenizer: ElmoTokenizer, read_last_boundary: bool, steps: int, folder: Path
) -> ElmoForPreTraining:
    set_seed(0)
    config = ElmoConfig(
        char_cnn_filters=[[1, 16], [2, 32], [3, 64], [4, 64]],
        num_highway_layers=1,
        projection_dim=64,
        cell_size=256,
        word_vocab_size=len(tokenizer.word_vocabulary or ()),
        num_sampled_words=None,
    )
    arguments = TrainingArguments(
        folder,
        max_steps=steps,
        per_device_train_batch_size=ROWS,
        save_strategy="no",
        logging_steps=steps,
        report_to=[],
        **adamw_recipe(),
    )
    schedule_decay(arguments, steps)
    windows = BilmWindows(corpus, tokenizer, ROWS, UNROLL_STEPS, read_last_boundary)
    trainer = BilmTrainer(ElmoForPreTraining(config), arguments, default_data_collator, windows)
    trainer.train()
    return trainer.model.eval()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, help="text, a sentence per line, words separated by spaces")
    parser.add_argument("held_out", type=Path, help="other text")
    parser.add_argument("--steps", type=int, default=400, help=f"batches of {ROWS * UNROLL_STEPS:,} positions")
    parser.add_argument("--sentences", type=int, default=500, help="of the other text")
    arguments = parser.parse_args()
    console = Console(width=100)
    console.print(describe())
    table = Table(title=f"perplexity after {arguments.steps} batches")
    for column in ("a direction reads", "sentences alone", "state carried", "seconds of training"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_corpus(map(str.split, read_lines(arguments.train)), Path(folder, "corpus"))
        tokenizer = ElmoTokenizer()
        tokenizer.word_vocabulary = build_vocabulary(count_words(corpus), 3, 4000)
        held_out = [line.split() for line in itertools.islice(read_lines(arguments.held_out), arguments.sentences)]
        for read_last_boundary in (True, False):
            start = time.perf_counter()
            model = trained(corpus, tokenizer, read_last_boundary, arguments.steps, Path(folder, "run"))
            seconds = time.perf_counter() - start
            table.add_row(
                "both boundaries" if read_last_boundary else "one, as bilm-tf",
                *(f"{perplexity(model, tokenizer, held_out, carry).average:.1f}" for carry in (False, True)),
                f"{seconds:.0f}",
            )
    console.print(table)


if __name__ == "__main__":
    main()
