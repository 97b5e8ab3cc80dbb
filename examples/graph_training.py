"""
Training of a biLM on a GPU that is not kept waiting: text, windows, model and optimizer are there, and a batch is one
CUDA graph. The CPU only says when the next one begins. Without a GPU the same operations run one by one.

It reads what `packed_text.py` writes. Each row of a batch reads its part of one source over and over, window by
window, with carried state; the shares of the sources are shares of the rows. The loss is that of the full softmax.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from elmo_hf import ElmoForPreTraining, ElmoTokenizer
from examples.packed_text import BEGIN, END, UNKNOWN, read_streams, read_words

IGNORED = -100
CLIP_NORM = 1.0


class Rows(NamedTuple):
    """Where each row of a batch reads: `windows` windows from the position `start` on, then from the start again."""

    starts: Tensor  # (rows,) int64
    windows: Tensor  # (rows,) int64


@dataclass
class Text:
    """
    Sources of a kind, one after the other, on a device.

    Attributes:
        forward: (N + 1,) int32 words as the forward direction reads them.
        backward: (N + 1,) int32 the same positions as the backward direction reads them.
        bounds: where each source begins and ends.
    """

    forward: Tensor
    backward: Tensor
    bounds: dict[str, tuple[int, int]]

    def rows(self, numbers: dict[str, int], unroll_steps: int) -> Rows:
        """So many rows of each source, at equal distances."""
        starts, windows = [], []
        for source, number in numbers.items():
            begin, end = self.bounds[source]
            length = (end - begin) // number
            if number and length < unroll_steps:
                raise ValueError(f"{source}: must have {unroll_steps} words for each of {number} rows, has: {length}.")
            starts += [begin + row * length for row in range(number)]
            windows += [length // unroll_steps] * number
        device = self.forward.device
        return Rows(torch.tensor(starts, device=device), torch.tensor(windows, device=device))


def read_text(folder: Path, kind: str, device: torch.device) -> Text:
    sources = {file.stem: read_streams(file) for file in sorted((folder / kind).glob("*.xz"))}
    bounds, begin = {}, 0
    for source, streams in sources.items():
        bounds[source] = (begin, begin + len(streams.forward))
        begin += len(streams.forward)
    # One more position, which the last one predicts: another sentence begins.
    forward = np.concatenate([*(streams.forward for streams in sources.values()), [BEGIN]])
    backward = np.concatenate([*(streams.backward for streams in sources.values()), [END]])
    forward, backward = (torch.from_numpy(tokens.astype(np.int32)).to(device) for tokens in (forward, backward))
    return Text(forward, backward, bounds)


def spelled_words(folder: Path, device: torch.device) -> Tensor:
    """(words, 50) int16 character ids of each word of a packed text."""
    words = read_words(folder)
    tokenizer = ElmoTokenizer()
    parts = (tokenizer.words_to_character_ids(words[start : start + 65536]) for start in range(0, len(words), 65536))
    return torch.from_numpy(np.concatenate([part.astype(np.int16) for part in parts])).to(device)


class Windows(NamedTuple):
    """A batch: for both directions, in time-major order, what is read and what follows."""

    read: Tensor  # (2, unroll_steps * rows) words
    labels: Tensor  # (2, unroll_steps * rows) words of the vocabulary


def windows_at(text: Text, rows: Rows, step: Tensor, unroll_steps: int, vocab_size: int) -> Windows:
    """Window number `step`, () int64, of each row."""
    begin = rows.starts + step % rows.windows * unroll_steps
    # (unroll_steps, rows)
    positions = begin + torch.arange(unroll_steps, device=begin.device)[:, None]
    read, labels = [], []
    for tokens, first in ((text.forward, BEGIN), (text.backward, END)):
        read.append(tokens[positions].flatten())
        following = tokens[positions + 1].flatten().long()
        # Not by `where`, which would copy a number to the GPU each time.
        following = following.masked_fill(following >= vocab_size, UNKNOWN)
        labels.append(following.masked_fill(following == first, IGNORED))
    return Windows(torch.stack(read), torch.stack(labels))


def distinct_words(read: Tensor, num_words: int, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """
    As `torch.unique(return_inverse=True)`, with shapes that do not depend on the values.

    Returns:
        (most,) the words that occur, then zeros; for each of `read` its place among them; () how many there are.
    """
    present = torch.zeros(num_words, dtype=torch.int32, device=read.device)
    present.index_fill_(0, read.flatten().long(), 1)
    places = present.cumsum(0) - 1
    # Words that do not occur, or find no room, go to one more place.
    targets = places.masked_fill((present == 0) | (places >= most), most)
    words = torch.zeros(most + 1, dtype=torch.long, device=read.device)
    words.scatter_(0, targets, torch.arange(num_words, device=read.device))
    return words[:-1], places[read.long()].clamp(max=most - 1), places[-1] + 1


class Bilm:
    """Loss of [`ElmoForPreTraining`] over windows of fixed shape; it holds the carried state."""

    def __init__(
        self, model: ElmoForPreTraining, spelled: Tensor, rows: int, unroll_steps: int, loss: Callable[..., Tensor]
    ):
        config = model.config
        self.model, self.spelled, self.rows, self.unroll_steps, self.loss = model, spelled, rows, unroll_steps, loss
        # Distinct words that a batch has room for: all, until [`Training`] has seen some batches.
        self.most_words = min(len(spelled), 2 * rows * unroll_steps)
        self.first = torch.tensor([[BEGIN], [END]], device=spelled.device)
        shape = (config.num_hidden_layers, 2, rows)
        self.hidden = torch.zeros(*shape, config.projection_dim, device=spelled.device)
        self.cell = torch.zeros(*shape, config.cell_size, device=spelled.device)
        # The highest number of distinct words in a batch so far.
        self.num_words = torch.zeros((), dtype=torch.long, device=spelled.device)

    def __call__(self, windows: Windows, reset: float = 0.0) -> Tensor:
        """
        Args:
            windows: of the batch.
            reset: how often a window that begins with a sentence starts from zeros instead of the carried state.

        Returns:
            (2,) mean loss of each direction; the state goes on to the next windows.
        """
        model, encoder = self.model, self.model.elmo.encoder
        words, places, number = distinct_words(windows.read, len(self.spelled), self.most_words)
        self.num_words.copy_(torch.maximum(self.num_words, number))
        if not words.is_cuda:
            # Without a graph, shapes may depend on values.
            words = words[: int(number)]
        encode, ids = model.elmo.character_encoder, self.spelled[words].long()
        # Not by indexing, whose gradient waits for the GPU to count.
        characters = encode.embeddings.weight.index_select(0, ids.flatten()).view(*ids.shape, -1)
        vectors = encode(character_embeds=characters)
        hidden, cell = self.hidden.clone(), self.cell.clone()
        if reset:
            first = windows.read.view(2, self.unroll_steps, self.rows)[:, 0]
            begins = first == self.first
            keep = ~(begins & (torch.rand(begins.shape, device=first.device) < reset))[..., None]
            hidden, cell = hidden * keep, cell * keep
        layout = SimpleNamespace(batch_sizes=[self.rows] * self.unroll_steps)
        inputs = vectors.index_select(0, places.flatten()).view(*places.shape, -1)
        results = encoder._run_together(inputs, hidden, cell, layout, None)
        with torch.no_grad():
            for direction, (_, last_hidden, last_cell) in enumerate(results):
                self.hidden[:, direction].copy_(last_hidden)
                self.cell[:, direction].copy_(last_cell)
        features = model.dropout(torch.stack([outputs[-1] for outputs, _, _ in results]))
        losses = self.loss(features.flatten(0, 1), windows.labels.flatten(), model.softmax)
        return losses.view(2, -1).sum(1) / (windows.labels >= 0).sum(1).clamp(min=1)


def full_softmax(features: Tensor, labels: Tensor, softmax: torch.nn.Module) -> Tensor:
    """(N,) exact losses, 0 where there is no label."""
    return F.cross_entropy(F.linear(features, softmax.weight, softmax.bias), labels, reduction="none")


def sampled_softmax(features: Tensor, labels: Tensor, softmax: torch.nn.Module) -> Tensor:
    """(N,) losses against a sample of the words, 0 where there is no label."""
    return softmax.sampled_loss(features, labels)


class RoughSoftmax(torch.autograd.Function):
    """
    `full_softmax` with bfloat16 logits, which one tensor holds before and their gradients after: a third of the time.
    """

    @staticmethod
    def forward(ctx, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        from examples.softmax_kernel import losses_and_gradients

        half_features, half_weight = features.bfloat16(), weight.bfloat16()
        logits = F.linear(half_features, half_weight, bias.bfloat16())
        losses = losses_and_gradients(logits, labels)
        ctx.save_for_backward(half_features, half_weight, logits)
        return losses

    @staticmethod
    def backward(ctx, gradient: Tensor):
        features, weight, gradients = ctx.saved_tensors
        gradient = gradient[:, None]
        scaled = features * gradient.bfloat16()
        return (
            (gradients @ weight).float() * gradient,
            None,
            torch.mm(gradients.t(), scaled).float(),
            torch.mv(gradients.t(), gradient[:, 0].bfloat16()).float(),
        )


def rough_softmax(features: Tensor, labels: Tensor, softmax: torch.nn.Module) -> Tensor:
    return RoughSoftmax.apply(features, labels, softmax.weight, softmax.bias)


class Training:
    """
    Batches of a text, one by one.

    Args:
        model: in training mode, on the device of the text.
        text: what is read.
        rows: where.
        spelled: the words of the text.
        unroll_steps: words of each row per batch.
        learning_rate: the highest.
        weight_decay: of matrices.
        reset: see [`Bilm`].
        average: the share of the weights that an average of them takes on in each batch.
        loss: `full_softmax`, `rough_softmax`, which takes a GPU, or `sampled_softmax`, which a graph cannot hold.
        bfloat16: whether products are of bfloat16.
    """

    def __init__(
        self,
        model: ElmoForPreTraining,
        text: Text,
        rows: Rows,
        spelled: Tensor,
        unroll_steps: int = 20,
        learning_rate: float = 0.004,
        weight_decay: float = 0.01,
        reset: float = 0.5,
        average: float = 0.002,
        loss: Callable[..., Tensor] = full_softmax,
        beta2: float = 0.99,
        bfloat16: bool = False,
    ):
        device = text.forward.device
        self.model, self.text, self.rows, self.unroll_steps = model, text, rows, unroll_steps
        self.highest_rate, self.reset, self.average = learning_rate, reset, average
        self.bilm = Bilm(model, spelled, len(rows.starts), unroll_steps, loss)
        self.bfloat16 = bfloat16
        self.step = torch.zeros((), dtype=torch.long, device=device)
        self.rate = torch.zeros((), device=device)
        self.bilm.most_words = self._room_for_words(spelled)
        # Of both directions, since they were last asked for.
        self.losses = torch.zeros(2, device=device)
        self.num_batches = 0
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.parameters, self.averages = parameters, [parameter.detach().clone() for parameter in parameters]
        groups = [
            {"params": [parameter for parameter in parameters if parameter.dim() > 1], "weight_decay": weight_decay},
            {"params": [parameter for parameter in parameters if parameter.dim() < 2], "weight_decay": 0.0},
        ]
        on_gpu = device.type == "cuda"
        rate = self.rate if on_gpu else 0.0
        self.optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, beta2), fused=on_gpu, capturable=on_gpu)
        self.graph = None
        if on_gpu:
            try:
                self.graph = self._captured()
            except RuntimeError as error:
                print(f"no CUDA graph: {error}", flush=True)

    def _room_for_words(self, spelled: Tensor, tries: int = 32) -> int:
        """A third more than some batches need."""
        if self.text.forward.device.type != "cuda":
            return self.bilm.most_words
        found = 0
        for step in torch.linspace(0, float(self.rows.windows.max()), tries).long().to(spelled.device):
            read = windows_at(self.text, self.rows, step, self.unroll_steps, len(spelled)).read
            found = max(found, len(read.unique()))
        return min(self.bilm.most_words, -(-found * 4 // 3 // 256) * 256)

    def _captured(self) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        # With a rate of 0 nothing is learned yet.
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._batch()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            self._batch()
        # What the tries left.
        for state in self.optimizer.state.values():
            for value in state.values():
                value.zero_()
        for tensor in (self.bilm.hidden, self.bilm.cell, self.losses, self.step):
            tensor.zero_()
        return graph

    def _batch(self):
        self.optimizer.zero_grad(set_to_none=True)
        vocab_size = len(self.model.softmax.bias)
        windows = windows_at(self.text, self.rows, self.step, self.unroll_steps, vocab_size)
        with torch.autocast(self.step.device.type, torch.bfloat16, enabled=self.bfloat16):
            losses = self.bilm(windows, self.reset)
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM, foreach=True)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, [parameter.detach() for parameter in self.parameters], self.average)
            self.losses += losses
            self.step += 1

    def train(self, rate: float):
        """One batch, with a share `rate` of the highest learning rate."""
        if self.graph is None:
            for group in self.optimizer.param_groups:
                group["lr"] = rate * self.highest_rate
            self._batch()
        else:
            self.rate.fill_(rate * self.highest_rate)
            self.graph.replay()
        self.num_batches += 1

    @property
    def words_without_room(self) -> int:
        """How many distinct words too many a batch had, at most: they were taken for another one."""
        return max(0, int(self.bilm.num_words) - self.bilm.most_words)

    def mean_losses(self) -> list[float]:
        """Of both directions, over the batches since the last call."""
        losses = (self.losses / max(1, self.num_batches)).tolist()
        self.losses.zero_()
        self.num_batches = 0
        return losses

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next batches depend on, besides text and recipe."""
        on_gpu = self.step.is_cuda
        return {
            "model": self.model.state_dict(),
            "averages": self.averages,
            "moments": [self.optimizer.state[parameter] for parameter in self.parameters],
            "carried": [self.bilm.hidden, self.bilm.cell],
            "step": self.step,
            "random": [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if on_gpu else [])],
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]):
        """Goes on from a `state_dict`."""
        self.model.load_state_dict(state["model"])
        # In place, since a graph knows tensors by their addresses.
        pairs = zip(
            [*self.averages, self.bilm.hidden, self.bilm.cell, self.step],
            [*state["averages"], *state["carried"], state["step"]],
            strict=True,
        )
        for tensor, kept in pairs:
            tensor.copy_(kept)
        for parameter, moments in zip(self.parameters, state["moments"], strict=True):
            known = self.optimizer.state[parameter]
            for name, kept in moments.items():
                if name in known:
                    known[name].copy_(kept)
                else:
                    known[name] = kept.cpu() if name == "step" and not self.step.is_cuda else kept
        torch.set_rng_state(state["random"][0].cpu())
        if self.step.is_cuda:
            torch.cuda.set_rng_state(state["random"][1].cpu())

    def swap_average(self):
        """Exchanges the weights and their average."""
        with torch.no_grad():
            for parameter, average in zip(self.parameters, self.averages, strict=True):
                kept = parameter.clone()
                parameter.copy_(average)
                average.copy_(kept)


@torch.no_grad()
def perplexities(
    model: ElmoForPreTraining, text: Text, spelled: Tensor, unroll_steps: int = 20, rows: int = 512
) -> dict[str, float]:
    """Of each source, with carried state, the average of both directions; by the full softmax."""
    was_training = model.training
    model.eval()
    found = {}
    for source in text.bounds:
        begin, end = text.bounds[source]
        number = max(1, min(rows, (end - begin) // unroll_steps))
        places = text.rows({source: number}, unroll_steps)
        bilm = Bilm(model, spelled, number, unroll_steps, lambda tops, labels, softmax: softmax.loss(tops, labels))
        losses, count = torch.zeros(2, device=spelled.device), torch.zeros(2, device=spelled.device)
        for step in range(int(places.windows[0])):
            step = torch.tensor(step, device=spelled.device)
            windows = windows_at(text, places, step, unroll_steps, len(model.softmax.bias))
            predicted = (windows.labels >= 0).sum(1)
            losses += bilm(windows) * predicted
            count += predicted
        found[source] = float((losses / count).exp().mean())
    model.train(was_training)
    return found


def rate_at(done: float, warm_up: float, decay: float = 0.2, lowest: float = 0.02) -> float:
    """Share of the highest learning rate after a share `done` of the training: up, level, down in a straight line."""
    return min(1.0, done / warm_up if warm_up else 1.0, lowest + (1 - lowest) * (1 - done) / decay)


def shares_of_rows(shares: dict[str, float], rows: int) -> dict[str, int]:
    """Whole rows for each source, `rows` in all."""
    total = sum(shares.values())
    bounds = np.round(np.cumsum([0.0, *shares.values()]) / total * rows).astype(int)
    return {source: int(number) for source, number in zip(shares, np.diff(bounds), strict=True)}
