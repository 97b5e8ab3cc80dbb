"""
transformers-mlinter over the Hub files, with the rules that are broken on purpose.

A finding of any other rule fails, and so does an exception that no file needs any more.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

EXCEPTIONS = {
    "TRF010": "@strict does not exist in transformers 4.57; ElmoConfig checks its values itself.",
    "TRF018": "The weights are initialised as bilm-tf does, for every kind of module.",
    "TRF028": "The header names the Hugging Face team; LICENSE names ours.",
    "TRF033": "A state that is stored turns itself on, so that `save_pretrained` keeps both.",
    "TRF041": "The docstring of ElmoConfig tells what each option does and which files set it.",
    "TRF045": "The automatic capture replaces the last hidden state by the mix, so the layers are collected by hand.",
    "TRF057": "@auto_docstring documents `input_ids` as (batch, sequence).",
}


def main() -> None:
    files = sorted(str(path) for path in Path("elmo_hf").glob("*_elmo.py"))
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "findings.json"
        command = [str(Path(sys.executable).with_name("mlinter")), "--no-progress", "--no-cache"]
        subprocess.run([*command, "--output-json", str(report), *files], capture_output=True, check=False)
        findings = json.loads(report.read_text(encoding="utf-8"))["findings"]

    unexpected = [finding for finding in findings if finding["rule"] not in EXCEPTIONS]
    unneeded = EXCEPTIONS.keys() - {finding["rule"] for finding in findings}
    for finding in unexpected:
        print(f"{finding['path']}:{finding['line']}: {finding['message']}")
    for rule in sorted(unneeded):
        print(f"{__file__}: no file breaks {rule} any more, delete its exception")
    if unexpected or unneeded:
        sys.exit(1)
    print(f"Hub files: {len(files)} files keep the rules of transformers, {len(EXCEPTIONS)} with exceptions")


if __name__ == "__main__":
    main()
