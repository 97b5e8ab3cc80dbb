"""
The command `elmo-hf`. A module beside the package, so that the package sees who imports it and does not import PyTorch
and transformers before somebody needs them: help and wrong arguments are answered at once.
"""

from elmo_hf.cli import app

__all__ = ["app"]
