"""What the options of a training may be, told before anything that takes time to import or to read."""

import math
from importlib.util import find_spec
from typing import Any

OPTIMIZERS = ("adagrad", "adamw")
# `<S>`, `</S>` and `<UNK>`.
_SPECIAL_WORDS = 3


def check_training_options(
    epochs: float,
    max_steps: int | None,
    learning_rate: float | None,
    optimizer: str,
    vocab: Any,
    min_count: int | None,
    max_vocab: int | None,
    **numbers: int | None,
) -> None:
    """
    Looks at arguments of [`pretrain`].

    Args:
        numbers: those that must be at least 1, if they are given.

    Raises:
        ValueError: one of them is impossible.
        ImportError: accelerate is missing, without which nothing is trained.
    """
    if find_spec("accelerate") is None:
        raise ImportError("Training needs accelerate: pip install 'elmo-hf[train]'")
    if not 0 < epochs < math.inf:
        raise ValueError(f"`epochs` must be more than 0, was: {epochs}.")
    if learning_rate is not None and not 0 <= learning_rate < math.inf:
        raise ValueError(f"`learning_rate` must be at least 0, was: {learning_rate}.")
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"`optimizer` must be {' or '.join(OPTIMIZERS)}, was: {optimizer}.")
    if vocab is not None and (min_count is not None or max_vocab is not None):
        raise ValueError(f"`vocab` must be without `min_count` and `max_vocab`, was: {vocab}.")
    if max_vocab is not None and max_vocab <= _SPECIAL_WORDS:
        raise ValueError(f"`max_vocab` must be more than the {_SPECIAL_WORDS} special words, was: {max_vocab}.")
    for name, number in {"min_count": min_count, "max_steps": max_steps, **numbers}.items():
        if number is not None and number < 1:
            raise ValueError(f"`{name}` must be at least 1, was: {number}.")
