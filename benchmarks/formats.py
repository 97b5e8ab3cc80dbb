"""
Conversion of every format: how far the result is from what the original libraries computed, and what a checkpoint of
the original size costs.

    python -m benchmarks.formats tests/fixtures/formats     # folders with expected.npz
    python -m benchmarks.formats --costs                    # random weights of the original size in each format

Prints the tables of docs/formats.md.
"""

import argparse
import io
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import torch
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer
from transformers.utils import logging

from benchmarks.tensor_bundle import write_bundle
from elmo_hf import ElmoConfig
from elmo_hf.checkpoints.bilm_options import options_text
from elmo_hf.checkpoints.bilm_tensors import tensor_table
from elmo_hf.checkpoints.conversion import convert_checkpoint
from elmo_hf.checkpoints.errors import FileError
from elmo_hf.scoring import score_sentences

# --- differences -----------------------------------------------------------------------------------------------------


def checkpoints_in(folder: Path) -> Iterator[tuple[str, Path, Path, str | None]]:
    """Name, what to convert, where expected.npz lies, and the format if there are two."""
    for expected in sorted(folder.rglob("expected.npz")):
        place = expected.parent
        name = str(place.relative_to(folder))
        packed = [path for path in place.iterdir() if path.suffix in (".gz", ".zip", ".th")]
        inside = place / "model"
        if list(place.glob("*.index")):
            yield f"{name}, TensorFlow", place, place, "tensorflow"
            if list(place.glob("*.hdf5")):
                yield f"{name}, hdf5", place, place, "hdf5"
        elif inside.is_dir():
            yield name, inside, place, None
            for path in packed:
                yield f"{name}, zip", path, place, None
        else:
            yield name, packed[0] if packed else place, place, None


def differences(path: Path, expected_in: Path, format: str | None, out: Path) -> dict[str, float]:
    """The largest difference of layers, mixes and logarithms of probabilities."""
    made = convert_checkpoint(path, out, format=format)
    expected = np.load(expected_in / "expected.npz")
    separator = "\t" if "elmoformanylangs" in str(path) or "many_langs" in str(path) else " "
    sentences = [str(sentence).split(separator) for sentence in expected["sentences"]]
    tokenizer, model = AutoTokenizer.from_pretrained(out), AutoModel.from_pretrained(out).eval()
    found: dict[str, float] = {}

    def compare(kind: str, given: np.ndarray, wanted: np.ndarray):
        found[kind] = max(found.get(kind, 0.0), float(np.abs(given - wanted).max()))

    for index, words in enumerate(sentences):
        inputs = tokenizer([words], is_split_into_words=True, return_tensors="pt")
        with torch.inference_mode():
            outputs = model(**inputs, output_hidden_states=True)
        compare("layers", torch.stack(outputs.hidden_states)[:, 0].numpy(), expected[f"layers_{index}"])
        for number, mix in enumerate(outputs.elmo_representations):
            for name in (f"representation{number}_{index}", f"elmo_{index}", f"average_{index}"):
                if name in expected:
                    compare("mixes", mix[0].numpy(), expected[name])
    if made.config.word_vocab_size:
        language_model = AutoModelForPreTraining.from_pretrained(out)
        for index, scores in enumerate(score_sentences(language_model, tokenizer, sentences)):
            compare("log-probabilities", np.array(scores.forward), expected[f"logprob_forward_{index}"])
            backward = np.array([scores.backward[-1], *scores.backward[:-1]])
            compare("log-probabilities", backward, expected[f"logprob_backward_{index}"])
    return found


def print_differences(folder: Path):
    print("| checkpoint | layers | mixes | log-probabilities |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as work:
        for number, (name, path, expected_in, format) in enumerate(checkpoints_in(folder)):
            try:
                found = differences(path, expected_in, format, Path(work, str(number)))
                cells = [
                    f"{found[kind]:.1e}" if kind in found else "" for kind in ("layers", "mixes", "log-probabilities")
                ]
            except (ValueError, FileError) as error:
                cells = [f"refused: {str(error).rpartition(': ')[2]}", "", ""]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


# --- costs -----------------------------------------------------------------------------------------------------------


def original_arrays() -> dict[str, np.ndarray]:
    """The tensors of a biLM of the original size, of random numbers, as bilm-tf names them."""
    random = np.random.default_rng(0)
    return {
        entry.dataset: (random.standard_normal(entry.shape, dtype=np.float32) * np.float32(0.02))
        for entry in tensor_table(ElmoConfig())
    }


def write_hdf5(folder: Path) -> list[Path]:
    (folder / "options.json").write_text(options_text(ElmoConfig()))
    with h5py.File(folder / "weights.hdf5", "w") as file:
        for name, values in original_arrays().items():
            file[name] = values
    return [folder]


def write_zip(folder: Path) -> list[Path]:
    write_hdf5(folder)
    with zipfile.ZipFile(folder / "model.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.write(folder / "weights.hdf5", "model.hdf5")
        archive.write(folder / "options.json", "options.json")
    for name in ("weights.hdf5", "options.json"):
        (folder / name).unlink()
    return [folder / "model.zip"]


def write_tensorflow(folder: Path) -> list[Path]:
    (folder / "options.json").write_text(options_text(ElmoConfig()))
    # As Adagrad leaves it, twice as large.
    arrays = {f"lm/{name}": values for name, values in original_arrays().items()}
    write_bundle(folder / "model.ckpt-1", {**arrays, **{f"{name}/Adagrad": array for name, array in arrays.items()}})
    return [folder]


def torch_state(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The same numbers by the names and shapes of AllenNLP; what is exchanged within a tensor does not matter here."""
    state = {"_token_embedder._char_embedding_weights": torch.zeros(262, 16)}
    for i in range(7):
        kernel = arrays[f"CNN/W_cnn_{i}"][0].transpose(2, 1, 0).copy()
        state[f"_token_embedder.char_conv_{i}.weight"] = torch.from_numpy(kernel)
        state[f"_token_embedder.char_conv_{i}.bias"] = torch.from_numpy(arrays[f"CNN/b_cnn_{i}"])
    for k in range(2):
        state[f"_token_embedder._highways._layers.{k}.weight"] = torch.randn(4096, 2048) * 0.02
        state[f"_token_embedder._highways._layers.{k}.bias"] = torch.randn(4096)
    state["_token_embedder._projection.weight"] = torch.randn(512, 2048) * 0.02
    state["_token_embedder._projection.bias"] = torch.randn(512)
    for name in ("forward", "backward"):
        for layer in range(2):
            prefix = f"_elmo_lstm.{name}_layer_{layer}."
            state[f"{prefix}input_linearity.weight"] = torch.randn(16384, 512) * 0.02
            state[f"{prefix}state_linearity.weight"] = torch.randn(16384, 512) * 0.02
            state[f"{prefix}state_linearity.bias"] = torch.randn(16384)
            state[f"{prefix}state_projection.weight"] = torch.randn(512, 4096) * 0.02
    return state


def write_allennlp(folder: Path) -> list[Path]:
    content = io.BytesIO()
    torch.save({f"_elmo._elmo_lstm.{name}": value for name, value in torch_state(original_arrays()).items()}, content)
    with tarfile.open(folder / "model.tar.gz", "w:gz", compresslevel=1) as archive:
        for name, data in (
            ("config.json", b'{"model": {"elmo": {"options_file": "x"}}}'),
            ("weights.th", content.getvalue()),
        ):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return [folder / "model.tar.gz"]


def write_many_langs(folder: Path) -> list[Path]:
    state = torch_state(original_arrays())
    num_words, num_characters = 150_000, 6_000
    embedder = {
        "word_emb_layer.embedding.weight": torch.randn(num_words, 100),
        "char_emb_layer.embedding.weight": torch.randn(num_characters, 50),
        "projection.weight": torch.randn(512, 2148) * 0.02,
        "projection.bias": torch.randn(512),
    }
    for i, (width, number) in enumerate(ElmoConfig().char_cnn_filters):
        embedder |= {f"convolutions.{i}.weight": torch.randn(number, 50, width) * 0.05,
                     f"convolutions.{i}.bias": torch.randn(number)}  # fmt: skip
    for k in range(2):
        for part in ("weight", "bias"):
            embedder[f"highways._layers.{k}.{part}"] = state[f"_token_embedder._highways._layers.{k}.{part}"]
    torch.save(embedder, folder / "token_embedder.pkl")
    encoder = {
        name.removeprefix("_elmo_lstm."): value for name, value in state.items() if name.startswith("_elmo_lstm.")
    }
    torch.save(encoder, folder / "encoder.pkl")
    for name, number in (("word", num_words), ("char", num_characters)):
        marks = ["<oov>", "<bos>", "<eos>", "<pad>", *(["<bow>", "<eow>"] if name == "char" else [])]
        tokens = [*marks, *(chr(0x4E00 + i) if name == "char" else f"word{i}" for i in range(number - len(marks)))]
        lines = "".join(f"{token}\t{place}\n" for place, token in enumerate(tokens))
        (folder / f"{name}.dic").write_text(lines, encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"config_path": "x/y.json"}))
    return [folder]


WRITERS: dict[str, Callable[[Path], list[Path]]] = {
    "hdf5": write_hdf5,
    "zip of hdf5": write_zip,
    "TensorFlow": write_tensorflow,
    "archive of AllenNLP": write_allennlp,
    "ELMoForManyLangs": write_many_langs,
}


def convert_and_measure(paths: list[str], out: str):
    start = time.perf_counter()
    convert_checkpoint(*paths, out)
    seconds = time.perf_counter() - start
    # Not `ru_maxrss`, which begins at that of the process that started this one.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    print(json.dumps([seconds, int(peak) * 1024 / 1e9]))


def print_costs():
    print("| format | on disk | time | peak memory | allowed |\n|---|---|---|---|---|")
    for name, write in WRITERS.items():
        with tempfile.TemporaryDirectory() as work:
            given = Path(work, "given")
            given.mkdir()
            paths = write(given)
            size = sum(path.stat().st_size for path in given.iterdir()) / 1e9
            command = [
                sys.executable,
                "-m",
                "benchmarks.formats",
                "--convert",
                *map(str, paths),
                str(Path(work, "out")),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, memory = json.loads(done.stdout.splitlines()[-1])
            print(
                f"| {name} | {size:.2f} GB | {seconds:.1f} s | {memory:.2f} GB | {1.3 * size + 0.6:.2f} GB |",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="folders with checkpoints and expected.npz")
    parser.add_argument("--costs", action="store_true")
    parser.add_argument("--convert", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    if arguments.convert:
        convert_and_measure(arguments.convert[:-1], arguments.convert[-1])
        return
    if arguments.folder is not None:
        print_differences(arguments.folder)
    if arguments.costs:
        print_costs()


if __name__ == "__main__":
    main()
