"""New Python processes without the seconds that each of them takes to import PyTorch and transformers."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

# Forks for each line, which is a job, and answers with the exit code of the copy, which goes on behind the loop.
_SERVER = """
import gc, json, os, signal, sys
import torch
from transformers import AutoModel, AutoTokenizer, Trainer, pipeline

gc.freeze()
for line in sys.stdin:
    job = json.loads(line)
    copy = os.fork()
    if copy == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]), flush=True)
else:
    sys.exit()
# A script that hangs is ended, with the exit code -14.
signal.alarm(300)
os.chdir(job["folder"])
for number, name in enumerate(["stdout", "stderr"], start=1):
    os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), number)
sys.path[:0] = job["path"]
sys.argv[1:] = job["arguments"]
sys.modules.update(dict.fromkeys(job["without"]))
exec(job["script"], {"__name__": "__main__"})
"""


class Interpreter:
    """
    Runs scripts in processes that have imported PyTorch and transformers and nothing of this project. Warnings are
    errors there, and nothing is asked of the Hub.

    Args:
        workspace: an empty folder, for what transformers keeps.
    """

    def __init__(self, workspace: Path):
        self._workspace = workspace
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(workspace / "home"),
            "HF_MODULES_CACHE": str(workspace / "modules"),
            # A process of several threads had better not fork.
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        command = [sys.executable, "-I", "-W", "error", "-c", _SERVER]
        self._log = workspace / "log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def run(
        self, script: str, *arguments: str | Path, without: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        """
        Runs a script in a folder of its own, with `arguments` in `sys.argv`.

        Args:
            without: modules that it cannot import.

        Raises:
            RuntimeError: the process that the others are copied from has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        folder = tempfile.mkdtemp(dir=self._workspace)
        job = {
            "script": script,
            "arguments": list(map(str, arguments)),
            "folder": folder,
            "path": [path for path in sys.path if path],
            "without": list(without),
        }
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(job) + "\n")
            self._process.stdin.flush()
        code = self._process.stdout.readline()
        if not code:
            raise RuntimeError(f"The interpreter ended with {self._process.wait()}: {self._log.read_text()}")
        return subprocess.CompletedProcess(
            script, int(code), *(Path(folder, name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
        )

    def __enter__(self) -> "Interpreter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._process.kill()
        self._process.communicate()
