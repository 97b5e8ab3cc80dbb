"""
Words to character ids: `elmo_hf.tokenization_elmo` beside AllenNLP's `batch_to_ids`, in one process and in turn.

    python benchmarks/tokenization.py TEXT ALLENNLP

TEXT is a UTF-8 text, one paragraph a line (or a tar archive of such), ALLENNLP the folder of an unpacked allennlp
wheel (`pip download --no-deps allennlp==2.10.1`). It runs without its dependencies, of which `batch_to_ids` uses none.
"""

import argparse
import importlib
import importlib.abc
import importlib.machinery
import itertools
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import torch
import transformers
from rich.console import Console
from rich.table import Table

from elmo_hf.tokenization_elmo import ElmoTokenizer, batch_to_ids

# Imported by AllenNLP's modules, not used by `batch_to_ids`.
_NOT_NEEDED = ("_jsonnet", "base58", "cached_path", "lmdb", "spacy")

# Modules of AllenNLP in the order in which they can be imported, and what their packages offer of them.
_ALLENNLP = {
    "allennlp.common.registrable": ["Registrable"],
    "allennlp.common.from_params": ["FromParams"],
    "allennlp.common.params": ["Params"],
    "allennlp.common.lazy": ["Lazy"],
    "allennlp.data.tokenizers.token_class": ["Token"],
    "allennlp.data.vocabulary": ["Vocabulary"],
    "allennlp.data.token_indexers.token_indexer": ["IndexedTokenList", "TokenIndexer"],
    "allennlp.data.fields.text_field": ["TextField"],
    "allennlp.modules.elmo": [],
}


class _Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        is_stub = name.partition(".")[0] in _NOT_NEEDED
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if is_stub else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        return MagicMock(name=spec.name, __path__=[], __spec__=spec)

    def exec_module(self, module: ModuleType) -> None:
        pass


def allennlp_batch_to_ids(folder: Path) -> Callable[[list[list[str]]], torch.Tensor]:
    """AllenNLP's own function, its packages' `__init__` files bypassed."""
    for name in ("common", "data", "data.fields", "data.token_indexers", "data.tokenizers", "modules", "nn", ""):
        package = ModuleType(f"allennlp.{name}".rstrip("."))
        package.__path__ = [str(folder / package.__name__.replace(".", "/"))]
        sys.modules[package.__name__] = package
    sys.meta_path.append(_Stubs())
    for name, offered in _ALLENNLP.items():
        module = importlib.import_module(name)
        package = sys.modules[name.rpartition(".")[0]]
        vars(package).update({one: getattr(module, one) for one in offered})
    return module.batch_to_ids


def paragraphs(path: Path, characters: int) -> Iterator[str]:
    """Lines of a text, or of each text of a tar archive in turn, at least so many characters in all."""
    if not tarfile.is_tarfile(path):
        lines = iter(path.read_text(encoding="utf-8").splitlines())
    else:
        with tarfile.open(path) as archive:
            texts = [
                archive.extractfile(member).read().decode("utf-8").splitlines()[100:300]
                for member in itertools.islice(filter(lambda member: member.name.endswith(".txt"), archive), 20)
            ]
        lines = itertools.chain.from_iterable(texts)
    for line in filter(str.strip, lines):
        if characters <= 0:
            return
        characters -= len(line)
        yield line


def processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown processor")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("allennlp", type=Path)
    parser.add_argument("--characters", type=int, default=300_000, help="of text to encode")
    parser.add_argument("--batch-size", type=int, default=32, help="sentences")
    parser.add_argument("--repeats", type=int, default=5, help="of which the fastest counts")
    arguments = parser.parse_args()

    tokenizer = ElmoTokenizer()
    texts = list(paragraphs(arguments.text, arguments.characters))
    sentences = [tokenizer.tokenize(text) for text in texts]
    reference = allennlp_batch_to_ids(arguments.allennlp)
    if not torch.equal(batch_to_ids(sentences[:50]), reference(sentences[:50])):
        raise ValueError("Both must give the same ids, they do not: there is nothing to compare.")

    contestants: dict[str, tuple[Callable[[Any], Any], list]] = {
        "AllenNLP batch_to_ids, words": (reference, sentences),
        "elmo_hf batch_to_ids, words": (batch_to_ids, sentences),
        "ElmoTokenizer, words": (
            lambda batch: tokenizer(batch, is_split_into_words=True, padding=True, return_tensors="pt"),
            sentences,
        ),
        "ElmoTokenizer, raw text": (lambda batch: tokenizer(batch, padding=True, return_tensors="pt"), texts),
    }
    seconds = dict.fromkeys(contestants, float("inf"))
    for _ in range(arguments.repeats):
        for name, (encode, data) in contestants.items():
            start = time.perf_counter()
            for first in range(0, len(data), arguments.batch_size):
                encode(data[first : first + arguments.batch_size])
            seconds[name] = min(seconds[name], time.perf_counter() - start)

    words = sum(map(len, sentences))
    table = Table(title=f"{words:,} words in {len(sentences):,} paragraphs, {arguments.batch_size} a batch")
    for column in ("", "words/s", "x AllenNLP"):
        table.add_column(column, justify="right" if column else "left")
    baseline = next(iter(seconds.values()))
    for name, duration in seconds.items():
        table.add_row(name, f"{words / duration:,.0f}", f"{baseline / duration:.1f}")
    console = Console()
    console.print(table)
    console.print(
        f"{processor()}, torch {torch.__version__} with {torch.get_num_threads()} threads, "
        f"transformers {transformers.__version__}; fastest of {arguments.repeats}"
    )


if __name__ == "__main__":
    main()
