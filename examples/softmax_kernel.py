"""Cross entropy and its gradient in one go over logits in the memory of a GPU; needs Triton."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _kernel(logits, labels, losses, vocab_size, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + row)
    start = logits + row * stride
    highest = -float("inf")
    total = 0.0
    for first in range(0, vocab_size, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        values = tl.load(start + columns, mask=columns < vocab_size, other=-float("inf")).to(tl.float32)
        new_highest = tl.maximum(highest, tl.max(values, 0))
        total = total * tl.exp(highest - new_highest) + tl.sum(tl.exp(values - new_highest), 0)
        highest = new_highest
    log_sum = highest + tl.log(total)
    has_label = label >= 0
    right = tl.load(start + tl.maximum(label, 0)).to(tl.float32)
    tl.store(losses + row, tl.where(has_label, log_sum - right, 0.0))
    for first in range(0, vocab_size, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < vocab_size
        values = tl.load(start + columns, mask=inside, other=0.0).to(tl.float32)
        gradient = tl.exp(values - log_sum) - tl.where(columns == label, 1.0, 0.0)
        gradient = tl.where(has_label, gradient, 0.0)
        tl.store(start + columns, gradient.to(logits.dtype.element_ty), mask=inside)


def losses_and_gradients(logits: Tensor, labels: Tensor) -> Tensor:
    """
    Args:
        logits: (N, words), which become the gradients of the losses.
        labels: (N,) int64, negative where there is none.

    Returns:
        (N,) float32 losses, 0 where there is no label.
    """
    losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    _kernel[(len(logits),)](logits, labels, losses, logits.shape[1], logits.stride(0), BLOCK=4096, num_warps=8)
    return losses
