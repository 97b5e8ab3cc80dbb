"""The kernels for a GPU against the layer in plain PyTorch, interpreted on the CPU; needs Triton."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from elmo_hf import lstm_fused_elmo
from elmo_hf.lstm_kernels_elmo import Clips, LstmWeights, lstm_gradients, lstm_keeping

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def test_a_cpu_has_no_use_for_them():
    assert not lstm_fused_elmo.has_fused_steps(torch.zeros(1))


@pytest.mark.skipif(INTERPRETED or find_spec("triton") is None, reason="needs Triton")
def test_they_pass_their_tests_when_interpreted():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", __file__]
    found = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    assert " passed" in found.stdout


@pytest.mark.skipif(not INTERPRETED, reason="runs in a process of its own")
@pytest.mark.parametrize("leading", [(), (2,)])
@pytest.mark.parametrize("clips", [Clips(None, None), Clips(0.8, 0.7)])
@pytest.mark.parametrize("batch_sizes", [[4, 4, 3, 1], [2], [3, 3, 3]])
def test_a_layer_is_the_same(leading: tuple[int, ...], clips: Clips, batch_sizes: list[int]):
    torch.manual_seed(0)
    batch, positions, size, width = batch_sizes[0], sum(batch_sizes), 19, 5

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*leading, *shape)

    weights = LstmWeights(draw(4 * size, 7), draw(4 * size, width), draw(4 * size), draw(width, size))
    # The state as a view whose last dimension is not dense.
    inputs, hidden, cell = draw(positions, 7), draw(batch, width), draw(size, batch).transpose(-1, -2)
    arguments = (inputs, hidden, cell, batch_sizes, weights, clips)
    *expected, kept = lstm_keeping(*arguments)
    *found, found_kept = lstm_fused_elmo.fused_lstm_keeping(*arguments)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tuple(found_kept), tuple(kept), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(list(lstm_fused_elmo.fused_lstm(*arguments)), expected, rtol=1e-5, atol=1e-5)
    gradients = [torch.randn_like(tensor) for tensor in expected]
    rest = (inputs, hidden, cell, batch_sizes, weights, clips, expected[0], kept, [True] * 7)
    torch.testing.assert_close(
        lstm_fused_elmo.fused_lstm_gradients(gradients, *rest), lstm_gradients(gradients, *rest), rtol=1e-4, atol=1e-4
    )


@pytest.mark.skipif(not INTERPRETED, reason="runs in a process of its own")
def test_nan_stays_nan():
    weights = LstmWeights(torch.full((4, 1), torch.nan), torch.zeros(4, 1), torch.zeros(4), torch.ones(1, 1))
    outputs, *_ = lstm_fused_elmo.fused_lstm(
        torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1, 1), [1], weights, Clips(1.0, 1.0)
    )
    assert outputs.isnan().all()
