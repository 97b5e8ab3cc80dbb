"""Fixtures for all tests: the reference biLM as it was published and as a Hub folder, and new processes."""

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from tqdm import tqdm

from tests.interpreter import Interpreter
from tests.reference import reference_folder

# Its own is shared between processes, and a child that is killed while it holds it never gives it back.
tqdm.set_lock(threading.RLock())


# What takes long and seldom breaks alone: left out of an everyday `pytest`, run by `.ci/run` (`pytest -m ""`).
HEAVY = (
    "integration/",
    "test_compile.py",
    "test_compile_training.py",
    "test_derivatives.py",
    "test_distributed.py",
    "test_fuzz.py",
    "test_fuzz_formats.py::test_damaged_checkpoints",
    "test_a_folder_loads_bit_equal_where_elmo_hf_cannot_be_imported",
    "test_a_stranger_",
    "test_an_exception_at_any_line_of_what_is_kept",
    "test_an_interrupt_while_workers_start",
    "test_any_sequence_of_steps_leaves",
    "test_it_loads_in_a_new_process",
    "test_onnx_export.py",
    "test_of_eight_conversions_into_one_folder",
    "test_the_auto_classes_know_elmo_in_whatever_order",
    "test_the_module_trains_like_the_command",
    "test_two_processes_train_together",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(name in item.nodeid for name in HEAVY):
            item.add_marker(pytest.mark.heavy)
        if item.get_closest_marker("compilers") and not os.environ.get("ELMO_HF_COMPILERS"):
            item.add_marker(pytest.mark.skip("takes minutes, runs with ELMO_HF_COMPILERS=1"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For tests that fork, and compare bits with what the children computed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
def run_without_package(interpreter: Interpreter) -> Callable[..., str]:
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
def _each_training_has_a_precision_of_its_own() -> Iterator[None]:
    """`TrainingArguments` notes precision and compiler in the environment, where the next training finds them."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(autouse=True)
def _each_test_compiles_afresh() -> Iterator[None]:
    """torch.compile counts recompilations of a function over the whole process, and gives up at the eighth."""
    yield
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()


def pytest_collection_finish() -> None:
    """What was imported stays: without half a million objects of it each collection of garbage is quick."""
    gc.freeze()
