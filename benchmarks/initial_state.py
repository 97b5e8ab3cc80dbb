"""
What sentences should start from: zeros, a fixed warm state, or what the sentence before left.

    python -m benchmarks.initial_state --warm TRAINING_TEXT --eval OTHER_TEXT [--model MODEL_DIR]

Exact perplexity of the small model of the package, or another one, over the first sentences of each file of `--eval`,
with each of the three. The warm state is the average over what the first 1,000 sentences of `--warm` leave behind.
Carried state takes one sentence at a time, in the order of the text.
"""

import argparse
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.table import Table

from elmo_hf import ElmoForPreTraining, ElmoTokenizer, default_model_path
from elmo_hf.scoring import Perplexity, fit_initial_state, perplexity
from elmo_hf.text_files import read_lines

WARM_SENTENCES = 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warm", type=Path, required=True, help="a file or a folder of *.txt, a sentence per line")
    parser.add_argument("--eval", type=Path, required=True, help="a file or a folder of *.txt, a sentence per line")
    parser.add_argument("--model", type=Path, default=default_model_path())
    parser.add_argument("--sentences", type=int, default=400, help="of each file")
    arguments = parser.parse_args()

    model = ElmoForPreTraining.from_pretrained(arguments.model)
    tokenizer = ElmoTokenizer.from_pretrained(arguments.model)
    files = sorted(arguments.eval.glob("*.txt")) if arguments.eval.is_dir() else [arguments.eval]
    text = [line for file in files for line in islice(read_lines(file), arguments.sentences)]

    table = Table(title=f"perplexity of {len(text):,} sentences from {len(files)} files")
    for column in ("initial state", "forward", "backward", "average"):
        table.add_column(column, justify="left" if column == "initial state" else "right")

    def add(name: str, result: Perplexity):
        table.add_row(name, *(f"{value:.2f}" for value in (result.forward, result.backward, result.average)))

    add("zeros", perplexity(model, tokenizer, text))
    add("carried", perplexity(model, tokenizer, text, carry_state=True))
    fit_initial_state(model.elmo, tokenizer, islice(read_lines(arguments.warm), WARM_SENTENCES))
    add("warm", perplexity(model, tokenizer, text))
    Console().print(table)


if __name__ == "__main__":
    main()
