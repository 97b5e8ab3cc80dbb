"""
Nanoseconds per value of the functions of an LSTM and of a softmax, on one thread and in one process.

    python -m benchmarks.functions
"""

import torch

from benchmarks.machine import best_times, describe

ROWS, COLUMNS, ROUNDS = 256, 2048, 30


@torch.inference_mode()
def main():
    torch.set_num_threads(1)
    print(describe())
    torch.manual_seed(0)
    values = torch.randn(ROWS, COLUMNS)
    results = torch.empty_like(values)
    tasks = {
        "tanh": lambda: torch.tanh(values, out=results),
        "sigmoid": lambda: torch.sigmoid(values, out=results),
        "exp": lambda: torch.exp(values, out=results),
        "softmax": lambda: torch.softmax(values, 1, out=results),
    }
    for name, seconds in best_times(tasks, ROUNDS).items():
        print(f"{name:<8} {seconds / values.numel() * 1e9:.2f} ns")


if __name__ == "__main__":
    main()
