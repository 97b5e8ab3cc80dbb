"""
A checkpoint of another library as a folder that `from_pretrained` loads and the Hub takes, and back.

What the files hold is the matter of each format (`formats`). Here a folder is made beside its place, held against a
second, plain computation from the same files, described in a model card, and moved into its place in one step.
"""

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ..configuration_elmo import ElmoConfig
from ..downloads import local_file
from ..files import PathLike, atomic_files, atomic_folder
from ..modeling_elmo import ElmoForPreTraining, ElmoModel
from ..released import Released, download_released, find_released
from ..scoring import score_sentences
from ..spelling_elmo import LexiconSpelling
from ..tokenization_elmo import ElmoTokenizer
from .bilm_hdf5 import BilmHdf5, write_datasets, write_softmax
from .bilm_options import options_text
from .bilm_reference import log_probabilities
from .bilm_tensors import Progress
from .checkpoint import Checkpoint, Plain
from .formats import open_checkpoint
from .hub_folder import check_sizes, load_config, load_model, load_tokenizer
from .model_card import model_card
from .sources import Files

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
        format: what it was converted from, in words.
        num_parameters: numbers in the model, the scalar mixes included.
        num_bytes: size of model.safetensors.
        sha256: hash of each file that was read, an archive as a whole, by file name.
        difference: largest difference of any layer, mix and logarithm of a probability from the plain computation,
            relative to the largest value of each; `None` when it was not verified.
        notes: what was assumed and what was left out.
        entry: of the list of released checkpoints, where it was converted by its name.
    """

    folder: Path
    config: ElmoConfig
    format: str
    num_parameters: int
    num_bytes: int
    sha256: dict[str, str]
    difference: float | None
    notes: list[str]
    entry: Released | None = None


def convert_checkpoint(
    *paths_and_output: PathLike,
    overwrite: bool = False,
    verify: bool = True,
    license: str | None = None,
    repo_id: str | None = None,
    format: str | None = None,
    name: str | None = None,
    softmax_file: PathLike | None = None,
    vocab_file: PathLike | None = None,
    progress: Progress | None = None,
) -> Conversion:
    """
    Turns a checkpoint of another library into a folder that `from_pretrained` loads and the Hub takes as it is.

        convert_checkpoint(FOLDER_OR_ARCHIVE, OUTPUT_DIR)
        convert_checkpoint("russian-wiki", OUTPUT_DIR)
        convert_checkpoint(OPTIONS_FILE, WEIGHT_FILE, OUTPUT_DIR)

    The folder is made beside its place under another name, verified, and moved. An interruption leaves nothing behind
    but what the next conversion into that place removes, and what stood in the place before stays there until then.

    Args:
        paths_and_output (`str` or `os.PathLike`): a folder, a zip, a tar or a file that holds a checkpoint, or one of
            the names of [`released`], which is downloaded; or the options.json and the hdf5 file that belongs to it.
            Files may be addresses. Last, the folder to make, new or empty.
        overwrite (`bool`): whether an ELMo folder in that place is replaced. Any other folder never is.
        verify (`bool`): whether to load the folder and hold it against a second, plain computation from the files.
        license (`str`, *optional*): what the model card says, a licence identifier of the Hub. The files do not tell;
            of a released checkpoint it is what its publisher states.
        repo_id (`str`, *optional*): the repository of the Hub that the folder is for; its model card loads that.
        format (`str`, *optional*): one of [`known_formats`], where a folder holds several.
        name (`str`, *optional*): which checkpoint of the folder, or which module of the archive, if there are several.
        softmax_file (`str` or `os.PathLike`, *optional*): with OPTIONS_FILE and WEIGHT_FILE, the hdf5 file of the
            language model's softmax; needs `vocab_file`. Of a folder they are found.
        vocab_file (`str` or `os.PathLike`, *optional*): the words of its rows, one per line.
        progress (`Callable`, *optional*): called with a step, what is done of it and how much there is.

    Raises:
        FileNotFoundError: one of the files is missing.
        FileExistsError: the output is taken, or holds one of the files.
        PermissionError: one of the files may not be read.
        ValueError, TypeError: the files are wrong, or of no known format, or the verification failed.
    """
    if license is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", license):
        raise ValueError(f"`license` must be an identifier as the Hub knows it (apache-2.0), was: {license!r}.")
    *paths, output_dir = paths_and_output
    if len(paths) not in (1, 2):
        raise TypeError(
            "`convert_checkpoint` takes a folder or an archive, or options and weights, and the folder to make; got "
            f"{len(paths_and_output)} paths."
        )
    progress = progress or _no_progress
    entry = find_released(paths[0]) if len(paths) == 1 else None
    if entry is not None:
        paths, format = [download_released(entry.name)], format or entry.format
        license = license or entry.hub_license
    paths = [local_file(path) for path in paths]
    softmax_file, vocab_file = (None if path is None else local_file(path) for path in (softmax_file, vocab_file))
    target = Path(os.path.realpath(output_dir))
    for place in (Path(os.path.realpath(path)) for path in (*paths, softmax_file, vocab_file) if path is not None):
        if target in place.parents or (target == place and place.is_dir()):
            raise FileExistsError(f"{output_dir}: must be a folder without the files to convert, holds {place}.")
    with atomic_folder(output_dir, overwrite=overwrite) as folder:
        checkpoint = _opened(paths, format, name, softmax_file, vocab_file)
        if checkpoint.source.on_disk(checkpoint.files[0]) is None:
            files = checkpoint.source.files_on_disk
        else:
            files = [checkpoint.source.on_disk(file) or Path(file) for file in checkpoint.files]
        num_parameters = _write_folder(checkpoint, folder, progress)
        difference = verify_folder(folder, checkpoint, progress) if verify else None
        conversion = Conversion(
            folder=Path(output_dir),
            config=checkpoint.config,
            format=checkpoint.title,
            num_parameters=num_parameters,
            num_bytes=(folder / "model.safetensors").stat().st_size,
            sha256=_sha256(files, progress),
            difference=difference,
            notes=checkpoint.notes,
            entry=entry,
        )
        (folder / "README.md").write_text(
            model_card(conversion, license, repo_id, len(VERIFICATION_SENTENCES)), encoding="utf-8"
        )
    return conversion


def _opened(
    paths: Sequence[PathLike],
    format: str | None,
    name: str | None,
    softmax_file: PathLike | None,
    vocab_file: PathLike | None,
) -> Checkpoint:
    if len(paths) == 1:
        if softmax_file is not None or vocab_file is not None:
            raise ValueError("`softmax_file` and `vocab_file` must be given with the options and the weights.")
        return open_checkpoint(paths, format, name)
    if softmax_file is not None and vocab_file is None:
        raise ValueError("`vocab_file` must be given with `softmax_file`, the words of its rows; was None.")
    given = [path for path in (*paths, softmax_file, vocab_file) if path is not None]
    options, weights, softmax, words = (
        None if path is None else str(path) for path in (*paths, softmax_file, vocab_file)
    )
    return BilmHdf5(Files.named(*given), str(options), str(weights), softmax, words)


def _write_folder(checkpoint: Checkpoint, folder: Path, progress: Progress) -> int:
    """Writes model and tokenizer. Returns the number of parameters."""
    state = checkpoint.read(progress)
    progress("Writing", 0, 1)
    if checkpoint.words is None:
        model_class: type[PreTrainedModel] = ElmoModel
    else:
        model_class = ElmoForPreTraining
        state = {name if name.startswith("softmax.") else f"elmo.{name}": value for name, value in state.items()}
    check_sizes(checkpoint.config, model_class)
    model = model_class.from_pretrained(None, config=checkpoint.config, state_dict=state)
    num_parameters = model.num_parameters()
    model.save_pretrained(folder)
    # Let go of it before it is loaded again.
    del model, state
    checkpoint.tokenizer(folder).save_pretrained(folder)
    progress("Writing", 1, 1)
    return num_parameters


def verify_folder(model_dir: PathLike, checkpoint: Checkpoint, progress: Progress | None = None) -> float:
    """
    Loads a Hub folder and compares `VERIFICATION_SENTENCES` with the plain computation from the files: each layer,
    each trained mix, and, of a language model, the logarithms of the probabilities of the first sentence.

    Returns:
        `float`: the largest difference, relative to the largest value of its layer.

    Raises:
        ValueError: it is more than `MAX_DIFFERENCE`, so the folder is not this checkpoint.
    """
    progress = progress or _no_progress
    sentences = [list(sentence) for sentence in VERIFICATION_SENTENCES]
    progress("Verifying", 0, 2)
    with checkpoint.plain() as plain:
        framed = plain.bilm.layers_with_boundaries(sentences)
        expected = [reference[:, 1:-1] for reference in framed]
        mixes = [[_mixed(layers, weights, gamma) for layers in expected] for weights, gamma in plain.mixes]
        probabilities = _plain_log_probabilities(checkpoint, plain, framed[0][-1], sentences[0])
    # It holds what it was computed from, as large as the model.
    del plain
    progress("Verifying", 1, 2)
    tokenizer: Any = ElmoTokenizer.from_pretrained(model_dir)
    model: Any = (ElmoModel if checkpoint.words is None else ElmoForPreTraining).from_pretrained(model_dir)
    inputs = tokenizer(sentences, is_split_into_words=True, padding=True, return_tensors="pt")
    with torch.inference_mode():
        # (layers, sentences, words, features)
        outputs = model.base_model(**inputs, output_hidden_states=True)
        layers = torch.stack(outputs.hidden_states).double().numpy()
        differences = [
            _difference([reference[index] for reference in expected], layers[index]) for index in range(len(layers))
        ]
        if not checkpoint.config.do_layer_norm:
            differences += [
                _difference(references, given.double().numpy())
                for references, given in zip(mixes, outputs.elmo_representations, strict=False)
            ]
        if probabilities is not None:
            scores = next(score_sentences(model, tokenizer, sentences[:1]))
            for expected_scores, given_scores in zip(probabilities, (scores.forward, scores.backward), strict=True):
                differences.append(_difference([expected_scores], np.array([given_scores])))
    # Never smaller for a NaN: it must not pass.
    difference = float(np.max(differences))
    if not difference <= MAX_DIFFERENCE:
        raise ValueError(
            f"{model_dir}: layers must differ from a plain computation from {checkpoint.source.path} by at most "
            f"{MAX_DIFFERENCE:.0e} of their scale, was: {difference:.1e}."
        )
    progress("Verifying", 2, 2)
    return difference


def _mixed(layers: np.ndarray, weights: Sequence[float], gamma: float) -> np.ndarray:
    exponentials = np.exp(np.array(weights) - max(weights))
    return gamma * np.einsum("l,lwf->wf", exponentials / exponentials.sum(), layers)


def _plain_log_probabilities(
    checkpoint: Checkpoint, plain: Plain, top: np.ndarray, sentence: list[str]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Of each word and the end, forward, and of each word and the beginning, backward, in the order of the text."""
    if plain.softmax is None or checkpoint.words is None:
        return None
    places = {word: place for place, word in enumerate(checkpoint.words)}
    targets = [places.get(word, places["<UNK>"]) for word in ["<S>", *sentence, "</S>"]]
    half = top.shape[1] // 2
    size = len(checkpoint.words)
    forward = log_probabilities(top[:-1, :half], plain.softmax, size, targets[1:])
    backward = log_probabilities(top[1:, half:], plain.softmax, size, targets[:-1])
    # The model tells the beginning last, after the words.
    return forward, np.concatenate([backward[1:], backward[:1]])


def _difference(references: Sequence[np.ndarray], given: np.ndarray) -> float:
    """The largest, relative to the largest value of the references."""
    scale = max(np.abs(reference).max() for reference in references)
    gaps = [np.abs(given[row, : len(reference)] - reference).max() for row, reference in enumerate(references)]
    return float(np.max(gaps) / scale if scale else np.max(gaps))


def export_checkpoint(
    model_dir: PathLike,
    options_file: PathLike,
    weight_file: PathLike,
    *,
    softmax_file: PathLike | None = None,
    vocab_file: PathLike | None = None,
    overwrite: bool = False,
) -> ElmoConfig:
    """
    Writes the biLM of a Hub folder, an [`ElmoModel`] or a fine-tuned head, as files that AllenNLP and bilm-tf read.

    The scalar mixes have no place in them. A converted checkpoint of float32 comes back bit-equal.

    Args:
        model_dir (`str` or `os.PathLike`): a folder on this machine, written by `save_pretrained` or by conversion.
        options_file (`str` or `os.PathLike`): the options.json to write.
        weight_file (`str` or `os.PathLike`): the hdf5 file to write.
        softmax_file (`str` or `os.PathLike`, *optional*): an hdf5 file for the softmax of a language model, as AI2
            released it; with `vocab_file`.
        vocab_file (`str` or `os.PathLike`, *optional*): the words of a language model, in the order of the rows of its
            softmax; or those of a biLM that reads whole words, in the order of its table.
        overwrite (`bool`): whether files in these places are replaced.

    Returns:
        [`ElmoConfig`]: the configuration of the folder.

    Raises:
        FileNotFoundError: `model_dir` is not a folder with a config.json.
        FileExistsError: one of the files is there already.
        ValueError: the folder does not hold a complete biLM, or one that the format has no place for, or no language
            model where one is asked for, or one of the files is part of the folder.
    """
    config = load_config(model_dir)
    if softmax_file is not None and vocab_file is None:
        raise ValueError("`vocab_file` must be given with `softmax_file`, for the words of its rows, was None.")
    places = [path for path in (options_file, weight_file, softmax_file, vocab_file) if path is not None]
    _check_places(model_dir, places)
    options, is_language_model = options_text(config), "ElmoForPreTraining" in (config.architectures or ())
    if softmax_file is not None and not is_language_model:
        raise ValueError(f"{model_dir}: must be a language model to have a softmax, was: no softmax.")
    with atomic_files(places, overwrite=overwrite) as (new_options, new_weights, *others):
        model: Any = load_model(model_dir, ElmoModel if softmax_file is None else ElmoForPreTraining, config)
        write_datasets(model, config, new_weights)
        if vocab_file is not None:
            words, order = _words_to_export(model_dir, load_tokenizer(model_dir, config))
            others[-1].write_text("".join(f"{word}\n" for word in words), encoding="utf-8", newline="\n")
            if softmax_file is not None:
                write_softmax(model.softmax.weight, model.softmax.bias, order, others[0])
        new_options.write_text(options, encoding="utf-8")
    return config


def _words_to_export(model_dir: PathLike, tokenizer: ElmoTokenizer) -> tuple[list[str], list[int]]:
    """Words in the order of a file of bilm-tf, and the rows of our softmax in that order."""
    words, spelling = tokenizer.word_vocabulary, tokenizer.spelling
    if isinstance(spelling, LexiconSpelling) and spelling.words is not None:
        # One vocabulary serves the table of words and the softmax.
        own = sorted(spelling.words, key=spelling.words.__getitem__)
        places = {word: place for place, word in enumerate(words or own)}
        return own, [places[word] for word in own]
    if words is None:
        raise ValueError(f"{model_dir}: must have words to be written, had no vocab.txt.")
    return words, list(range(len(words)))


def _check_places(model_dir: PathLike, paths: Sequence[PathLike]):
    """Raises ValueError if one of the files to write is another one, or part of the folder to read."""
    seen: list[Path] = []
    for path in paths:
        place = Path(os.path.realpath(path))
        for other in seen:
            if place == other or (place.exists() and other.exists() and place.samefile(other)):
                raise ValueError(f"{path}: must be another file than the others to be written, was the same as one.")
        for own in Path(model_dir).iterdir():
            if place == own.resolve() or (place.exists() and place.samefile(own)):
                raise ValueError(f"{path}: must be outside of the model that is exported, was a part of it.")
        seen.append(place)


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
