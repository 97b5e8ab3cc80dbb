"""What a training belongs to, kept in its folder, so that it goes on with the same text, words and options or not."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import SAFE_WEIGHTS_NAME, logging

from .bilm_trainer import checkpoints, is_complete, last_complete_checkpoint
from .files import PathLike, atomic_file
from .text_files import text_files

logger = logging.get_logger(__name__)

RUN_FILE = "run.json"

# Differences in these are told without the values, which are hashes.
HASHED_OPTIONS = {"model_dir", "train", "evaluation", "vocab"}


class TrainingRun:
    """
    The record of a training, `run.json`.

    Attributes:
        options: arguments of `pretrain` that decide what is computed, by their names; contents of files as hashes.
        words: hash of vocab.txt, once the words are decided.
        finished: batches after which the final model was written.
        num_bytes: of its weights.
        metrics: of its evaluation, if there was one.
    """

    def __init__(self, folder: Path, options: dict[str, Any]):
        self.folder, self.options = folder, options
        self.words: str | None = None
        self.finished: int | None = None
        self.num_bytes: int | None = None
        self.metrics: dict[str, float] = {}
        # What was in the folder before, while a failure still removes the rest.
        self._there_before: set[str] | None = None

    def begin(self, resume: bool, is_main_process: bool) -> Path | None:
        """
        Makes the record, or takes over that of the folder, and gives the last complete checkpoint.

        The main process is to come first; it removes checkpoints that a killed one left incomplete.

        Raises:
            FileExistsError: the folder is taken, and not to be resumed.
            ValueError: what is to be resumed belongs to another text or to other options, or is no training.
        """
        names = set(os.listdir(self.folder)) if self.folder.is_dir() else set()
        if is_main_process and not resume and (names or (self.folder.exists() and not self.folder.is_dir())):
            raise FileExistsError(f"{self.folder}: must be a new or empty folder, was there already. See `resume`.")
        if resume or not is_main_process:
            self._take_over()
        if is_main_process:
            # safetensors writes beside its file, and a killed process leaves that.
            for path in self.folder.glob(".tmp??????"):
                path.unlink()
            for path in checkpoints(self.folder):
                if not is_complete(path):
                    logger.warning(f"{path} is incomplete and left out.")
                    shutil.rmtree(path)
            self._there_before = names
            self.save()
        checkpoint = last_complete_checkpoint(self.folder)
        if checkpoint is not None:
            self.start()
        return checkpoint

    def start(self):
        """From here on, what was made is kept whatever happens."""
        self._there_before = None

    def finish(self, num_batches: int, metrics: dict[str, float]):
        """Takes down that the final model is in the folder."""
        self.finished, self.metrics = num_batches, metrics
        self.num_bytes = (self.folder / SAFE_WEIGHTS_NAME).stat().st_size
        self.save()

    def is_finished(self, num_batches: int) -> bool:
        """Whether the final model after so many batches is in the folder, as long as it was written."""
        weights = self.folder / SAFE_WEIGHTS_NAME
        return self.finished == num_batches and weights.is_file() and weights.stat().st_size == self.num_bytes

    @contextmanager
    def discarded_when_it_fails(self) -> Iterator[None]:
        """An error before [`start`] removes what was made, so that a corrected command finds the place free."""
        try:
            yield
        except BaseException:
            if self._there_before is not None:
                for name in set(os.listdir(self.folder)) - self._there_before:
                    path = self.folder / name
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                if not self._there_before:
                    self.folder.rmdir()
            raise

    def save(self):
        values = {
            "options": self.options,
            "words": self.words,
            "finished": self.finished,
            "num_bytes": self.num_bytes,
            "metrics": self.metrics,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.folder / RUN_FILE, overwrite=True) as file:
            file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")

    def _take_over(self):
        file = self.folder / RUN_FILE
        if not file.exists():
            if self.folder.exists() and any(path.name[0] != "." for path in self.folder.iterdir()):
                raise ValueError(f"{self.folder}: must be a folder of `elmo-hf pretrain`, had no {RUN_FILE}.")
            return
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            begun, self.words = values["options"], values["words"]
            self.finished, self.metrics = values["finished"], values["metrics"]
            self.num_bytes = values["num_bytes"]
            # In their own order: `optimizer` before the `learning_rate` that follows from it.
            names = list(dict.fromkeys([*self.options, *begun]))
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(f"{file}: must be the record of a training, was damaged. Begin anew.") from None
        for name in names:
            old, new = begun.get(name), self.options.get(name)
            if old != new and name in HASHED_OPTIONS:
                raise ValueError(f"`{name}` must be what the training in {self.folder} began with, was another.")
            if old != new:
                raise ValueError(f"`{name}` must be {old} to resume {self.folder}, was: {new}.")
        words = self.folder / "vocab.txt"
        if self.words is not None and not (words.is_file() and hash_of([words]) == self.words):
            raise ValueError(f"{words}: must be the words that the training began with, was changed. Begin anew.")


def hash_of(paths: Iterable[PathLike]) -> str:
    """SHA-256 of the contents of files and of the text files in folders, one after the other."""
    digest = hashlib.sha256()
    for path in paths:
        for file in text_files(Path(path)):
            digest.update(os.path.getsize(file).to_bytes(8, "little"))
            with open(file, "rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()


def hash_of_model(folder: Path) -> str:
    """SHA-256 of what a training starts from in a folder: configuration, weights and words."""
    files = [folder / name for name in ("config.json", "tokenizer_config.json", "vocab.txt")]
    return hash_of([*filter(Path.is_file, files), *sorted(folder.glob("model*.safetensors*"))])
