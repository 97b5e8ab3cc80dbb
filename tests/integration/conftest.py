"""A fixture that runs the recipes in docs/recipes.md."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"


@pytest.fixture
def run_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    """Runs the code under a heading, as it stands and in an empty folder, and returns its variables."""
    monkeypatch.chdir(tmp_path)

    def run(heading: str) -> dict[str, Any]:
        section = RECIPES.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
        (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
        variables: dict[str, Any] = {"__name__": "recipe"}
        exec(compile(code, str(RECIPES), "exec"), variables)
        return variables

    return run
