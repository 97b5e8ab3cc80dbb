"""What a figure was measured on, and how: pairs in turn, best of several rounds."""

import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers


def describe() -> str:
    """One line that names processor, threads and versions."""
    names = [
        line.partition(":")[2].strip()
        for line in (Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else [])
        if line.startswith("model name")
    ]
    processor = f"{len(names)} x {names[0]}" if names else platform.processor() or platform.machine()
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{processor} ({capability}), {torch.get_num_threads()} threads, "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )


def best_times(tasks: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of the fastest of several rounds for each task; in a round each runs once, in turn."""
    best = dict.fromkeys(tasks, float("inf"))
    for _ in range(rounds):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def sgemm_rate(size: int = 3072, rounds: int = 5) -> float:
    """Floating-point operations per second of one large product of float32 matrices."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    a @ b
    return 2 * size**3 / best_times({"sgemm": lambda: a @ b}, rounds)["sgemm"]


def peak_memory() -> float:
    """GB that this process has held at most. Linux only: `getrusage` would count the parent's memory as well."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1e6


def peak_memory_of(module: str, *arguments: str) -> float:
    """GB that a process held at most which runs a module of the benchmarks and prints it last."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
