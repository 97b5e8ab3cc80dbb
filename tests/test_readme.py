"""The README's example runs as it stands and prints what the README says."""

import re
from pathlib import Path

from tests.interpreter import Interpreter

ROOT = Path(__file__).resolve().parents[1]


def test_the_first_example_of_the_readme_prints_what_the_readme_shows(interpreter: Interpreter):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code, output = re.findall(r"```python\n(.*?)```\n\n```\n(.*?)```", text, re.DOTALL)[0]

    done = interpreter.run(code)

    assert done.returncode == 0, done.stderr
    assert done.stdout == output


def test_every_model_card_has_the_same_headings_in_the_same_order():
    cards = sorted((ROOT / "model_cards").glob("*.md"))
    headings = {card.stem: re.findall(r"^## .*", card.read_text(encoding="utf-8"), re.MULTILINE) for card in cards}

    assert cards
    assert set(map(tuple, headings.values())) == {tuple(headings["elmo-tiny-reference"])}
    assert all(card.read_text(encoding="utf-8").count(f"\n# {card.stem}\n") == 1 for card in cards)


def test_every_checkpoint_of_the_readme_has_a_card():
    text = (ROOT / "README.md").read_text(encoding="utf-8")

    linked = set(re.findall(r"\(model_cards/(.*?)\.md\)", text))

    assert linked == {card.stem for card in (ROOT / "model_cards").glob("*.md")}
