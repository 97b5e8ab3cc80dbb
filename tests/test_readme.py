"""What README and docs print runs as it stands, and their links lead somewhere."""

import importlib
import inspect
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

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


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 700


PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("model_cards/*.md"), *ROOT.glob("conversion/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_are_there(page: Path):
    for target in re.findall(r"\]\(([^)#]*(?:#[^)]*)?)\)", page.read_text(encoding="utf-8")):
        path, _, heading = target.partition("#")
        if "://" in path:
            continue
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target


# Modules whose functions and classes users call, each with those that are no business of theirs.
INDEXED: dict[str, set[str]] = {
    "elmo_hf": set(),
    "elmo_hf.corpus": set(),
    "elmo_hf.onnx_export": {"OnnxExport"},
    "elmo_hf.pictures": set(),
    "elmo_hf.scoring": {"Perplexity", "SentenceScores", "check_vocabulary"},
    "elmo_hf.small_model": {"default_model_path", "load_default"},
    "elmo_hf.table_embedding": set(),
    "elmo_hf.text_files": set(),
    "elmo_hf.usage": {"LayerGeometry", "Neighbor", "Uses", "WordChange"},
}


def test_the_index_names_what_is_there_and_all_of_it():
    names = re.findall(r"^\| `(elmo_hf\.[\w.]+)` \| (.+) \|$", (ROOT / "docs" / "index.md").read_text("utf-8"), re.M)
    assert all(line for _, line in names)
    found = [name for name, _ in names]
    assert len(found) == len(set(found)) > 50
    for name in found:
        module, _, attribute = name.rpartition(".")
        assert inspect.getdoc(getattr(importlib.import_module(module), attribute)), name
    for module, others in INDEXED.items():
        public = importlib.import_module(module)
        own = getattr(public, "__all__", None) or [
            name
            for name, value in vars(public).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module and callable(value)
        ]
        assert {f"{module}.{name}" for name in set(own) - others} <= set(found)


def test_what_migrating_prints_runs(
    reference_dir: Path, reference_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copy(reference_dir / "options.json", tmp_path)
    shutil.copy(reference_dir / "lm_weights.hdf5", tmp_path / "weights.hdf5")
    shutil.copytree(reference_model_dir, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert len(blocks) == 3
    found: dict[str, Any] = {}
    for block in blocks:
        exec(block, found)
    assert found["vectors"].shape == (3, 3, 32)
    assert found["word_emb"].shape == (2, 6, 16)
    assert found["lstm_outputs1"].shape == found["lstm_outputs2"].shape == found["elmo"].shape == (2, 6, 32)
    expected = torch.stack([found["elmo"][0].mean(0), found["elmo"][1, :5].mean(0)])
    torch.testing.assert_close(found["default"], expected)
