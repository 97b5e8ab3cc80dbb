"""The command line: what it prints, what it leaves and how it ends."""

import importlib
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest
import typer
from safetensors import SafetensorError
from typer.testing import CliRunner

import elmo_hf
from elmo_hf import ElmoModel, training_options
from elmo_hf.cli import app

ROOT = Path(__file__).parent.parent


def run(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_convert_prints_bars_a_summary_and_the_next_steps(reference_dir: Path, tmp_path: Path):
    code, out, err = run(
        "convert", reference_dir / "options.json", reference_dir / "lm_weights.hdf5", tmp_path / "elmo-tiny"
    )
    assert code == 0
    assert "2 layers x 2 directions, 64 cells projected to 16; 124 character filters, 2 highways" in out
    assert "parameters  105,128 (0.4 MB of safetensors)" in out
    assert "all layers agree with these files to " in out
    assert "dfdfd3001b5965b4b6ef857ac772b6624984f8248eaae08fb9be6d1b51ad8755  lm_weights.hdf5" in out
    assert f"hf upload YOUR_NAME/elmo-tiny {tmp_path / 'elmo-tiny'}" in out
    for step in ("Reading", "Writing", "Verifying", "Hashing"):
        assert f"{step:<9} 100% |" in err
    assert ElmoModel.from_pretrained(tmp_path / "elmo-tiny").config.cell_size == 64


def test_version_and_short_help():
    assert run("--version") == (0, f"elmo-hf {elmo_hf.__version__}\n", "")
    assert run("-h")[1] == run("--help")[1]
    assert run("embed", "-h")[1] == run("embed", "--help")[1]


def test_a_reader_that_has_enough_ends_it_without_a_word(tmp_path: Path):
    (tmp_path / "text.txt").write_text("The river bank was muddy .\n" * 2000)
    command = f"{sys.executable} -m elmo_hf perplexity --words {tmp_path / 'text.txt'} | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.startswith("The\t")
    assert "Traceback" not in done.stderr
    assert "elmo-hf:" not in done.stderr


def test_export_gives_the_converted_file_back(reference_model_dir: Path, reference_dir: Path, tmp_path: Path):
    code, out, _ = run("export", reference_model_dir, tmp_path / "o.json", tmp_path / "w.hdf5")
    assert code == 0
    assert out == f"{tmp_path / 'o.json'}\n{tmp_path / 'w.hdf5'}\n"
    with h5py.File(tmp_path / "w.hdf5") as given, h5py.File(reference_dir / "lm_weights.hdf5") as expected:
        assert given["char_embed"][()].tobytes() == expected["char_embed"][()].tobytes()
    code, _, err = run("export", reference_model_dir, tmp_path / "o.json", tmp_path / "w.hdf5")
    assert (code, err) == (
        1,
        f"elmo-hf: {tmp_path / 'o.json'}: must be a new file, was there already. `--overwrite` replaces it.\n",
    )
    assert run("export", reference_model_dir, tmp_path / "o.json", tmp_path / "w.hdf5", "--overwrite")[0] == 0


def test_convert_overwrites_only_when_it_is_told_to(reference_dir: Path, tmp_path: Path):
    files = (reference_dir / "options.json", reference_dir / "lm_weights.hdf5")
    assert run("convert", *files, tmp_path / "out", "--no-verify", "--license", "apache-2.0")[0] == 0
    assert "license: apache-2.0" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    code, out, err = run("convert", *files, tmp_path / "out", "--no-verify")
    assert (code, out) == (1, "")
    assert err.startswith(f"elmo-hf: {tmp_path / 'out'}: must be a new or empty folder")
    assert run("convert", *files, tmp_path / "out", "--no-verify", "--overwrite")[0] == 0
    assert "license: apache-2.0" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_the_files_to_convert_are_not_deleted_with_the_folder_that_holds_them(reference_dir: Path, tmp_path: Path):
    folder = tmp_path / "model"
    assert run("convert", reference_dir / "options.json", reference_dir / "lm_weights.hdf5", folder)[0] == 0
    for name in ("options.json", "lm_weights.hdf5"):
        shutil.copy(reference_dir / name, folder / name)
    code, _, err = run("convert", folder / "options.json", folder / "lm_weights.hdf5", folder, "--overwrite")
    assert code == 1
    assert f"{folder}: must be a folder without the files to convert, holds {folder / 'options.json'}." in err
    # Nor with the folder itself.
    code, _, err = run("convert", folder, folder, "--overwrite")
    assert (code, "must be a folder without the files to convert" in err) == (1, True)
    assert (folder / "lm_weights.hdf5").exists()


@pytest.mark.parametrize(
    ("options", "weights", "message"),
    [
        ("none.json", "lm_weights.hdf5", "none.json: must be a file, was missing."),
        ("options.json", "none.hdf5", "none.hdf5: must be a file, was missing."),
        ("options.json", "sentences.json", "sentences.json: must be an hdf5 file, starts with: "),
        (
            "options.json",
            "lm_embeddings_0.hdf5",
            "lm_embeddings_0.hdf5: every dataset must be one that the options ask for",
        ),
        ("sentences.json", "lm_weights.hdf5", "sentences.json: must hold a JSON object, was: "),
    ],
)
def test_wrong_files_end_with_one_line_and_code_1(
    reference_dir: Path, tmp_path: Path, options: str, weights: str, message: str
):
    code, out, err = run("convert", reference_dir / options, reference_dir / weights, tmp_path / "out")
    assert (code, out) == (1, "")
    assert err.startswith("elmo-hf: ")
    assert message in err
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def start_module():
    runpy.run_module("elmo_hf", run_name="__main__")


def start_script():
    runpy.run_path(str(ROOT / "conversion" / "convert_hdf5_to_safetensors.py"), run_name="__main__")


@pytest.fixture
def run_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., object]:
    """Starts a program in `tmp_path` and returns its exit code."""

    def run_program(start: Callable[[], None], *arguments: str | Path) -> object:
        monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            start()
        return ended.value.code

    monkeypatch.chdir(tmp_path)
    # The script puts its checkout in front.
    monkeypatch.setattr(sys, "path", list(sys.path))
    return run_program


def test_the_module_and_the_script_convert_like_the_command(
    run_program: Callable[..., object], reference_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    files = (reference_dir / "options.json", reference_dir / "lm_weights.hdf5")
    for folder, start, command in (("module", start_module, ["convert"]), ("script", start_script, [])):
        assert run_program(start, *command, *files, folder, "--no-verify") == 0
        assert f"hf upload YOUR_NAME/{folder} {folder}" in capsys.readouterr().out
    weights = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("module", "script")]
    assert weights[0] == weights[1]


def test_an_error_of_the_module_shows_no_traceback(
    run_program: Callable[..., object], capfd: pytest.CaptureFixture[str]
):
    assert run_program(start_module, "convert", "a.json", "b.hdf5", "c") == 1
    assert capfd.readouterr() == ("", "elmo-hf: a.json: must be a file, was missing.\n")


def test_without_typer_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "elmo_hf.cli")
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("elmo_hf.cli")
    # What is not a number goes to the error stream, and the code is 1.
    assert ended.value.code == "elmo-hf: the command line needs typer: pip install 'elmo-hf[cli]'"


def test_without_accelerate_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(training_options, "find_spec", lambda name: None)
    code, _, told = run("pretrain", "elmo-english", "--train", ROOT / "README.md", "--output", tmp_path / "out")
    assert (code, told.strip()) == (1, "elmo-hf: Training needs accelerate: pip install 'elmo-hf[train]'")
    assert not (tmp_path / "out").exists()


def test_a_converted_folder_may_be_named_by_a_relative_path(
    reference_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(reference_dir / "options.json", tmp_path)
    assert run("convert", "options.json", reference_dir / "lm_weights.hdf5", "deep/out", "--no-verify")[0] == 0
    assert (tmp_path / "deep" / "out" / "README.md").is_file()


def test_a_full_disk_is_told_in_one_line(reference_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*args: object, **kwargs: object):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.serialize_file", full)
    files = (reference_dir / "options.json", reference_dir / "lm_weights.hdf5")
    code, out, err = run("convert", *files, tmp_path / "out")
    message = "elmo-hf: Error while serializing: I/O error: No space left on device (os error 28)"
    assert (code, out, err.splitlines()[-1]) == (1, "", message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", sorted(typer.main.get_group(app).commands))
def test_help_is_written_for_people_and_not_in_types_of_python(command: str):
    shown = CliRunner().invoke(app, [command, "-h"]).stdout
    assert f"{command} [OPTIONS]" in shown
    assert not re.search(r"<[a-z]|{|list\[|\bstr\b", shown.replace("<adagrad|adamw>", "")), shown
