"""
AllenNLP's own `Elmo`, `_ElmoBiLm` and `batch_to_ids` in this process, to compare with. For benchmarks only.

    from benchmarks.allennlp_modules import load_allennlp

    theirs = load_allennlp()
    theirs.Elmo("options.json", "weights.hdf5", 1)

The code is that of the wheel on PyPI, unchanged. Its dependencies (spacy, an old torch, ...) are not installed: each
of its packages is entered without running its `__init__`, and what ELMo imports but never calls is a stand-in below.
`python -m benchmarks.allennlp_modules` fetches the wheel and prints its folder.
"""

import importlib
import os
import shutil
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

# Imported now, because these must not meet the stand-ins.
import h5py  # noqa: F401
import torch  # noqa: F401
import tqdm  # noqa: F401
import transformers  # noqa: F401

from tests.downloads import cached_folder, check_sha256, pip_download

VERSION = "2.10.1"
WHEEL = f"allennlp-{VERSION}-py3-none-any.whl"
WHEEL_SHA256 = "d840f2cb285ded77f48fbe5c8f52fe955dc48d4462cae2baf4668eca10dd42fb"
# A folder with the unpacked wheel, or the wheel, to be used instead of a download.
ENVIRONMENT_VARIABLE = "ELMO_HF_ALLENNLP"

# What AllenNLP's modules import from its packages, and the file that it comes from.
EXPORTS: dict[str, dict[str, str]] = {
    "allennlp": {},
    "allennlp.common": {"FromParams": "from_params", "Registrable": "registrable", "Tqdm": "tqdm"},
    "allennlp.data": {},
    "allennlp.data.fields": {"TextField": "text_field"},
    "allennlp.data.token_indexers": {},
    "allennlp.data.tokenizers": {"Token": "token_class"},
    "allennlp.modules": {},
    "allennlp.modules.token_embedders": {"Embedding": "embedding"},
    "allennlp.nn": {},
}


# What they import beyond that and ELMo never calls.
UNUSED_MODULES = ("base58", "dill", "spacy", "spacy.cli", "spacy.cli.download", "spacy.language", "spacy.tokens")


def load_allennlp(source: Path | None = None) -> Any:
    """
    Imports the module `allennlp.modules.elmo`.

    Args:
        source: a wheel of AllenNLP 2.10.1 or the folder that it was unpacked to. Without it the environment variable
            `ELMO_HF_ALLENNLP` is asked, then the cache of downloads, then the package index.

    Raises:
        RuntimeError: the wheel cannot be fetched or is another one, or an `allennlp` is imported already.
    """
    if "allennlp" not in sys.modules:
        folder = allennlp_folder(source)
        for package in EXPORTS:
            sys.modules[package] = _Package(package, folder)
        file_utils: Any = ModuleType("allennlp.common.file_utils")
        file_utils.cached_path = lambda path: path
        file_utils.FileLock = file_utils.get_file_extension = file_utils.is_url_or_existing_file = None
        sys.modules[file_utils.__name__] = file_utils
        with _unused_modules():
            importlib.import_module("allennlp.modules.elmo")
            # Imported late by AllenNLP, when the stand-ins are gone.
            importlib.import_module("allennlp.modules.token_embedders.embedding")
    elif not isinstance(sys.modules["allennlp"], _Package):
        raise RuntimeError("`allennlp` must not be imported before, was: another one is. Use a new process.")
    return sys.modules["allennlp.modules.elmo"]


def allennlp_folder(source: Path | None = None) -> Path:
    """The folder that holds the package `allennlp`, see `load_allennlp`."""
    if source is None and os.environ.get(ENVIRONMENT_VARIABLE):
        source = Path(os.environ[ENVIRONMENT_VARIABLE])
    if source is None:
        return cached_folder(f"allennlp-{VERSION}", _fetch)
    if source.is_file():
        return cached_folder(f"allennlp-{VERSION}", lambda folder: _unpack(source, folder))
    if not (source / "allennlp" / "modules" / "elmo.py").is_file():
        raise RuntimeError(f"{source}: must be {WHEEL} or the folder that it was unpacked to, was not.")
    return source


def _fetch(folder: Path) -> None:
    wheel = pip_download(f"allennlp=={VERSION}", WHEEL, WHEEL_SHA256, folder)
    _unpack(wheel, folder)
    wheel.unlink()


def _unpack(wheel: Path, folder: Path) -> None:
    check_sha256(wheel, WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.startswith("allennlp/")])
    for unused in ("tests", "commands"):
        shutil.rmtree(folder / "allennlp" / unused, ignore_errors=True)


class _Package(ModuleType):
    """A package whose `__init__` does not run; the names that others import from it come from their own files."""

    def __init__(self, name: str, folder: Path):
        super().__init__(name)
        self.__path__ = [str(folder.joinpath(*name.split(".")))]
        self.__spec__ = ModuleSpec(name, None, is_package=True)

    def __getattr__(self, name: str) -> Any:
        exports = EXPORTS[self.__name__]
        if name not in exports:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{self.__name__}.{exports[name]}"), name)


class _UnusedModule(ModuleType):
    """Has every name; each is a class of which there are no instances."""

    def __init__(self, name: str):
        super().__init__(name)
        self.__path__ = []
        self.__spec__ = ModuleSpec(name, None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


@contextmanager
def _unused_modules() -> Iterator[None]:
    """Puts stand-ins in the places of `UNUSED_MODULES` for the time of an import, so that nobody else meets them."""
    before = {name: sys.modules.get(name) for name in UNUSED_MODULES}
    sys.modules.update({name: _UnusedModule(name) for name in UNUSED_MODULES})
    try:
        yield
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


if __name__ == "__main__":
    try:
        print(allennlp_folder())
    except RuntimeError as error:
        sys.exit(f"error: {error}")
