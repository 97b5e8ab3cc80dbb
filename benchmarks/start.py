"""
Seconds until a program has imported what it needs, each in a process of its own and in turn.

    python -m benchmarks.start
"""

import subprocess
import sys

from benchmarks.machine import best_times, describe

PROGRAMS = {
    "from transformers import AutoModel": "from transformers import AutoModel",
    "import elmo_hf": "import elmo_hf",
    "from transformers import AutoModel, PreTrainedModel": "from transformers import AutoModel, PreTrainedModel",
    "from elmo_hf import ElmoModel": "from elmo_hf import ElmoModel",
    "elmo-hf --help": "from elmo_hf_command import app; app(['--help'])",
    "elmo-hf embed": "from elmo_hf_command import app; app(['embed'])",
}
ROUNDS = 5


def run(program: str):
    # A missing argument ends with a code of its own.
    subprocess.run([sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def main():
    print(describe())
    tasks = {name: lambda program=program: run(program) for name, program in PROGRAMS.items()}
    times = best_times(tasks, ROUNDS)
    auto_model = next(iter(times.values()))
    for name, seconds in times.items():
        print(f"{name:<52} {seconds:5.2f} s  {seconds / auto_model:4.2f}")


if __name__ == "__main__":
    main()
