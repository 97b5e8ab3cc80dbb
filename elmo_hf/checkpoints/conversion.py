"""
A checkpoint of bilm-tf or AllenNLP as a folder that `from_pretrained` loads and the Hub takes, and back.

What the files hold is the matter of `bilm_hdf5`. Here a folder is made beside its place, held against a second, plain
computation from the same files, described in a model card, and moved into its place in one step.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..configuration_elmo import ElmoConfig
from ..files import atomic_files, atomic_folder
from ..modeling_elmo import ElmoModel
from ..tokenization_elmo import ElmoTokenizer
from .bilm_hdf5 import PathLike, Progress, options_text, read_model, write_datasets
from .hub_folder import load_config, load_model
from .reference import reference_layers

# What verification reads: several scripts, a word whose cut falls within a letter, the literal boundaries, one word
# alone, and different lengths side by side.
VERIFICATION_SENTENCES = (
    ("The", "river", "bank", "was", "muddy", ",", "the", "bank", "raised", "its", "rates", "."),
    (
        "Größe",
        "naïve",
        "東京",
        "Ελλάδα",
        "🙂",
        "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkß" + "ü" * 9,
        "don",
        "'t",
    ),
    ("Yes",),
    ("<S>", "$", "5.2", "</S>", "a" * 60),
)
# float32 against float64 stays below 1e-5 of a layer's largest value; a wrong tensor is off by about 1.
MAX_DIFFERENCE = 1e-4


@dataclass(frozen=True)
class Conversion:
    """
    What [`convert_checkpoint`] did.

    Attributes:
        folder: the Hub folder.
        config: its configuration.
        num_parameters: numbers in the model, the scalar mix included.
        num_bytes: size of model.safetensors.
        sha256: hash of options.json and of the hdf5 file, by file name.
        difference: largest difference of any layer from the plain computation, relative to the largest value of that
            layer; `None` when it was not verified.
    """

    folder: Path
    config: ElmoConfig
    num_parameters: int
    num_bytes: int
    sha256: dict[str, str]
    difference: float | None


def convert_checkpoint(
    options_file: PathLike,
    weight_file: PathLike,
    output_dir: PathLike,
    *,
    overwrite: bool = False,
    verify: bool = True,
    license: str | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """
    Turns a checkpoint of bilm-tf or AllenNLP into a folder that `from_pretrained` loads and the Hub takes as it is.

    The folder is made beside its place under another name, verified, and moved. An interruption leaves nothing behind
    but what the next conversion into that place removes, and what stood in the place before stays there until then.

    Args:
        options_file (`str` or `os.PathLike`): the options.json.
        weight_file (`str` or `os.PathLike`): the hdf5 file that belongs to it.
        output_dir (`str` or `os.PathLike`): the folder to make, new or empty.
        overwrite (`bool`): whether an ELMo folder in that place is replaced. Any other folder never is.
        verify (`bool`): whether to load the folder and hold it against [`reference_layers`].
        license (`str`, *optional*): what the model card says, a licence identifier of the Hub. The files do not tell.
        progress (`Callable`, *optional*): called with a step, what is done of it and how much there is.

    Raises:
        FileNotFoundError: one of the files is missing.
        FileExistsError: `output_dir` is taken, or holds one of the files.
        PermissionError: one of the files may not be read.
        ValueError, TypeError: the files are wrong ([`read_options`], [`read_weights`]), or the verification failed.
    """
    if license is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", license):
        raise ValueError(f"`license` must be an identifier as the Hub knows it (apache-2.0), was: {license!r}.")
    progress = progress or _no_progress
    for path in (options_file, weight_file):
        if Path(os.path.realpath(output_dir)) in Path(os.path.realpath(path)).parents:
            raise FileExistsError(f"{output_dir}: must be a folder without the files to convert, holds {path}.")
    with atomic_folder(output_dir, overwrite=overwrite) as folder:
        model = read_model(options_file, weight_file, progress)
        config, num_parameters = model.config, model.num_parameters()
        progress("Writing", 0, 1)
        model.save_pretrained(folder)
        # Let go of it before it is loaded again.
        del model
        ElmoTokenizer(max_characters_per_token=config.max_characters_per_token).save_pretrained(folder)
        progress("Writing", 1, 1)
        difference = verify_folder(folder, options_file, weight_file, progress) if verify else None
        conversion = Conversion(
            folder=Path(output_dir),
            config=config,  # type: ignore[arg-type]
            num_parameters=num_parameters,
            num_bytes=(folder / "model.safetensors").stat().st_size,
            sha256=_sha256([options_file, weight_file], progress),
            difference=difference,
        )
        (folder / "README.md").write_text(model_card(conversion, license), encoding="utf-8")
    return conversion


def verify_folder(
    model_dir: PathLike, options_file: PathLike, weight_file: PathLike, progress: Progress | None = None
) -> float:
    """
    Loads a Hub folder and compares each layer of `VERIFICATION_SENTENCES` with the plain computation from the hdf5.

    Returns:
        `float`: the largest difference, relative to the largest value of its layer.

    Raises:
        ValueError: it is more than `MAX_DIFFERENCE`, so the folder is not this checkpoint.
    """
    progress = progress or _no_progress
    sentences = [list(sentence) for sentence in VERIFICATION_SENTENCES]
    progress("Verifying", 0, 2)
    references = reference_layers(options_file, weight_file, sentences)
    progress("Verifying", 1, 2)
    model = ElmoModel.from_pretrained(model_dir)
    inputs = ElmoTokenizer.from_pretrained(model_dir)(
        sentences, is_split_into_words=True, padding=True, return_tensors="pt"
    )
    with torch.inference_mode():
        hidden_states = model(**inputs, output_hidden_states=True).hidden_states
    # (layers, sentences, words, features)
    layers = torch.stack(hidden_states).double().numpy()
    difference = 0.0
    for index in range(layers.shape[0]):
        scale = max(np.abs(reference[index]).max() for reference in references)
        for row, reference in enumerate(references):
            gap = np.abs(layers[index, row, : reference.shape[1]] - reference[index]).max()
            # Never smaller for a NaN: it must not pass.
            difference = float(np.maximum(difference, gap / scale if scale else gap))
    if not difference <= MAX_DIFFERENCE:
        raise ValueError(
            f"{model_dir}: layers must differ from a plain computation from {weight_file} by at most "
            f"{MAX_DIFFERENCE:.0e} of their scale, was: {difference:.1e}."
        )
    progress("Verifying", 2, 2)
    return difference


def export_checkpoint(
    model_dir: PathLike, options_file: PathLike, weight_file: PathLike, *, overwrite: bool = False
) -> ElmoConfig:
    """
    Writes the biLM of a Hub folder, an [`ElmoModel`] or a fine-tuned head, as files that AllenNLP and bilm-tf read.

    The scalar mixes have no place in them. A converted checkpoint of float32 comes back bit-equal.

    Args:
        model_dir (`str` or `os.PathLike`): a folder on this machine, written by `save_pretrained` or by conversion.
        options_file (`str` or `os.PathLike`): the options.json to write.
        weight_file (`str` or `os.PathLike`): the hdf5 file to write.
        overwrite (`bool`): whether files in these places are replaced.

    Returns:
        [`ElmoConfig`]: the configuration of the folder.

    Raises:
        FileNotFoundError: `model_dir` is not a folder with a config.json.
        FileExistsError: one of the files is there already.
        ValueError: the folder does not hold a complete biLM, or one that the format has no place for, or one of the
            files is part of the folder.
    """
    config = load_config(model_dir)
    _check_places(model_dir, options_file, weight_file)
    with atomic_files([options_file, weight_file], overwrite=overwrite) as (new_options, new_weights):
        model = load_model(model_dir, ElmoModel, config)
        write_datasets(model, config, new_weights)
        new_options.write_text(options_text(config), encoding="utf-8")
    return config


def _check_places(model_dir: PathLike, options_file: PathLike, weight_file: PathLike):
    """Raises ValueError if one of the files to write is the other one, or part of the folder to read."""
    options, weights = Path(os.path.realpath(options_file)), Path(os.path.realpath(weight_file))
    if options == weights or (options.exists() and weights.exists() and options.samefile(weights)):
        raise ValueError(f"{weight_file}: must be another file than the options, was the same.")
    for path in (options, weights):
        for own in Path(model_dir).iterdir():
            if path == own.resolve() or (path.exists() and path.samefile(own)):
                raise ValueError(f"{path}: must be outside of the model that is exported, was a part of it.")


def model_card(conversion: Conversion, license: str | None = None) -> str:
    """README.md of a converted checkpoint: what the files say of it, how to load it and where it is from."""
    config, name = conversion.config, conversion.folder.absolute().name
    filters = ", ".join(f"{number} of width {width}" for width, number in config.char_cnn_filters)
    clips = [("cell", config.cell_clip), ("projection", config.proj_clip)]
    hashes = "\n".join(f"| `{file}` | `{sha256}` |" for file, sha256 in conversion.sha256.items())
    return f"""\
---
{f"license: {license}" if license else "# license: not known from the files"}
library_name: transformers
pipeline_tag: feature-extraction
tags:
- elmo
- bilm
- word-embeddings
---

# {name}

ELMo: a bidirectional language model that reads words as characters and gives each word a vector that depends on its
sentence ([Deep contextualized word representations](https://arxiv.org/abs/1802.05365), Peters et al., 2018).

## Use

```python
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({json.dumps(name)}, trust_remote_code=True)
model = AutoModel.from_pretrained({json.dumps(name)}, trust_remote_code=True)
inputs = tokenizer(["The river bank was muddy."], return_tensors="pt")
outputs = model(**inputs, output_hidden_states=True)
outputs.last_hidden_state  # (1, words, {config.hidden_size})
outputs.hidden_states      # {config.num_hidden_layers + 1} layers of that shape
```

With `pip install elmo-hf` and `import elmo_hf` it loads without `trust_remote_code`. The scalar mix that makes
`last_hidden_state` is untrained and weighs the layers equally: train it with the task, or choose a layer.

## Sizes

| part | size |
|---|---|
| parameters | {conversion.num_parameters:,} |
| width of the output | {config.hidden_size} (2 directions of {config.projection_dim}) |
| LSTM layers in each direction | {config.num_hidden_layers}, {config.cell_size} cells each |
| character convolutions | {config.num_filters} filters ({filters}), {config.char_cnn_activation} |
| highway layers | {config.num_highway_layers} |
| characters a word | {config.max_characters_per_token}, vectors of {config.char_embedding_dim} |
| clips | {", ".join(f"{part} {'none' if clip is None else f'{clip:g}'}" for part, clip in clips)} |
| skip connections | {"yes" if config.use_skip_connections else "no"} |

## Source

Converted from a checkpoint of bilm-tf by `elmo-hf convert`.

| file | sha256 |
|---|---|
{hashes}

{_verification_line(conversion)}
"""


def _verification_line(conversion: Conversion) -> str:
    if conversion.difference is None:
        return "The conversion was not verified."
    layers = conversion.config.num_hidden_layers + 1
    return (
        f"Verified: on {len(VERIFICATION_SENTENCES)} sentences all {layers} layers agree with a plain float64 "
        f"computation\nfrom the hdf5 file to {conversion.difference:.1e} of their scale."
    )


def _sha256(paths: Sequence[PathLike], progress: Progress) -> dict[str, str]:
    hashes, done, total = {}, 0, sum(os.path.getsize(path) for path in paths)
    for path in paths:
        digest = hashlib.sha256()
        with open(path, "rb") as stream:
            while block := stream.read(1 << 23):
                digest.update(block)
                done += len(block)
                progress("Hashing", done, total)
        hashes[Path(path).name] = digest.hexdigest()
    return hashes


def _no_progress(step: str, done: int, total: int):
    pass
