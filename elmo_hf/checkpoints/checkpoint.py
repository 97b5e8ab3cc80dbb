"""What a foreign format offers to conversion, which knows formats by this alone."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from ..configuration_elmo import ElmoConfig
from ..files import PathLike
from ..spelling_elmo import LexiconSpelling
from ..tokenization_elmo import ElmoTokenizer
from .bilm_reference import PlainBilm
from .bilm_tensors import Progress, in_our_order
from .sources import Source


@dataclass
class Plain:
    """
    The second computation that a conversion is compared with.

    Attributes:
        bilm: gives the layers.
        softmax: rows `start` to `end` of the softmax, (words, projection_dim) and (words,), in the order of `words`.
        mixes: of each scalar mix the weights before the softmax and gamma.
    """

    bilm: PlainBilm
    softmax: Callable[[int, int], tuple[np.ndarray, np.ndarray]] | None = None
    mixes: Sequence[tuple[Sequence[float], float]] = ()


class Checkpoint(ABC):
    """
    A checkpoint in a foreign format: its files were found and its sizes read, its tensors not yet.

    Attributes:
        title: what messages and model cards call the format.
        source: where its files lie.
        files: the names of those that are read.
        config: the sizes, and the behaviours that it tells of.
        words: what its softmax predicts, in the order of its rows; `None` if it has none.
        notes: for the model card: what was assumed, and what was left out.
    """

    title: ClassVar[str]
    source: Source
    files: list[str]
    config: ElmoConfig
    words: list[str] | None = None
    notes: list[str]

    @classmethod
    @abstractmethod
    def names(cls, source: Source) -> list[str]:
        """What of this format is in a source, by the names to choose from; nothing if it is another format."""

    @classmethod
    @abstractmethod
    def open(cls, source: Source, name: str) -> "Checkpoint":
        """
        Opens what `names` found.

        Raises:
            ValueError, TypeError: it is damaged, or something belongs to it that is missing.
        """

    @classmethod
    def default(cls, source: Source, names: list[str]) -> str | None:
        """Which of several is opened when none is chosen; `None` if somebody has to."""
        return names[0] if len(names) == 1 else None

    @abstractmethod
    def read(self, progress: Progress | None = None) -> dict[str, torch.Tensor]:
        """
        The tensors of [`ElmoModel`], those of the scalar mixes if it has any; with `words` also `softmax.weight` and
        `softmax.bias`.
        """

    @abstractmethod
    def plain(self) -> AbstractContextManager[Plain]:
        """The second computation. It shares no table with `read`."""

    def spelling(self) -> LexiconSpelling | None:
        """How it knows words, where they are not bytes."""
        return None

    def tokenizer(self, folder: PathLike) -> ElmoTokenizer:
        """The tokenizer that belongs to it. Its files may come into `folder`, where it will be saved."""
        options: dict[str, Any] = {"max_characters_per_token": self.config.max_characters_per_token}
        if spelling := self.spelling():
            spelling.save(Path(folder, "lexicon.json"))
            options["lexicon_file"] = str(Path(folder, "lexicon.json"))
        tokenizer = ElmoTokenizer(**options)
        if self.words is not None:
            tokenizer.word_vocabulary = [self.words[place] for place in in_our_order(self.words)]
        return tokenizer


def options_of(source: Source, beside: str) -> str | None:
    """The name of the options.json that belongs to a file, if there is one."""
    found = [name for name in source.ending(".json") if "options" in name.rpartition("/")[2]]
    return _belonging(found or _only(source.ending(".json")), beside)


def vocabulary_of(source: Source, beside: str) -> str | None:
    """The name of the vocabulary that belongs to a file, if there is one."""
    found = [name for name in source.ending(".txt", ".txt.gz") if name.rpartition("/")[2].startswith("vocab")]
    return _belonging(found, beside)


def _only(names: list[str]) -> list[str]:
    return names if len(names) == 1 else []


def _belonging(names: list[str], beside: str) -> str | None:
    """Of several, the one in the same folder."""
    near = [name for name in names if name.rpartition("/")[0] == beside.rpartition("/")[0]]
    found = _only(near) or _only(names)
    return found[0] if found else None
