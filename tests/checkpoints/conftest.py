"""Fixtures for the tests of checkpoints: one of random numbers, and one for each option of the format."""

from pathlib import Path

import pytest

from tests.checkpoints.random_checkpoint import VARIANTS, Checkpoint, write_random_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return write_random_checkpoint(tmp_path / "checkpoint")


@pytest.fixture(params=list(VARIANTS.values()), ids=list(VARIANTS))
def variant(request: pytest.FixtureRequest, tmp_path: Path) -> Checkpoint:
    return write_random_checkpoint(tmp_path / "checkpoint", **request.param)
