"""
An ONNX file in onnxruntime beside the model that it was made from: words per second, by batch size.

    python -m benchmarks.onnx_speed

With the weights of the packaged model and with random ones at the original size, float32 and 8 bits. Both read what
they have not read before; the model remembers the vectors of words, the file does not.
"""

import argparse
import random
import tempfile
from functools import partial
from pathlib import Path

import onnxruntime
import torch
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from benchmarks.inference_speed import SIZES, num_words, read_sentences, split
from benchmarks.machine import best_times, describe
from benchmarks.quantization import BATCHES, run_all
from elmo_hf import ElmoConfig, ElmoModel, batch_to_ids, load_default
from elmo_hf.onnx_export import export_onnx


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--corpus", type=Path, help="a tokenised sentence per line; the reference sentences without it"
    )
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    sentences = read_sentences(arguments.corpus)
    random.Random(0).shuffle(sentences)
    torch.manual_seed(0)
    console = Console(width=110)
    console.print(f"{describe()}, onnxruntime {onnxruntime.__version__}")
    models = {
        "packaged model": load_default()[0],
        "random, original size": ElmoModel(ElmoConfig(**SIZES["original"])).eval(),
    }
    for name, model in models.items():
        table = Table(title=f"{name}, words per second (times PyTorch)")
        with tempfile.TemporaryDirectory() as folder:
            runs = {"PyTorch": partial(model, output_hidden_states=True)}
            for int8 in (False, True):
                with torch.inference_mode(False):
                    done = export_onnx(model, Path(folder, f"{int8}.onnx"), int8=int8)
                kind = "ONNX int8" if int8 else "ONNX"
                console.print(
                    f"{name}, {kind}: {done.path.stat().st_size / 1e6:,.1f} MB, largest difference "
                    f"{done.difference:.1e}" + (f", lowest cosine {done.cosine:.4f}" if int8 else "")
                )
                session = onnxruntime.InferenceSession(done.path)
                runs[kind] = lambda ids, session=session: session.run(None, {"input_ids": ids.numpy()})
        for column in ("batch", *runs):
            table.add_column(column, justify="right")
        for batch_size, number in BATCHES.items():
            some = (sentences * (number // len(sentences) + 1))[:number]
            batches = [batch_to_ids(batch) for batch in split(some, batch_size)]
            times = best_times({kind: partial(run_all, run, batches) for kind, run in runs.items()}, arguments.rounds)
            rates = {kind: num_words(some) / second for kind, second in times.items()}
            table.add_row(
                str(batch_size), *(f"{rate:,.0f} ({rate / rates['PyTorch']:.2f})" for rate in rates.values())
            )
        console.print(table)


if __name__ == "__main__":
    main()
