"""
The Auto classes of transformers learn of ELMo: at once where they are imported already, else right after their import.

Both take seconds, so neither waits for the other: a command that prints its help needs no model.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


def _register_config():
    from transformers import AutoConfig

    from .configuration_elmo import ElmoConfig

    AutoConfig.register("elmo", ElmoConfig)


def _register_tokenizer():
    from transformers import AutoTokenizer

    from .configuration_elmo import ElmoConfig
    from .tokenization_elmo import ElmoTokenizer

    AutoTokenizer.register(ElmoConfig, ElmoTokenizer)


def _register_models():
    import transformers

    from . import modeling_elmo as elmo

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


# A module of transformers, ours, and what there is to do once both are there.
_PAIRS: tuple[tuple[str, str, Callable[[], None]], ...] = tuple(
    (f"transformers.models.auto.{kind}_auto", f"{__package__}.{kind}_elmo", step)
    for kind, step in (
        ("configuration", _register_config),
        ("tokenization", _register_tokenizer),
        ("modeling", _register_models),
    )
)


class _AfterImport(MetaPathFinder):
    """
    Finds the modules of the pairs as Python does. After the import of one of transformers, or of ours where the import
    of ours has begun that of transformers, it takes the step of the pair.
    """

    def __init__(self):
        self._begun: set[str] = set()
        self._waiting = list(_PAIRS)

    def take_steps(self):
        """Those of all pairs whose module of transformers is there, unless ours is on its way."""
        for pair in list(self._waiting):
            theirs, ours, step = pair
            if theirs in sys.modules and not self._begun & {theirs, ours}:
                # Before the step, which may import ours.
                self._waiting.remove(pair)
                step()
        if not self._waiting and self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not any(name in pair for pair in self._waiting):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType):
            self._begun.add(name)
            try:
                execute(module)
            finally:
                self._begun.discard(name)
            self.take_steps()

        spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec


def register():
    """Once in a process."""
    finder = _AfterImport()
    sys.meta_path.insert(0, finder)
    finder.take_steps()
