"""
Converts an ELMo checkpoint of bilm-tf or AllenNLP into a folder for `from_pretrained` and the Hub.

    python conversion/convert_hdf5_to_safetensors.py OPTIONS.json WEIGHTS.hdf5 OUT_DIR

The same as `elmo-hf convert`, with the same arguments, for a checkout that is not installed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from elmo_hf.cli import app

if __name__ == "__main__":
    app(["convert", *sys.argv[1:]], prog_name=Path(__file__).name)
