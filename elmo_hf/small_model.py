"""`elmo-english`, the small English language model that comes with the package, and models by their names."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from .released import released

# The command asks for a folder before it imports models, which takes seconds.
if TYPE_CHECKING:
    from .modeling_elmo import ElmoModel
    from .tokenization_elmo import ElmoTokenizer

# What `find_model` takes for the model of the package.
DEFAULT_MODEL = "elmo-english"


def default_model_path() -> Path:
    """
    The folder of `elmo-english` inside the package, for `AutoModel.from_pretrained`, for
    `AutoModelForPreTraining.from_pretrained` (its language model) and for any head; no network is needed.
    """
    return Path(__file__).with_name("default_model")


def load_default() -> "tuple[ElmoModel, ElmoTokenizer]":
    """`elmo-english`, in evaluation mode, and its tokenizer; its card tells what it was trained on."""
    from .modeling_elmo import ElmoModel
    from .tokenization_elmo import ElmoTokenizer

    folder = default_model_path()
    return ElmoModel.from_pretrained(folder).eval(), ElmoTokenizer.from_pretrained(folder)


def find_model(name: str | os.PathLike[str] | None) -> str | Path:
    """
    What `from_pretrained` takes for a model: its folder, or a repository of the Hub.

    Args:
        name: a folder, `elmo-english`, a name of `elmo-hf released` (downloaded and converted once, into the cache),
            or a repository; `elmo-english` when absent.
    """
    if name is None or (str(name) == DEFAULT_MODEL and not Path(name).exists()):
        return default_model_path()
    if Path(name).exists() or str(name) not in released():
        return name if isinstance(name, str) else Path(name)
    from .checkpoints.conversion import convert_checkpoint
    from .downloads import cache_folder

    folder = cache_folder() / "converted" / str(name)
    if not folder.exists():
        convert_checkpoint(str(name), folder)
    return folder
