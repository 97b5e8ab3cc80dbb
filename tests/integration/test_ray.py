"""`examples/embed_with_ray.py`: killed workers and drivers lose nothing and write nothing twice."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from elmo_hf import ElmoEmbedder
from elmo_hf.corpus_embedding import load_embedder

pytest.importorskip("ray", reason="ray is in an environment of its own")

SCRIPT = Path(__file__).parents[2] / "examples" / "embed_with_ray.py"
WORDS = ["the", "river", "bank", "was", "muddy", "and", "cold", "he", "owed", "money"]


def text(number: int) -> list[str]:
    draw = random.Random(0)
    return [f"{place} {' '.join(draw.choices(WORDS, k=draw.randint(0, 12)))}" for place in range(number)]


def command(folder: Path, *options: str) -> list[str]:
    return [sys.executable, str(SCRIPT), str(folder / "text.txt"), str(folder / "out"), "--pooling", "mean", *options]


def run(arguments: list[str]) -> str:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def check(folder: Path, sentences: list[str]) -> None:
    table = pq.read_table(folder / "out" / "vectors").sort_by("sentence")
    assert table["sentence"].to_pylist() == list(range(len(sentences)))
    assert table["text"].to_pylist() == sentences
    embedder: ElmoEmbedder = load_embedder(device="cpu")
    expected = np.stack(list(embedder.embed(sentences, pooling="mean")))
    # Batches of other sizes round otherwise: by 2.1e-6 at most of 1.9 million numbers on AVX2.
    np.testing.assert_allclose(np.stack(table["vectors"].to_numpy()), expected, rtol=0, atol=1e-5)


def processes_of(driver: int, title: str) -> list[Any]:
    """Ray's processes have titles of their own."""
    found = psutil.Process(driver).children(recursive=True)
    return [process for process in found if title in " ".join(process.cmdline())]


def test_rows_are_those_of_the_embedder_and_the_same_command_does_nothing_more(tmp_path: Path):
    sentences = text(300)
    (tmp_path / "text.txt").write_text("\n".join(sentences))
    assert "300 sentences" in run(command(tmp_path, "--rows", "64"))
    check(tmp_path, sentences)
    before = sorted(path.name for path in (tmp_path / "out" / "vectors").iterdir())
    assert "300 sentences" in run(command(tmp_path, "--rows", "64"))
    assert sorted(path.name for path in (tmp_path / "out" / "vectors").iterdir()) == before
    other = subprocess.run(command(tmp_path, "--layers", "0"), capture_output=True, text=True)
    assert other.stderr == f"error: {tmp_path / 'out'} was begun with another layers: take another folder.\n"


@pytest.mark.parametrize("victim", ["driver", "worker"])
def test_a_kill_loses_nothing_and_doubles_nothing(victim: str, tmp_path: Path):
    sentences = text(6000)
    (tmp_path / "text.txt").write_text("\n".join(sentences))
    vectors, draw = tmp_path / "out" / "vectors", random.Random(victim)
    kills = 0
    for _ in range(int(os.environ.get("ELMO_HF_KILLS", "1"))):
        process = subprocess.Popen(
            command(tmp_path, "--rows", "256"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        enough = len(list(vectors.glob("*"))) + draw.randint(1, 6)
        while process.poll() is None and len(list(vectors.glob("*"))) < enough:
            time.sleep(0.1)
        if process.poll() is not None:
            # It was done before.
            break
        others = processes_of(process.pid, "" if victim == "driver" else "MapWorker")
        assert others
        if victim == "driver":
            process.kill()
        else:
            others = [draw.choice(others)]
        for one in others:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        kills += 1
        assert process.wait(timeout=300) == (0 if victim == "worker" else -signal.SIGKILL)
    assert kills
    run(command(tmp_path, "--rows", "256"))
    check(tmp_path, sentences)
