"""`convert`, `export` and `fit-initial-state`, killed at any time, several at once: the target is whole or absent."""

import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm import tqdm

from elmo_hf import default_model_path
from tests.test_cli import run

FORK = multiprocessing.get_context("fork")
KILLS = int(os.environ.get("ELMO_HF_KILLS", "4"))


def begin_in_a_fork() -> None:
    """For a child of a process with threads: without what these may have held when it was forked."""
    tqdm.set_lock(threading.RLock())
    # OpenMP does not live through a fork.
    torch.set_num_threads(1)


def _run_quietly(arguments: list[Any]) -> None:
    begin_in_a_fork()
    sys.exit(run(*arguments)[0])


def _run_and_tell(arguments: list[Any], start: Any, results: Any) -> None:
    begin_in_a_fork()
    start.wait()
    results.put(run(*arguments))


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def convert(reference_dir: Path, model_dir: Path, out: Path) -> list[Any]:
    return ["convert", reference_dir / "options.json", reference_dir / "lm_weights.hdf5", out / "target" / "model"]


def export(reference_dir: Path, model_dir: Path, out: Path) -> list[Any]:
    return ["export", model_dir, out / "target" / "options.json", out / "target" / "weights.hdf5"]


def fit_initial_state(reference_dir: Path, model_dir: Path, out: Path) -> list[Any]:
    (out / "text").write_text("The river bank was muddy .\n" * 50, encoding="utf-8")
    return ["fit-initial-state", default_model_path(), out / "text", "--output", out / "target" / "model"]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("command", [convert, export, fit_initial_state])
def test_a_killed_command_leaves_a_whole_target_or_none(
    command: Callable[..., list[Any]], reference_dir: Path, reference_model_dir: Path, tmp_path: Path
):
    arguments = command(reference_dir, reference_model_dir, tmp_path)
    start = time.perf_counter()
    assert run(*arguments)[0] == 0
    duration = time.perf_counter() - start
    expected = files_of(tmp_path / "target")
    shutil.rmtree(tmp_path / "target")
    before = sorted(path.name for path in tmp_path.iterdir())
    draw = random.Random(0)
    for _ in range(KILLS):
        process = FORK.Process(target=_run_quietly, args=(arguments,))
        process.start()
        process.join(draw.uniform(0, 1.1 * duration))
        if process.exitcode is None:
            os.kill(process.pid or 0, draw.choice([signal.SIGTERM, signal.SIGHUP, signal.SIGKILL]))
        process.join()
        found = {name: content for name, content in files_of(tmp_path / "target").items() if "/." not in "/" + name}
        assert all(content == expected[name] for name, content in found.items())
        # What is whole is in the way of the next one; what is not, the next one removes.
        if found.keys() == expected.keys():
            shutil.rmtree(tmp_path / "target")
    shutil.rmtree(tmp_path / "target" / "model", ignore_errors=True)
    assert run(*arguments)[0] == 0
    assert files_of(tmp_path / "target") == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "target"])


def test_of_eight_conversions_into_one_folder_one_wins(reference_dir: Path, reference_model_dir: Path, tmp_path: Path):
    arguments = convert(reference_dir, reference_model_dir, tmp_path)
    results, start = FORK.Queue(), FORK.Barrier(8)
    processes = [FORK.Process(target=_run_and_tell, args=(arguments, start, results)) for _ in range(8)]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(code for code, _, _ in found) == [0] + [1] * 7
    assert all("was there already" in err.splitlines()[-1] for code, _, err in found if code)
    assert files_of(tmp_path / "target" / "model").keys() == files_of(reference_model_dir).keys()
    assert [path.name for path in (tmp_path / "target").iterdir()] == ["model"]
