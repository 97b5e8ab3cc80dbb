"""Fixtures for all tests: the reference biLM as it was published and as a Hub folder, and new processes."""

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from tests.interpreter import Interpreter
from tests.reference import reference_folder

# Its own is shared between processes, and a child that is killed while it holds it never gives it back.
tqdm.set_lock(threading.RLock())


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
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Interpreter]:
    with Interpreter(tmp_path_factory.mktemp("interpreter")) as interpreter:
        yield interpreter


@pytest.fixture(scope="session")
def run_as_stranger(interpreter: Interpreter) -> Callable[..., str]:
    """Runs a script where neither this package nor h5py can be imported, and returns what it logged."""

    def run(script: str, *arguments: str | Path) -> str:
        done = interpreter.run(script, *arguments, without=["elmo_hf", "h5py"])
        assert done.returncode == 0, done.stderr
        return done.stderr

    return run


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
