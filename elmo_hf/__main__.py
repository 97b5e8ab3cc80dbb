"""`python -m elmo_hf`, the same as `elmo-hf`."""

from .cli import app

if __name__ == "__main__":
    app(prog_name="python -m elmo_hf")
