"""
Words a second of pre-training, forward, backward and update: this library beside plain PyTorch modules.

    python -m benchmarks.pretraining_speed
    python -m benchmarks.pretraining_speed --size original --steps 2

Both read the same windows of random words with state that goes on, in turns, in one process. The plain model spells
every word of a window, has `torch.nn.LSTM(proj_size=...)` without clips and the softmax over all words. Ours does each
distinct word once, has the clips and samples the softmax; its figure with the full softmax is printed as well. Adagrad
for all. The vocabulary is 20,000 words at the small size and 50,000 at the original one, whose own 793,471 words would
leave the plain model minutes a step.
"""

import argparse
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.machine import best_times, describe
from elmo_hf import ElmoConfig, ElmoForPreTraining, default_model_path
from elmo_hf.character_encoder_elmo import ElmoCharacterEncoder

UNROLL_STEPS = 20
# Words of running text repeat: log-uniform, as the softmax samples them.
NUM_TYPES = 20000


def configurations() -> dict[str, ElmoConfig]:
    small = ElmoConfig.from_pretrained(default_model_path())
    return {"small": small, "original": ElmoConfig(word_vocab_size=50000, num_sampled_words=8192)}


class PlainBilm(nn.Module):
    """The same model of PyTorch's own modules."""

    def __init__(self, config: ElmoConfig):
        super().__init__()
        self.characters = ElmoCharacterEncoder(config)
        size = config.projection_dim
        self.stacks = nn.ModuleList(
            nn.ModuleList(nn.LSTM(size, config.cell_size, proj_size=size) for _ in range(config.num_hidden_layers))
            for _ in range(2)
        )
        self.softmax = nn.Linear(size, config.word_vocab_size)

    def forward(
        self, input_ids: Tensor, backward_input_ids: Tensor, labels: Tensor, backward_labels: Tensor, states: list
    ) -> tuple[Tensor, list]:
        total, new_states = torch.zeros(()), list[tuple]()
        pairs = ((input_ids, labels), (backward_input_ids, backward_labels))
        for stack, (ids, words) in zip(self.stacks, pairs, strict=True):
            # (words, batch, projection_dim)
            hidden = self.characters(ids.transpose(0, 1).flatten(0, 1)).view(*ids.shape[1::-1], -1)
            for index, layer in enumerate(stack):
                output, state = layer(hidden, states[len(new_states)] if states else None)
                new_states.append(tuple(part.detach() for part in state))
                hidden = output + hidden if index > 0 else output
            total = total + F.cross_entropy(self.softmax(hidden).flatten(0, 1), words.t().flatten())
        return total / 2, new_states


def windows(config: ElmoConfig, rows: int) -> dict[str, Tensor]:
    """One window of random words in both directions."""
    spelled = torch.randint(1, 257, (NUM_TYPES, config.max_characters_per_token))
    # About six letters, and the marks.
    lengths = torch.randint(2, 11, (NUM_TYPES, 1))
    positions = torch.arange(config.max_characters_per_token)
    spelled = torch.where(positions <= lengths, spelled, 261).masked_fill(positions == lengths + 1, 260)
    spelled[:, 0] = 259
    types = (torch.exp(torch.rand(2, rows, UNROLL_STEPS) * torch.log(torch.tensor(NUM_TYPES))).long() - 1).clamp(0)
    labels = types.roll(-1, dims=-1) % config.word_vocab_size
    return {
        "input_ids": spelled[types[0]],
        "backward_input_ids": spelled[types[1]],
        "labels": labels[0],
        "backward_labels": labels[1],
    }


def steps_of(config: ElmoConfig, rows: int, number: int) -> dict[str, Callable[[], None]]:
    inputs = windows(config, rows)
    sampled = ElmoForPreTraining(config).train()
    full = ElmoForPreTraining(config).train()
    full.softmax.num_sampled_words = None
    plain = PlainBilm(config).train()

    def ours(model: ElmoForPreTraining) -> Callable[[], None]:
        optimizer = torch.optim.Adagrad(model.parameters(), lr=0.01)
        states = None

        def run():
            nonlocal states
            for _ in range(number):
                outputs = model(**inputs, lstm_states=states)
                states = tuple(state.detach() for state in outputs.lstm_states)
                _update(model, optimizer, outputs.loss)

        return run

    optimizer = torch.optim.Adagrad(plain.parameters(), lr=0.01)
    plain_states: list = []

    def run_plain():
        nonlocal plain_states
        for _ in range(number):
            loss, plain_states = plain(**inputs, states=plain_states)
            _update(plain, optimizer, loss)

    return {"elmo_hf": ours(sampled), "elmo_hf, full softmax": ours(full), "plain PyTorch": run_plain}


def _update(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor):
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("small", "original"), action="append", help="both without it")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--samples", type=int, help="words that the softmax samples; as configured without it")
    parser.add_argument("--steps", type=int, default=3, help="windows a timed round")
    parser.add_argument("--rounds", type=int, default=2, help="the fastest counts")
    arguments = parser.parse_args()
    torch.manual_seed(0)

    console = Console(width=110)
    console.print(describe())
    table = Table(title=f"words per second, {arguments.rows} rows of {UNROLL_STEPS} words")
    for column in ("size", "elmo_hf", "elmo_hf, full softmax", "plain PyTorch", "x plain"):
        table.add_column(column, justify="right")
    for size, config in configurations().items():
        if arguments.size and size not in arguments.size:
            continue
        config.num_sampled_words = arguments.samples or config.num_sampled_words
        words = arguments.rows * UNROLL_STEPS * arguments.steps
        seconds = best_times(steps_of(config, arguments.rows, arguments.steps), arguments.rounds)
        rates = {name: words / value for name, value in seconds.items()}
        table.add_row(
            size,
            *(f"{rate:.0f}" for rate in rates.values()),
            f"{rates['elmo_hf'] / rates['plain PyTorch']:.1f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
