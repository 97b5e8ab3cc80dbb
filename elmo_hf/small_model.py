"""The small English language model that comes with the package."""

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
