"""A folder that `save_pretrained` wrote is complete: it loads where this package cannot be imported, bit for bit."""

import ast
import importlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import pytest
import safetensors.torch
import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoTokenizer, pipeline
from transformers.dynamic_module_utils import get_imports

import elmo_hf
from elmo_hf import ElmoConfig, ElmoModel, ElmoTokenizer
from elmo_hf.configuration_elmo import AUTO_MAP
from tests.tiny import character_ids, tiny_model

PACKAGE = Path(elmo_hf.__file__).parent
TEXTS = ["The river bank was muddy.", "Élodie's naïve friend lives in 東京", "Yes"]

# What Hub files may import beside each other: a user of `trust_remote_code` has nothing else.
ALLOWED_IMPORTS = {"huggingface_hub", "numpy", "tokenizers", "torch", "transformers", *sys.stdlib_module_names}

EXACT = {"rtol": 0.0, "atol": 0.0}

# Takes a folder to load, one to save into and a file for the results.
ELSEWHERE = """
import sys
import torch
from transformers import AutoModel, AutoTokenizer, pipeline

folder, again, results = sys.argv[1:]
texts = {texts!r}
trust = {{"trust_remote_code": True}}
model = AutoModel.from_pretrained(folder, **trust)
tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
inputs = tokenizer(texts, padding=True, return_tensors="pt")
with torch.inference_mode():
    first = model(**inputs, output_hidden_states=True).to_tuple()
model.save_pretrained(again)
tokenizer.save_pretrained(again)
inputs_again = AutoTokenizer.from_pretrained(again, **trust)(texts, padding=True, return_tensors="pt")
with torch.inference_mode():
    second = AutoModel.from_pretrained(again, **trust)(**inputs_again, output_hidden_states=True).to_tuple()
pipe = pipeline("feature-extraction", model=folder, **trust)
torch.save({{
    "inputs": dict(inputs),
    "first": first,
    "second": second,
    "features": [torch.tensor(one) for one in pipe(texts)],
    "modules": [type(part).__module__ for part in (model, model.config, tokenizer, pipe.model)],
}}, results)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "elmo-tiny"
    tiny_model(num_output_representations=2).save_pretrained(folder)
    ElmoTokenizer().save_pretrained(folder)
    return folder


class Elsewhere(NamedTuple):
    """What a process that cannot import `elmo_hf` made of a folder."""

    again: Path
    values: dict[str, Any]


@pytest.fixture(scope="module")
def elsewhere(
    run_without_package: Callable[..., str], folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Elsewhere:
    workspace = tmp_path_factory.mktemp("elsewhere")
    again, results = workspace / "again", workspace / "results.pt"
    run_without_package(ELSEWHERE.format(texts=TEXTS), folder, again, results)
    return Elsewhere(again, torch.load(results, weights_only=True))


def outputs_of(folder: Path) -> tuple[Any, ...]:
    """What the folder gives with the plugin, from a model that has not read anything yet."""
    inputs = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        return AutoModel.from_pretrained(folder)(**inputs, output_hidden_states=True).to_tuple()


# ---------------------------------------------------------------------------------------------------------------------
# What is in it
# ---------------------------------------------------------------------------------------------------------------------


def python_files(folder: Path) -> dict[str, ast.Module]:
    return {path.name: ast.parse(path.read_text(encoding="utf-8")) for path in folder.glob("*.py")}


def imports_of(tree: ast.Module) -> tuple[set[str], set[str]]:
    """Names of the siblings and of the top-level packages that a file imports, wherever it must not fail."""
    siblings, packages = set(), set()
    tried = {
        id(line)
        for node in ast.walk(tree)
        if isinstance(node, ast.Try)
        and "ImportError" in {ast.unparse(handler.type) for handler in node.handlers if handler.type}
        for line in node.body
    }
    for node in ast.walk(tree):
        if id(node) in tried:
            continue
        if isinstance(node, ast.ImportFrom) and node.level:
            siblings.add("." * (node.level - 1) + (node.module or ""))
        elif isinstance(node, ast.ImportFrom):
            packages.add((node.module or "").split(".")[0])
        elif isinstance(node, ast.Import):
            packages.update(alias.name.split(".")[0] for alias in node.names)
    return siblings, packages


def test_the_folder_holds_all_that_loading_needs(folder: Path):
    files = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer_config.json"} <= files
    assert {"configuration_elmo.py", "modeling_elmo.py", "tokenization_elmo.py"} <= files
    for name, tree in python_files(folder).items():
        siblings, _ = imports_of(tree)
        assert {f"{sibling}.py" for sibling in siblings} <= files, name
    assert not any(name.endswith((".bin", ".pt")) for name in files)


def test_its_python_files_are_those_of_the_package(folder: Path):
    for path in folder.glob("*.py"):
        assert path.read_bytes() == (PACKAGE / path.name).read_bytes(), path.name


def test_its_python_files_import_nothing_that_a_stranger_lacks(folder: Path):
    for name, tree in python_files(folder).items():
        siblings, packages = imports_of(tree)
        assert packages <= ALLOWED_IMPORTS, name
        # The copier follows `from .sibling import` alone, one folder deep.
        assert all(sibling.isidentifier() for sibling in siblings), name


def test_a_kernel_asks_for_no_package(folder: Path):
    assert "triton" not in get_imports(folder / "lstm_fused_elmo.py")


def test_its_configuration_tells_where_each_auto_class_is(folder: Path):
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert content["auto_map"] == AUTO_MAP
    assert content["architectures"] == ["ElmoModel"]
    for auto_class, reference in AUTO_MAP.items():
        module, name = reference.split(".")
        known = getattr(importlib.import_module(f"elmo_hf.{module}"), name)
        assert known._auto_class == auto_class
        assert (folder / f"{module}.py").is_file()
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert tokenizer["auto_map"]["AutoTokenizer"][0] == "tokenization_elmo.ElmoTokenizer"


def test_a_model_alone_writes_its_python_files_too(tmp_path: Path, folder: Path):
    tiny_model().save_pretrained(tmp_path)
    needed = {"configuration_elmo.py", "modeling_elmo.py"}
    while missing := {f"{s}.py" for name in needed for s in imports_of(python_files(folder)[name])[0]} - needed:
        needed |= missing
    assert needed <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_weights_keep_their_number_format(tmp_path: Path, dtype: torch.dtype):
    model = tiny_model().to(dtype)
    model.save_pretrained(tmp_path)
    stored = safetensors.torch.load_file(tmp_path / "model.safetensors")
    torch.testing.assert_close(stored, dict(model.state_dict()), **EXACT)
    loaded = AutoModel.from_pretrained(tmp_path, dtype="auto")
    torch.testing.assert_close(dict(loaded.state_dict()), dict(model.state_dict()), **EXACT)


# ---------------------------------------------------------------------------------------------------------------------
# With the plugin
# ---------------------------------------------------------------------------------------------------------------------


def test_the_auto_classes_load_the_classes_of_the_package(folder: Path):
    assert type(AutoConfig.from_pretrained(folder)) is ElmoConfig
    assert type(AutoModel.from_pretrained(folder)) is ElmoModel
    assert type(AutoTokenizer.from_pretrained(folder)) is ElmoTokenizer
    assert type(AutoModel.from_config(ElmoConfig.from_pretrained(folder))) is ElmoModel


def test_a_saved_model_gives_what_it_gave(folder: Path):
    model, ids = tiny_model(num_output_representations=2), character_ids()
    expected = model(ids, output_hidden_states=True)
    actual = AutoModel.from_pretrained(folder)(ids, output_hidden_states=True)
    torch.testing.assert_close(actual.to_tuple(), expected.to_tuple(), **EXACT)


def test_saving_a_loaded_folder_gives_the_same_folder(folder: Path, tmp_path: Path):
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in folder.iterdir()}
    torch.testing.assert_close(outputs_of(tmp_path), outputs_of(folder), **EXACT)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_the_pipeline_gives_one_vector_a_word(folder: Path, batch_size: int):
    features = pipeline("feature-extraction", model=str(folder))(TEXTS, batch_size=batch_size)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    for text, (vectors,) in zip(TEXTS, features, strict=True):
        expected = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        # A batch is padded: a text's own words come first.
        actual = torch.tensor(vectors)[: len(expected)]
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Without it
# ---------------------------------------------------------------------------------------------------------------------


def test_a_stranger_gets_the_same_ids_and_the_same_vectors(folder: Path, elsewhere: Elsewhere):
    values = elsewhere.values
    assert all(name.startswith("transformers_modules.") for name in values["modules"])
    inputs = ElmoTokenizer()(TEXTS, padding=True, return_tensors="pt")
    torch.testing.assert_close(values["inputs"], dict(inputs), **EXACT)
    torch.testing.assert_close(values["first"], outputs_of(folder), **EXACT)


def test_a_stranger_saves_a_folder_that_is_as_complete(folder: Path, elsewhere: Elsewhere):
    assert {path.name for path in elsewhere.again.iterdir()} == {path.name for path in folder.iterdir()}
    for path in folder.glob("*.py"):
        assert (elsewhere.again / path.name).read_bytes() == path.read_bytes()
    assert json.loads((elsewhere.again / "config.json").read_text())["auto_map"] == AUTO_MAP
    torch.testing.assert_close(elsewhere.values["second"], elsewhere.values["first"], **EXACT)
    # And the plugin reads it.
    torch.testing.assert_close(outputs_of(elsewhere.again), outputs_of(folder), **EXACT)


def test_a_stranger_can_use_the_pipeline(folder: Path, elsewhere: Elsewhere):
    pipe = pipeline("feature-extraction", model=str(folder))
    for text, actual in zip(TEXTS, elsewhere.values["features"], strict=True):
        torch.testing.assert_close(actual, torch.tensor(pipe(text)), rtol=0, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# On the Hub
# ---------------------------------------------------------------------------------------------------------------------


class FakeHub:
    """Keeps what is committed in a folder; nothing reaches the network."""

    def __init__(self, folder: Path):
        self.folder = folder

    def create_repo(self, repo_id: str, **kwargs: Any) -> huggingface_hub.RepoUrl:
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def create_commit(self, repo_id: str, operations: list[Any], **kwargs: Any) -> str:
        for operation in operations:
            path = self.folder / operation.path_in_repo
            path.parent.mkdir(parents=True, exist_ok=True)
            # The files are in a temporary folder.
            with operation.as_file() as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
        return repo_id


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    hub = FakeHub(tmp_path / "pushed")
    for name in ("create_repo", "create_commit"):
        # transformers 5 calls methods, transformers 4 functions that it has imported.
        monkeypatch.setattr(huggingface_hub.HfApi, name, staticmethod(getattr(hub, name)))
        monkeypatch.setattr(transformers.utils.hub, name, getattr(hub, name), raising=False)
    # Looking for a model card that is there already.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return hub


def test_pushing_to_the_hub_sends_the_same_folder(fake_hub: FakeHub, folder: Path):
    AutoModel.from_pretrained(folder).push_to_hub("someone/elmo-tiny")
    AutoTokenizer.from_pretrained(folder).push_to_hub("someone/elmo-tiny")
    for path in folder.iterdir():
        if path.suffix != ".json":
            assert (fake_hub.folder / path.name).read_bytes() == path.read_bytes(), path.name
    assert json.loads((fake_hub.folder / "config.json").read_text(encoding="utf-8"))["auto_map"] == AUTO_MAP
    torch.testing.assert_close(outputs_of(fake_hub.folder), outputs_of(folder), **EXACT)


@pytest.mark.parametrize("name", ["modeling_elmo", "tokenization_elmo"])
def test_the_file_of_a_class_imports_all_files_that_it_needs(name: str):
    # transformers 4.57 copies these, and none that they import in turn.
    package = Path(elmo_hf.__file__).parent

    def imported(module: str) -> set[str]:
        return set(re.findall(r"^from \.(\w+) import", (package / f"{module}.py").read_text("utf-8"), re.MULTILINE))

    direct = imported(name)
    assert len(direct) > 3
    assert {further for module in direct for further in imported(module)} <= direct
