"""The Auto classes of transformers learn of ELMo."""

from functools import lru_cache, wraps
from typing import Any


@lru_cache(maxsize=1)
def register():
    """
    Registers configuration and tokenizer, once in a process, and the models when the first configuration is made.

    Models take as long to import as the Auto classes do, and no Auto class asks for one before it has a configuration.
    Imports PyTorch and transformers.
    """
    from transformers import AutoConfig, AutoTokenizer

    # Exported programs ask for its operators when they are loaded.
    from . import lstm_compiled_elmo as lstm_compiled_elmo
    from .configuration_elmo import ElmoConfig
    from .tokenization_elmo import ElmoTokenizer

    AutoConfig.register("elmo", ElmoConfig)
    AutoTokenizer.register(ElmoConfig, ElmoTokenizer)

    # Not `__init__`, which an unpickled configuration has not been through. The signature is that of `__init__`.
    @wraps(ElmoConfig.__init__)
    def new_configuration(cls: type[ElmoConfig], *args: Any, **kwargs: Any) -> ElmoConfig:
        _register_models()
        return super(ElmoConfig, cls).__new__(cls)

    ElmoConfig.__new__ = new_configuration  # type: ignore[method-assign, assignment]


@lru_cache(maxsize=1)
def _register_models():
    import transformers

    from . import modeling_elmo as elmo
    from .configuration_elmo import AUTO_MAP

    for auto_name, place in AUTO_MAP.items():
        if auto_name == "AutoConfig":
            continue
        auto_class = getattr(transformers, auto_name)
        # Somebody may have registered a class of their own since.
        if elmo.ElmoConfig not in auto_class._model_mapping:
            auto_class.register(elmo.ElmoConfig, getattr(elmo, place.rpartition(".")[2]))
