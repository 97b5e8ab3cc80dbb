"""
ELMo as a first-class citizen of the Hugging Face ecosystem.

`import elmo_hf` makes ELMo known to the Auto classes of transformers; the command `elmo-hf` does so when it needs a
model.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .registration import register

if TYPE_CHECKING:
    from .allennlp import Elmo
    from .configuration_elmo import ElmoConfig
    from .embedding import ElmoEmbedder
    from .modeling_elmo import (
        ElmoForMultipleChoice,
        ElmoForPreTraining,
        ElmoForQuestionAnswering,
        ElmoForSequenceClassification,
        ElmoForTokenClassification,
        ElmoModel,
        ElmoPreTrainedModel,
    )
    from .quantization import quantize
    from .small_model import default_model_path, load_default
    from .tokenization_elmo import ElmoTokenizer, batch_to_ids

__version__ = "0.1.0"

__all__ = [
    "Elmo",
    "ElmoConfig",
    "ElmoEmbedder",
    "ElmoForMultipleChoice",
    "ElmoForPreTraining",
    "ElmoForQuestionAnswering",
    "ElmoForSequenceClassification",
    "ElmoForTokenClassification",
    "ElmoModel",
    "ElmoPreTrainedModel",
    "ElmoTokenizer",
    "batch_to_ids",
    "default_model_path",
    "load_default",
    "quantize",
]

_MODULES = {
    "Elmo": "allennlp",
    "ElmoConfig": "configuration_elmo",
    "ElmoEmbedder": "embedding",
    "ElmoTokenizer": "tokenization_elmo",
    "batch_to_ids": "tokenization_elmo",
    "default_model_path": "small_model",
    "load_default": "small_model",
    "quantize": "quantization",
}

if "elmo_hf_command" not in sys.modules:
    register()


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES.get(name, 'modeling_elmo')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
