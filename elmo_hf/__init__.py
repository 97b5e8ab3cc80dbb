"""ELMo as a first-class citizen of the Hugging Face ecosystem."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMultipleChoice,
    AutoModelForPreTraining,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

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

AutoConfig.register("elmo", ElmoConfig)
AutoModel.register(ElmoConfig, ElmoModel)
AutoModelForMultipleChoice.register(ElmoConfig, ElmoForMultipleChoice)
AutoModelForPreTraining.register(ElmoConfig, ElmoForPreTraining)
AutoModelForQuestionAnswering.register(ElmoConfig, ElmoForQuestionAnswering)
AutoModelForSequenceClassification.register(ElmoConfig, ElmoForSequenceClassification)
AutoModelForTokenClassification.register(ElmoConfig, ElmoForTokenClassification)
AutoTokenizer.register(ElmoConfig, ElmoTokenizer)

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
