"""
The test modules of the installed transformers, which a plugin is expected to pass.

`import_upstream("test_modeling_common").ModelTesterMixin` comes from the source distribution of exactly the installed
version. It carries the top level of `tests/` only, so the few deeper modules and files that the top level asks for
are replaced by small stand-ins below. The modules live in a package of another name, beside this project's `tests`.
"""

import atexit
import importlib
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
import unittest
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import transformers

from tests.downloads import cached_folder, pip_download

PACKAGE = "transformers_tests"

# Of the versions that CI installs; others are taken as the package index has them.
SDIST_SHA256 = {
    "4.57.6": "55e44126ece9dc0a291521b7e5492b572e6ef2766338a610b9ab5afbb70689d3",
    "5.23.0": "19d647a4d5d903a7c644ca5cde2d86efc3dde7d8c687ae7988806ff2205efa71",
}
IS_PINNED = transformers.__version__ in SDIST_SHA256

SAMPLE_TEXT = """\
The river bank was muddy, but the bank on Main Street raised its rates by 5.2 percent.

Élodie's naïve well-known friend doesn't live in the U.S. any more; 東京 is her home.
"""

# Values other than the defaults, which a configuration must keep (`ConfigTester.check_config_arguments_init`).
CONFIG_COMMON_KWARGS = {
    "architectures": ["ElmoModel"],
    "chunk_size_feed_forward": 5,
    "dtype": "float16",
    "id2label": {0: "label"},
    "label2id": {"label": "0"},
    "output_attentions": True,
    "output_hidden_states": True,
    "problem_type": "regression",
    "return_dict": False,
}


def import_upstream(name: str) -> ModuleType:
    """
    A top-level test module of transformers, `test_modeling_common` for instance.

    Raises:
        RuntimeError: the source distribution cannot be fetched, see `upstream_tests_dir`.
    """
    if PACKAGE not in sys.modules:
        _register_package(upstream_tests_dir() / "tests")
    module = importlib.import_module(f"{PACKAGE}.{name}")
    if name == "test_pipeline_mixin":
        _rename_pipeline_tests(module)
    return module


@cache
def upstream_tests_dir() -> Path:
    """
    Folder that holds `tests/` of the installed transformers.

    `ELMO_HF_UPSTREAM_TESTS` may name such a folder (an unpacked source distribution or a checkout); without it the
    source distribution is fetched on first use, which takes about a minute because pip reads its metadata.

    Raises:
        RuntimeError: the package index cannot be reached, or lacks this version.
    """
    if source := os.environ.get("ELMO_HF_UPSTREAM_TESTS"):
        # A copy: the stand-in files must not be written into somebody's checkout.
        folder = Path(tempfile.mkdtemp(prefix="elmo-hf-upstream-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        (folder / "tests").mkdir()
        for path in (Path(source) / "tests").glob("*.py"):
            shutil.copy(path, folder / "tests")
        _add_stand_in_files(folder)
        return folder
    return cached_folder(f"transformers-{transformers.__version__}-tests", _fill)


def leave_out(test_case: type[unittest.TestCase], names: Iterable[str]) -> None:
    """Makes pytest pass by these inherited tests."""
    for name in names:
        for method in _methods_of(test_case, name):
            setattr(test_case, method, None)


def names_to_check(contract: type, names: Iterable[str]) -> list[str]:
    """All of the tests that were left out; on a version that CI does not install, those that it still has."""
    return [name for name in names if IS_PINNED or _methods_of(contract, name)]


def results_of(contract: type, name: str) -> list[bool]:
    """
    Whether a test of a mixin passes without skipping itself, once for each set of its parameters.

    Raises:
        LookupError: the installed transformers has no such test.
    """
    methods = _methods_of(contract, name)
    if not methods:
        raise LookupError(f"transformers {transformers.__version__} has no {name}")
    test_case = type("Everything", (contract, unittest.TestCase), {})
    results = [unittest.TestSuite([test_case(method)]).run(unittest.TestResult()) for method in methods]
    return [result.wasSuccessful() and not result.skipped for result in results]


def _methods_of(contract: type, name: str) -> list[str]:
    """More than one if the test is parameterised."""
    return [
        method for method in dir(contract) if re.fullmatch(rf"{name}(_\d+.*)?", method) and getattr(contract, method)
    ]


def _fill(folder: Path) -> None:
    version = transformers.__version__
    requirement, filename = f"transformers=={version}", f"transformers-{version}.tar.gz"
    sdist = pip_download(requirement, filename, SDIST_SHA256.get(version), folder, "--no-binary", "transformers")
    (folder / "tests").mkdir()
    with tarfile.open(sdist) as archive:
        for member in archive:
            if re.fullmatch(rf"transformers-{re.escape(version)}/tests/\w+\.py", member.name):
                source = archive.extractfile(member)
                if source is not None:
                    (folder / "tests" / Path(member.name).name).write_bytes(source.read())
    sdist.unlink()
    _add_stand_in_files(folder)


def _add_stand_in_files(folder: Path) -> None:
    # `direct_transformers_import` executes these two and then returns the transformers that is already imported.
    (folder / "tests" / "__init__.py").touch()
    (folder / "src" / "transformers").mkdir(parents=True)
    (folder / "src" / "transformers" / "__init__.py").touch()
    (folder / "tests" / "fixtures").mkdir()
    (folder / "tests" / "fixtures" / "sample_text.txt").write_text(SAMPLE_TEXT, encoding="utf-8")
    # Which tiny models the pipeline tests may use: none of the Hub's.
    (folder / "tests" / "utils").mkdir()
    (folder / "tests" / "utils" / "tiny_model_summary.json").write_text(json.dumps({}), encoding="utf-8")


def _register_package(tests: Path) -> None:
    package = ModuleType(PACKAGE)
    package.__path__ = [str(tests)]
    sys.modules[PACKAGE] = package
    # Tests of `generate` and of exporters: not for this model, but their names are imported.
    _stand_in("generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
    _stand_in("exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
    _stand_in("utils.test_configuration_utils", config_common_kwargs=CONFIG_COMMON_KWARGS)
    # transformers 4 imports one class per pipeline, transformers 5 names them in strings.
    text = (tests / "test_pipeline_mixin.py").read_text(encoding="utf-8")
    for module, name in re.findall(r"\.(pipelines\.test_pipelines_\w+)(?: import |\.)(\w+PipelineTests)", text):
        base = PIPELINE_TESTS.get(name, _NoPipelineTests)
        _stand_in(module, **{name: type(name, (base,), {})})


def _stand_in(name: str, **attributes: Any) -> None:
    """Makes `name` importable below the package, with these attributes and nothing else."""
    parent, _, _ = name.partition(".")
    for qualified in (f"{PACKAGE}.{parent}", f"{PACKAGE}.{name}"):
        sys.modules.setdefault(qualified, ModuleType(qualified))
    sys.modules[f"{PACKAGE}.{parent}"].__path__ = []
    vars(sys.modules[f"{PACKAGE}.{name}"]).update(attributes)


def _rename_pipeline_tests(module: ModuleType) -> None:
    for task in module.pipeline_test_mapping.values():
        if isinstance(task["test"], str):
            task["test"] = re.sub(r"^tests\.", f"{PACKAGE}.", task["test"])


class _NoPipelineTests:
    """Stands for the pipeline tests that the source distribution lacks and this project has not written."""

    def get_test_pipeline(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"The source distribution lacks {type(self).__name__}: add it to `PIPELINE_TESTS`.")


class _FeatureExtractionPipelineTests:
    def get_test_pipeline(self, model: Any, tokenizer: Any, dtype: str = "float32", **processors: Any) -> Any:
        pipe = transformers.FeatureExtractionPipeline(model=model, tokenizer=tokenizer, dtype=dtype, **processors)
        return pipe, ["The river bank was muddy.", "The bank raised its rates by 5.2 percent."]

    def run_pipeline_test(self, pipe: Any, examples: list[str]) -> None:
        words = [len(pipe.tokenizer(text)["input_ids"]) for text in examples]
        vectors = pipe(examples)
        if [len(one[0]) for one in vectors] != words:
            raise AssertionError(f"Expected one vector per word ({words}), was: {[len(one[0]) for one in vectors]}.")


class _TextClassificationPipelineTests:
    def get_test_pipeline(self, model: Any, tokenizer: Any, dtype: str = "float32", **processors: Any) -> Any:
        pipe = transformers.TextClassificationPipeline(model=model, tokenizer=tokenizer, dtype=dtype, **processors)
        return pipe, ["The river bank was muddy.", "The bank raised its rates by 5.2 percent."]

    def run_pipeline_test(self, pipe: Any, examples: list[str]) -> None:
        labels = set(pipe.model.config.id2label.values())
        _expect({one["label"] for one in pipe(examples)} <= labels, "one of the labels per text")
        _expect(len(pipe(examples)) == len(examples), "one result per text")
        every = pipe(examples[0], top_k=None)
        _expect({one["label"] for one in every} == labels, "every label")
        _expect(abs(sum(one["score"] for one in every) - 1) < 1e-2, "probabilities that add up to 1")
        pair = pipe({"text": examples[0], "text_pair": examples[1]})
        _expect(pair["label"] in labels, "one of the labels per pair")


class _TokenClassificationPipelineTests:
    def get_test_pipeline(self, model: Any, tokenizer: Any, dtype: str = "float32", **processors: Any) -> Any:
        pipe = transformers.TokenClassificationPipeline(model=model, tokenizer=tokenizer, dtype=dtype, **processors)
        return pipe, ["The river bank was muddy.", "The bank raised its rates by 5.2 percent."]

    def run_pipeline_test(self, pipe: Any, examples: list[str]) -> None:
        labels = set(pipe.model.config.id2label.values())
        for entities, text in zip(pipe(examples), examples, strict=True):
            _expect([one["word"] for one in entities] == pipe.tokenizer.tokenize(text), "one entity per word")
            _expect({one["entity"] for one in entities} <= labels, "one of the labels per word")
            _expect(all(text[one["start"] : one["end"]] == one["word"] for one in entities), "offsets of the text")
        for strategy in ("simple", "first", "average", "max"):
            for groups, text in zip(pipe(examples, aggregation_strategy=strategy), examples, strict=True):
                found = "".join(text[one["start"] : one["end"]] for one in groups)
                _expect(found.replace(" ", "") == text.replace(" ", ""), "groups that cover the text")


class _ZeroShotClassificationPipelineTests:
    def get_test_pipeline(self, model: Any, tokenizer: Any, dtype: str = "float32", **processors: Any) -> Any:
        pipe = transformers.ZeroShotClassificationPipeline(
            model=model, tokenizer=tokenizer, dtype=dtype, candidate_labels=["nature", "money"], **processors
        )
        return pipe, ["The river bank was muddy.", "The bank raised its rates by 5.2 percent."]

    def run_pipeline_test(self, pipe: Any, examples: list[str]) -> None:
        candidates = ["nature", "money", "sport"]
        for multi_label in (False, True):
            for result in pipe(examples, candidate_labels=candidates, multi_label=multi_label):
                _expect(set(result["labels"]) == set(candidates), "every candidate")
                _expect(result["scores"] == sorted(result["scores"], reverse=True), "the best one first")
                _expect(multi_label or abs(sum(result["scores"]) - 1) < 1e-2, "probabilities that add up to 1")


class _QAPipelineTests:
    def get_test_pipeline(self, model: Any, tokenizer: Any, dtype: str = "float32", **processors: Any) -> Any:
        pipe = transformers.QuestionAnsweringPipeline(model=model, tokenizer=tokenizer, dtype=dtype, **processors)
        context = "The bank raised its rates by 5.2 percent."
        return pipe, [{"question": question, "context": context} for question in ("By how much?", "Who raised rates?")]

    def run_pipeline_test(self, pipe: Any, examples: list[dict[str, str]]) -> None:
        for example in examples:
            answer = pipe(**example)
            _expect(example["context"][answer["start"] : answer["end"]] == answer["answer"], "a part of the context")
            _expect(answer["answer"] != "" and 0.0 <= answer["score"] <= 1.0, "an answer and its probability")


def _expect(condition: bool, what: str) -> None:
    if not condition:
        raise AssertionError(f"Expected {what}.")


PIPELINE_TESTS: dict[str, type] = {
    "FeatureExtractionPipelineTests": _FeatureExtractionPipelineTests,
    "QAPipelineTests": _QAPipelineTests,
    "TextClassificationPipelineTests": _TextClassificationPipelineTests,
    "TokenClassificationPipelineTests": _TokenClassificationPipelineTests,
    "ZeroShotClassificationPipelineTests": _ZeroShotClassificationPipelineTests,
}
