"""The small English language model that comes with the package, and models by their names."""

import os
from pathlib import Path

from .modeling_elmo import ElmoModel
from .tokenization_elmo import ElmoTokenizer


def default_model_path() -> Path:
    """
    The folder of the small English model inside the package, for `AutoModel.from_pretrained`, for
    `AutoModelForPreTraining.from_pretrained` (its language model) and for any head; no network is needed.
    """
    return Path(__file__).with_name("default_model")


def load_default() -> tuple[ElmoModel, ElmoTokenizer]:
    """The small English model, in evaluation mode, and its tokenizer; its card tells what it was trained on."""
    folder = default_model_path()
    return ElmoModel.from_pretrained(folder).eval(), ElmoTokenizer.from_pretrained(folder)


def find_model(name: str | os.PathLike[str] | None) -> str | Path:
    """
    What `from_pretrained` takes for a model: its folder, or a repository of the Hub.

    Args:
        name: a folder, a name of `elmo-hf released` (downloaded and converted once, into the cache), or a repository;
            the model of the package when absent.
    """
    from .checkpoints.conversion import convert_checkpoint
    from .downloads import cache_folder
    from .released import released

    if name is None:
        return default_model_path()
    if Path(name).exists() or str(name) not in released():
        return name if isinstance(name, str) else Path(name)
    folder = cache_folder() / "converted" / str(name)
    if not folder.exists():
        convert_checkpoint(str(name), folder)
    return folder
