"""A process that has neither this package nor h5py, as the users of `trust_remote_code`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

# Takes a script and its arguments a line, answers with its traceback or null. What scripts print goes to the log.
_SERVER = """
import json, sys, traceback
sys.modules["elmo_hf"] = sys.modules["h5py"] = None
answers, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    script, *sys.argv[1:] = json.loads(line)
    error = None
    try:
        exec(script, {"__name__": "__main__"})
    except BaseException:
        error = traceback.format_exc()
    print(json.dumps(error), file=answers, flush=True)
"""


class Stranger:
    """
    One process for all scripts, because importing PyTorch and transformers takes seconds each time. It makes warnings
    errors.

    Args:
        workspace: an empty folder, for what transformers keeps and as the current folder of the process.
    """

    def __init__(self, workspace: Path):
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(workspace / "home"),
            "HF_MODULES_CACHE": str(workspace / "modules"),
            "OMP_NUM_THREADS": "1",
        }
        self._log = workspace / "log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-W", "error", "-c", _SERVER],
                env=environment,
                cwd=workspace,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def run(self, script: str, *arguments: str | Path) -> str:
        """
        Runs a script with these arguments in `sys.argv` and returns what it printed and logged.

        Raises:
            RuntimeError: the script failed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        start = self._log.stat().st_size
        self._process.stdin.write(json.dumps([script, *map(str, arguments)]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        log = self._log.read_bytes()[start:].decode()
        if answer != "null\n":
            raise RuntimeError(json.loads(answer) if answer else log)
        return log

    def __enter__(self) -> "Stranger":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        # Without more lines it ends.
        self._process.communicate()
