"""ELMo as a first-class citizen of the Hugging Face ecosystem."""

from transformers import AutoConfig, AutoModel

from .configuration_elmo import ElmoConfig
from .modeling_elmo import ElmoModel, ElmoPreTrainedModel

AutoConfig.register("elmo", ElmoConfig)
AutoModel.register(ElmoConfig, ElmoModel)

__version__ = "0.1.0"

__all__ = ["ElmoConfig", "ElmoModel", "ElmoPreTrainedModel"]
