"""
The same numbers as AllenNLP 2.10.1: every layer at three sizes, and every feature of `Elmo` at the small one.

    python -m benchmarks.allennlp_parity
    python -m benchmarks.allennlp_parity --sizes small --sentences tokenised.txt --number 50
    python -m benchmarks.allennlp_parity --model elmo_hf/default_model

Weights are random, drawn so that outputs are large and both clips are at work, or those of a model, exported.
Sentences are the news sentences of the reference fixture, or a file, one tokenised sentence per line. AllenNLP reads
the same hdf5 file with its own code.
Exits with 1 when a value differs by more than 1e-4 or a vector's cosine is below 0.999999.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from benchmarks.allennlp_modules import load_allennlp
from benchmarks.machine import describe
from elmo_hf import ElmoConfig, ElmoModel
from elmo_hf.allennlp import Elmo, batch_to_ids
from elmo_hf.checkpoints.bilm_hdf5 import read_model, write_weights
from elmo_hf.checkpoints.bilm_options import write_options
from elmo_hf.checkpoints.conversion import export_checkpoint
from tests.reference import reference_folder

SIZES: dict[str, dict[str, int]] = {
    "small": {"cell_size": 1024, "projection_dim": 128, "num_highway_layers": 1},
    "medium": {"cell_size": 2048, "projection_dim": 256, "num_highway_layers": 1},
    "original": {"cell_size": 4096, "projection_dim": 512, "num_highway_layers": 2},
}
# Enough for different lengths side by side, few enough for a minute in all.
NUM_SENTENCES = {"small": 8, "medium": 6, "original": 3}

MAX_DIFFERENCE = 1e-4
MIN_COSINE = 0.999999

# Spread of random weights, times the square root of their inputs. Recurrence is kept calm: in a chaotic network two
# exact implementations drift apart.
GAINS = {"weight_ih": 2.0, "weight_hh": 0.5, "weight_hr": 4.0}

# Arguments of both `Elmo`s.
SETTINGS: dict[str, dict[str, Any]] = {
    "two mixes": {"num_mixes": 2},
    "do_layer_norm": {"do_layer_norm": True},
    "do_layer_norm, keep_sentence_boundaries": {"do_layer_norm": True, "keep_sentence_boundaries": True},
    "keep_sentence_boundaries": {"keep_sentence_boundaries": True},
    "scalar_mix_parameters, all layers": {"scalar_mix_parameters": [0.5, -1.0, 2.0]},
    "scalar_mix_parameters, one layer": {"scalar_mix_parameters": [-9e10, 1, -9e10]},
}

Sentences = list[list[str]]


@dataclass
class Comparison:
    """How two (..., features) tensors agree where `mask` is `True`."""

    name: str
    difference: float
    cosine: float
    scale: float

    @classmethod
    def of(cls, name: str, ours: Tensor, theirs: Tensor, mask: Tensor | None = None) -> "Comparison":
        if ours.shape != theirs.shape:
            raise ValueError(f"{name}: shapes must be equal, were: {tuple(ours.shape)} and {tuple(theirs.shape)}.")
        if mask is not None:
            ours, theirs = ours[mask], theirs[mask]
        ours, theirs = ours.detach().double(), theirs.detach().double()
        return cls(
            name,
            difference=(ours - theirs).abs().max().item(),
            cosine=torch.cosine_similarity(ours, theirs, dim=-1).min().item(),
            scale=theirs.abs().max().item(),
        )

    @property
    def agrees(self) -> bool:
        return self.difference <= MAX_DIFFERENCE and self.cosine >= MIN_COSINE


@dataclass
class Files:
    """A checkpoint on disk."""

    options: Path
    weights: Path

    @classmethod
    def of_model(cls, model_dir: Path, folder: Path) -> "Files":
        files = cls(folder / "options.json", folder / "weights.hdf5")
        export_checkpoint(model_dir, files.options, files.weights)
        return files

    @classmethod
    def of_random_weights(cls, config: ElmoConfig, folder: Path) -> "Files":
        files = cls(folder / "options.json", folder / "weights.hdf5")
        write_options(config, files.options)
        write_weights(random_state(config), config, files.weights)
        return files

    def ours(self, num_mixes: int = 1, **arguments: Any) -> Elmo:
        return Elmo(self.options, self.weights, num_mixes, **arguments).eval()

    def theirs(self, num_mixes: int = 1, **arguments: Any) -> Any:
        return load_allennlp().Elmo(str(self.options), str(self.weights), num_mixes, **arguments).eval()


def random_state(config: ElmoConfig) -> dict[str, Tensor]:
    """A state dict of [`ElmoModel`] with normal weights."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, parameter in ElmoModel(config).state_dict().items():
        if name.startswith("scalar_mixes."):
            continue
        if parameter.dim() > 1 and "embeddings" not in name:
            spread = GAINS.get(name.rpartition(".")[2], 1.0) * parameter[0].numel() ** -0.5
        else:
            spread = 0.1 if name.endswith("bias") else 1.0
        state[name] = torch.empty_like(parameter).normal_(std=spread, generator=generator)
    state["character_encoder.embeddings.weight"][0] = 0.0
    return state


# ---------------------------------------------------------------------------------------------------------------------
# Layers
# ---------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def compare_layers(files: Files, sentences: Sentences) -> tuple[list[Comparison], float, float]:
    """Returns a comparison for each layer, boundaries included, and the shares of clipped outputs and cells."""
    ids = batch_to_ids(sentences)
    model = read_model(files.options, files.weights, keep_sentence_boundaries=True)
    ours = model(ids, output_hidden_states=True)
    theirs = load_allennlp()._ElmoBiLm(str(files.options), str(files.weights))(ids)
    check_equal("mask", ours.mask, theirs["mask"])
    names = ["words", *(f"LSTM {index}" for index in range(1, len(ours.hidden_states)))]
    comparisons = [
        Comparison.of(name, layer, their_layer, ours.mask)
        for name, layer, their_layer in zip(names, ours.hidden_states, theirs["activations"], strict=True)
    ]
    # Before the skip connections of the layers above it, a clipped value stands at the bound.
    outputs_clipped = ours.hidden_states[1][ours.mask].abs() >= model.config.proj_clip
    cells_clipped = ours.lstm_states[1].abs() >= model.config.cell_clip
    return comparisons, outputs_clipped.float().mean().item(), cells_clipped.float().mean().item()


def check_equal(name: str, ours: Tensor, theirs: Tensor):
    if not torch.equal(ours, theirs):
        raise ValueError(f"{name}: must be equal, was not.")


# ---------------------------------------------------------------------------------------------------------------------
# Features
# ---------------------------------------------------------------------------------------------------------------------


def compare_outputs(name: str, ours: dict[str, Any], theirs: dict[str, Any]) -> Comparison:
    """Compares all mixes of two outputs of `Elmo`."""
    check_equal(f"mask, {name}", ours["mask"], theirs["mask"])
    our_mixes, their_mixes = (torch.cat(output["elmo_representations"]) for output in (ours, theirs))
    return Comparison.of(name, our_mixes, their_mixes, torch.cat([ours["mask"]] * len(ours["elmo_representations"])))


def compare_features(files: Files, sentences: Sentences) -> Iterator[Comparison]:
    ids = batch_to_ids(sentences)
    check_equal("batch_to_ids", ids, load_allennlp().batch_to_ids(sentences))
    with torch.no_grad():
        for name, arguments in SETTINGS.items():
            yield compare_outputs(name, files.ours(**arguments)(ids), files.theirs(**arguments)(ids))
        yield from compare_states(files, sentences)
        yield from compare_cached_words(files, sentences)
        theirs = load_allennlp()._ElmoBiLm(str(files.options), str(files.weights))
        ours = Elmo(None, None, 2, module=theirs).eval()
        yield compare_outputs("module=_ElmoBiLm", ours(ids), files.theirs(2)(ids))
    yield from compare_gradients(files, sentences[:4])


def compare_states(files: Files, sentences: Sentences) -> Iterator[Comparison]:
    """Batches that grow and shrink, with the state carried from each to the next."""
    ours, theirs = files.ours(stateful=True), files.theirs()
    start = 0
    for size in (3, 5, 2, 1, 6, 6, 4):
        batch = [sentences[(start + row) % len(sentences)] for row in range(size)]
        start += size
        ids = batch_to_ids(batch)
        yield compare_outputs(f"stateful, batch of {size}", ours(ids), theirs(ids))


def compare_cached_words(files: Files, sentences: Sentences) -> Iterator[Comparison]:
    """Words that are all in the vocabulary, the same with another leading dimension, and words that are not."""
    half = sentences[: len(sentences) // 2]
    vocabulary = ["@@PADDING@@", "@@UNKNOWN@@", *dict.fromkeys(word for sentence in half for word in sentence)]
    index = {word: position for position, word in enumerate(vocabulary)}
    for name, known in {"words inside": half, "words inside, 4 dimensions": half, "words outside": sentences}.items():
        ids = batch_to_ids(known)
        indices = torch.zeros(ids.shape[:2], dtype=torch.long)
        for row, sentence in enumerate(known):
            # An index without a word, from which AllenNLP goes back to the characters of the whole batch.
            indices[row, : len(sentence)] = torch.tensor([index.get(word, len(vocabulary)) for word in sentence])
        if "4 dimensions" in name:
            ids, indices = ids[None], indices[None]
        ours, theirs = (make(vocab_to_cache=vocabulary) for make in (files.ours, files.theirs))
        yield compare_outputs(f"vocab_to_cache, {name}", ours(ids, indices), theirs(ids, indices))


def compare_gradients(files: Files, sentences: Sentences) -> Iterator[Comparison]:
    """Gradients of a mean square, each divided by its largest value: those of the last and of the first parameters."""
    ids = batch_to_ids(sentences)
    ours, theirs = files.ours(requires_grad=True), files.theirs(requires_grad=True)
    for elmo in (ours, theirs):
        elmo(ids)["elmo_representations"][0].square().mean().backward()
    bilm = theirs._elmo_lstm
    layers, forward_layer = ours.model.encoder.forward_layers, bilm._elmo_lstm.forward_layer_0
    pairs = {
        "characters": (ours.model.get_input_embeddings().weight, bilm._token_embedder._char_embedding_weights),
        "LSTM input": (layers[0].weight_ih, forward_layer.input_linearity.weight),
        "LSTM recurrence": (layers[0].weight_hh, forward_layer.state_linearity.weight),
        "LSTM projection": (layers[0].weight_hr, forward_layer.state_projection.weight),
    }
    for name, (our_weight, their_weight) in pairs.items():
        gradients = [our_weight.grad.flatten(), their_weight.grad.flatten()]
        largest = gradients[1].abs().max()
        yield Comparison.of(f"requires_grad, {name}", gradients[0] / largest, gradients[1] / largest)


# ---------------------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------------------


def read_sentences(path: Path | None) -> Sentences:
    if path is not None:
        lines = path.read_text(encoding="utf-8").splitlines()
    else:
        rows = json.loads((reference_folder() / "sentences.json").read_text(encoding="utf-8"))
        lines = [line for row in rows for line in row]
    sentences = [line.split() for line in lines if line.strip()]
    if not sentences:
        raise ValueError(f"{path}: must hold a sentence, was empty.")
    return sentences


def as_table(what: str, comparisons: list[Comparison]) -> Table:
    table = Table(what)
    for column in ("largest value", "max abs difference", "min cosine", ""):
        table.add_column(column, justify="right")
    for comparison in comparisons:
        verdict = "[green]ok[/]" if comparison.agrees else "[red]differs[/]"
        table.add_row(
            comparison.name,
            f"{comparison.scale:.2f}",
            f"{comparison.difference:.1e}",
            f"{comparison.cosine:.9f}",
            verdict,
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--model", type=Path, help="a folder to export and compare, instead of random weights")
    parser.add_argument("--sentences", type=Path, help="a file with one tokenised sentence per line")
    parser.add_argument("--number", type=int, help="how many sentences to take, at every size")
    parser.add_argument("--allennlp", type=Path, help="a wheel of AllenNLP 2.10.1, or its folder, unpacked")
    arguments = parser.parse_args()

    disable_progress_bar()
    # A fixed width, for terminals and for logs.
    console = Console(width=119)
    console.print(describe())
    load_allennlp(arguments.allennlp)
    all_sentences = read_sentences(arguments.sentences)
    every: list[Comparison] = []
    if arguments.model is not None:
        checkpoints = {str(arguments.model): partial(Files.of_model, arguments.model)}
    else:
        checkpoints = {size: partial(Files.of_random_weights, ElmoConfig(**SIZES[size])) for size in arguments.sizes}
    for name, write in checkpoints.items():
        sentences = all_sentences[: arguments.number or NUM_SENTENCES.get(name)]
        words = sum(map(len, sentences))
        with tempfile.TemporaryDirectory() as folder:
            files = write(Path(folder))
            layers, outputs_clipped, cells_clipped = compare_layers(files, sentences)
            console.print(
                f"\n[bold]{name}[/], layers: {len(sentences)} sentences, {words} words; clipped are "
                f"{outputs_clipped:.1%} of the first LSTM's outputs and {cells_clipped:.1%} of the last cells"
            )
            console.print(as_table("layer", layers))
            every += layers
            if arguments.model is None and name == "small":
                features = list(compare_features(files, sentences))
                console.print(f"\n[bold]{name}[/], `Elmo` of both with the same arguments")
                console.print(as_table("feature", features))
                every += features
    return 0 if all(comparison.agrees for comparison in every) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"error: {error}")
