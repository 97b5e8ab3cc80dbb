"""The Auto classes of transformers learn of ELMo."""

from functools import lru_cache


@lru_cache(maxsize=1)
def register():
    """Once in a process. Imports the models, and with them PyTorch and transformers."""
    import transformers

    from . import modeling_elmo as elmo
    from .tokenization_elmo import ElmoTokenizer

    transformers.AutoConfig.register("elmo", elmo.ElmoConfig)
    transformers.AutoTokenizer.register(elmo.ElmoConfig, ElmoTokenizer)
    transformers.AutoModel.register(elmo.ElmoConfig, elmo.ElmoModel)
    for kind in (
        "MultipleChoice",
        "PreTraining",
        "QuestionAnswering",
        "SequenceClassification",
        "TokenClassification",
    ):
        auto_class = getattr(transformers, f"AutoModelFor{kind}")
        auto_class.register(elmo.ElmoConfig, getattr(elmo, f"ElmoFor{kind}"))
