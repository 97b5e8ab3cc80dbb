"""Fixtures for all tests: the reference biLM as it was published and as a Hub folder, and a process without us."""

import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.reference import reference_folder
from tests.stranger import Stranger


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Folder of a small biLM and its TensorFlow outputs; `tests/reference.py` lists the files."""
    return reference_folder()


@pytest.fixture(scope="session")
def reference_model_dir(reference_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference biLM converted to a Hub folder. Shared by the whole session: copy it before writing into it."""
    from elmo_hf.checkpoints.conversion import convert_checkpoint

    folder = tmp_path_factory.mktemp("hub") / "elmo-tiny-reference"
    convert_checkpoint(reference_dir / "options.json", reference_dir / "lm_weights.hdf5", folder)
    return folder


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    with Stranger(tmp_path_factory.mktemp("stranger")) as stranger:
        yield stranger


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors this small take longer on several threads, and much longer where other processes are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _each_test_compiles_afresh() -> Iterator[None]:
    """torch.compile counts recompilations of a function over the whole process, and gives up at the eighth."""
    yield
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


def pytest_collection_finish() -> None:
    """What was imported stays: without half a million objects of it each collection of garbage is quick."""
    gc.freeze()
