"""
Words per second of pre-training, forward, backward and update: this library, in float32 and under autocast to
bfloat16, beside plain PyTorch modules.

    python -m benchmarks.pretraining_speed --size elmo-english --rows 128
    python -m benchmarks.pretraining_speed --size original --steps 2

All read the same windows of random words with state that goes on, in turns, in one process. The plain model spells
every word of a window, has `torch.nn.LSTM(proj_size=...)` without clips and the softmax over all words. Ours does each
distinct word once, has the clips and samples the softmax; its figure with the full softmax is printed as well. Adagrad
for all. At the original size the vocabulary is 50,000 words, since with its own 793,471 the plain model would take
minutes per step.

"Bare products" are those of the LSTM layers alone, forward and backward, with nothing between them: the bound of any
implementation here. Peak memory is that of a process of its own.
"""

import argparse
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.machine import best_times, describe, peak_memory, peak_memory_of
from elmo_hf import ElmoConfig, ElmoForPreTraining, default_model_path
from elmo_hf.character_encoder_elmo import ElmoCharacterEncoder
from elmo_hf.products_elmo import step_product

UNROLL_STEPS = 20
# Words of running text repeat: log-uniform, as the softmax samples them.
NUM_TYPES = 20000


def configurations() -> dict[str, ElmoConfig]:
    english = ElmoConfig.from_pretrained(default_model_path())
    return {"elmo-english": english, "original": ElmoConfig(word_vocab_size=50000, num_sampled_words=8192)}


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


def tasks_of(config: ElmoConfig, rows: int, number: int) -> dict[str, Callable[[], Callable[[], None]]]:
    """For each way to train, what makes a task of `number` steps."""
    inputs = windows(config, rows)

    def ours(samples: int | None = config.num_sampled_words, autocast: bool = False) -> Callable[[], None]:
        model = ElmoForPreTraining(config).train()
        model.softmax.num_sampled_words = samples
        optimizer = torch.optim.Adagrad(model.parameters(), lr=0.01)
        states = None

        def run():
            nonlocal states
            for _ in range(number):
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    outputs = model(**inputs, lstm_states=states)
                states = tuple(state.detach() for state in outputs.lstm_states)
                _update(model, optimizer, outputs.loss)

        return run

    def plain() -> Callable[[], None]:
        model = PlainBilm(config).train()
        optimizer = torch.optim.Adagrad(model.parameters(), lr=0.01)
        states: list = []

        def run():
            nonlocal states
            for _ in range(number):
                loss, states = model(**inputs, states=states)
                _update(model, optimizer, loss)

        return run

    return {
        "float32": ours,
        "bfloat16": lambda: ours(autocast=True),
        "full softmax": lambda: ours(samples=None),
        "plain PyTorch": plain,
        "bare products, float32": lambda: bare_products(config, rows, number, torch.float32),
        "bare products, bfloat16": lambda: bare_products(config, rows, number, torch.bfloat16),
    }


def bare_products(config: ElmoConfig, rows: int, number: int, dtype: torch.dtype) -> Callable[[], None]:
    """The products of the LSTM layers in `number` windows: a step at a time where one waits for the other."""
    size, cells, positions = config.projection_dim, config.cell_size, rows * UNROLL_STEPS
    weight_ih, weight_hh, weight_hr = (
        torch.randn(shape).to(dtype) for shape in ((4 * cells, size), (4 * cells, size), (size, cells))
    )
    in_steps = [
        (step_product(weight), torch.randn(rows, weight.shape[1]).to(dtype))
        for weight in (weight_hh, weight_hr, weight_hh.t(), weight_hr.t())
    ]
    read, gates, memories = (torch.randn(positions, width).to(dtype) for width in (size, 4 * cells, cells))
    results = [gates.clone(), read.clone(), weight_ih.clone(), weight_hh.clone(), weight_hr.clone()]

    def run():
        for _ in range(2 * config.num_hidden_layers * number):
            torch.mm(read, weight_ih.t(), out=results[0])
            for product, inputs in in_steps:
                for _ in range(UNROLL_STEPS):
                    product(inputs)
            torch.mm(gates, weight_ih, out=results[1])
            torch.mm(gates.t(), read, out=results[2])
            torch.mm(gates.t(), read, out=results[3])
            torch.mm(read.t(), memories, out=results[4])

    return run


def _update(model: nn.Module, optimizer: torch.optim.Optimizer, loss: Tensor):
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("elmo-english", "original"), action="append", help="both without it")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--samples", type=int, help="words that the softmax samples; as configured without it")
    parser.add_argument("--steps", type=int, default=3, help="windows per timed round")
    parser.add_argument("--rounds", type=int, default=3, help="the fastest counts")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    console = Console(width=110)
    for size, config in configurations().items():
        if arguments.size and size not in arguments.size:
            continue
        config.num_sampled_words = arguments.samples or config.num_sampled_words
        if arguments.memory_of:
            tasks_of(config, arguments.rows, 2)[arguments.memory_of]()()
            print(peak_memory())
            return
        tasks = {name: make() for name, make in tasks_of(config, arguments.rows, arguments.steps).items()}
        words = arguments.rows * UNROLL_STEPS * arguments.steps
        seconds = best_times(tasks, arguments.rounds)
        table = Table(title=f"{size} size, {arguments.rows} rows of {UNROLL_STEPS} words")
        for column in ("", "words per second", "x float32", "peak GB"):
            table.add_column(column, justify="left" if not column else "right")
        for name, value in seconds.items():
            alone = ("--memory-of", name, "--size", size, "--rows", str(arguments.rows))
            memory = "" if name.startswith("bare") else f"{peak_memory_of('pretraining_speed', *alone):.2f}"
            table.add_row(name, f"{words / value:,.0f}", f"{seconds['float32'] / value:.2f}", memory)
        console.print(describe())
        console.print(table)


if __name__ == "__main__":
    main()
