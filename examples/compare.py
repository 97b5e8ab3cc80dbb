"""
A published ELMo, converted to a Hugging Face folder and compared with the outputs that TensorFlow computed for it.

`make compare` fetches the published files and calls `python examples/compare.py FOLDER_OF_THOSE_FILES OUT_DIR`.
"""

import argparse
import json
import time
from pathlib import Path

import h5py
import torch
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from transformers import AutoModel, AutoTokenizer, pipeline
from transformers.utils import logging

import elmo_hf  # noqa: F401 (registers ELMo with the Auto classes)
from elmo_hf.checkpoints.conversion import convert_checkpoint

TOLERANCE = 2e-6
SENTENCES = ["The river bank was muddy.", "The bank raised its rates.", "They don't fish from the bank."]

console = Console(highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("reference", type=Path, help="folder with options.json, lm_weights.hdf5 and the outputs")
    parser.add_argument("output", type=Path, help="the Hub folder to make; one that is there is replaced")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    console.print(Panel("[bold]elmo_hf[/]  ELMo, the Hugging Face way", expand=False))
    convert(arguments.reference, arguments.output)
    load_and_embed(arguments.output)
    worst = compare_with_tensorflow(arguments.reference, arguments.output)
    if worst > TOLERANCE:
        raise SystemExit(f"error: the largest difference to TensorFlow must be at most {TOLERANCE}, was: {worst}.")
    console.print(f"[bold green]Done.[/] The folder is {arguments.output}, the README shows what to do with it.")
    console.print("A checkpoint of your own: elmo-hf convert OPTIONS.json WEIGHTS.hdf5 OUT_DIR")


def convert(reference: Path, folder: Path) -> None:
    console.rule("1  Convert")
    console.print("A small ELMo out of the AllenNLP 0.9.0 wheel (options.json, lm_weights.hdf5) becomes a Hub folder:")
    start = time.perf_counter()
    convert_checkpoint(reference / "options.json", reference / "lm_weights.hdf5", folder, overwrite=True)
    seconds = time.perf_counter() - start

    table = Table("file", "bytes")
    table.columns[1].justify = "right"
    for path in sorted(folder.iterdir()):
        table.add_row(path.name, f"{path.stat().st_size:,}")
    console.print(table)
    console.print(f"Converted and verified against a second computation in [bold]{seconds:.1f} s[/].\n")


def load_and_embed(folder: Path) -> None:
    console.rule("2  Use")
    console.print(f'AutoModel.from_pretrained("{folder}")')
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    with torch.inference_mode():
        vectors = model(**tokenizer(SENTENCES, padding=True, return_tensors="pt")).last_hidden_state
    console.print(
        f"{type(model).__name__}, {parameters:,} parameters; {len(SENTENCES)} sentences -> "
        f"{tuple(vectors.shape)} (sentences, words, features)\n"
    )

    extract = pipeline("feature-extraction", model=model, tokenizer=tokenizer)
    console.print('pipeline("feature-extraction"); "bank" has another vector in each sentence:')
    table = Table("words", '"bank", its first four numbers')
    for sentence in SENTENCES:
        words = tokenizer.tokenize(sentence)
        bank = extract(sentence)[0][words.index("bank")]
        table.add_row(" ".join(words), "  ".join(f"{number:+.3f}" for number in bank[:4]))
    console.print(table)


def compare_with_tensorflow(reference: Path, folder: Path) -> float:
    """
    Prints and returns the largest difference.

    TensorFlow read 10 batches of three sentences and carried the LSTM state from each batch to the next, so the
    states go out of one call and into the next one here too.
    """
    console.rule("3  Compare with TensorFlow's outputs")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    rows = json.loads((reference / "sentences.json").read_text(encoding="utf-8"))
    files = [h5py.File(reference / f"lm_embeddings_{row}.hdf5", "r") for row in range(len(rows))]

    table = Table("batch", "words", "largest difference", "a word", "here", "TensorFlow")
    states, worst = None, 0.0
    for batch, sentences in enumerate(zip(*rows, strict=True)):
        words = [sentence.split() for sentence in sentences]
        inputs = tokenizer(words, is_split_into_words=True, padding=True, return_tensors="pt")
        with torch.inference_mode():
            out = model(**inputs, lstm_states=states, output_hidden_states=True)
        states = out.lstm_states
        difference = 0.0
        for row, file in enumerate(files):
            # (2 directions, words, 16) -> (words, 32), as our top layer has it.
            expected = torch.cat(list(torch.from_numpy(file[str(batch)][...])), dim=-1)
            given = out.hidden_states[-1][row, : len(expected)]
            difference = max(difference, (given - expected).abs().max().item())
        table.add_row(
            str(batch + 1),
            str(sum(map(len, words))),
            f"{difference:.1e}",
            words[-1][0],
            f"{given[0, 0].item():+.7f}",
            f"{expected[0, 0].item():+.7f}",
        )
        worst = max(worst, difference)
    console.print(table)
    console.print(
        f"{sum(map(len, rows))} sentences, largest difference [bold]{worst:.1e}[/] (at most {TOLERANCE:.0e} is due).\n"
    )
    return worst


if __name__ == "__main__":
    main()
