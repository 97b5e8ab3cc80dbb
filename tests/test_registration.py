"""What the command imports, and that the Auto classes know ELMo whoever is imported first."""

import inspect
import pickle
import subprocess
import sys

import pytest

import elmo_hf

CHECK = """
import elmo_hf
folder = elmo_hf.default_model_path()
print(type(AutoConfig.from_pretrained(folder)).__name__, type(AutoTokenizer.from_pretrained(folder)).__name__)
print(type(AutoModelForPreTraining.from_pretrained(folder)).__name__)
assert type(AutoModel.from_pretrained(folder)) is elmo_hf.ElmoModel
"""
AUTO = "from transformers import AutoConfig, AutoModel, AutoModelForPreTraining, AutoTokenizer\n"


def python(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "before",
    [
        f"import elmo_hf\n{AUTO}",
        f"{AUTO}import elmo_hf",
        f"from elmo_hf import ElmoModel\n{AUTO}",
        f"from elmo_hf import ElmoTokenizer\n{AUTO}",
        f"import elmo_hf\nfrom transformers import Trainer\n{AUTO}",
        f"from transformers import Trainer\nimport elmo_hf_command, elmo_hf\nelmo_hf.cli._import_quietly()\n{AUTO}",
    ],
)
def test_the_auto_classes_know_elmo_in_whatever_order(before: str):
    assert python(before + CHECK).split() == ["ElmoConfig", "ElmoTokenizer", "ElmoForPreTraining"]


def test_the_first_configuration_imports_the_models():
    code = f"""
import elmo_hf, sys, torch
{AUTO}
from elmo_hf.lstm_compiled_elmo import _NAMESPACE
heavy = {{"elmo_hf.modeling_elmo", "transformers.modeling_utils"}}
# An exported program needs the operator, and no model.
print(hasattr(getattr(torch.ops, _NAMESPACE), "lstm"), *sorted(heavy & sys.modules.keys()))
class Own(elmo_hf.ElmoConfig):
    pass
Own()
print(heavy <= sys.modules.keys())
"""
    assert python(code).split() == ["True", "True"]


def test_an_unpickled_configuration_brings_its_models():
    pickled = pickle.dumps(elmo_hf.ElmoConfig(projection_dim=4, cell_size=3)).hex()
    code = f"""
import pickle, sys
{AUTO}
config = pickle.loads(bytes.fromhex(sys.argv[1]))
print(type(AutoModel.from_config(config)).__name__, config.cell_size)
"""
    assert python(code, pickled).split() == ["ElmoModel", "3"]


def test_a_class_that_somebody_registered_stays():
    code = f"""
import elmo_hf
{AUTO}
from transformers import PreTrainedModel
class Own(PreTrainedModel):
    config_class = elmo_hf.ElmoConfig
AutoModel.register(elmo_hf.ElmoConfig, Own)
config = elmo_hf.ElmoConfig()
print(*(auto_class._model_mapping[type(config)].__name__ for auto_class in (AutoModel, AutoModelForPreTraining)))
"""
    assert python(code).split() == ["Own", "ElmoForPreTraining"]


def test_the_signature_of_the_configuration_names_its_arguments():
    assert list(inspect.signature(elmo_hf.ElmoConfig).parameters)[:2] == ["vocab_size", "char_embedding_dim"]


HEAVY = "{'torch', 'transformers', 'h5py', 'pyarrow', 'sklearn', 'matplotlib', 'datasets', 'ray', 'numpy'}"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["embed", "--help"], 0),
        (["pretrain", "--help"], 0),
        (["embed", "--nothing"], 2),
        (["embed", "only-one"], 1),
        (["embed", "none.txt", "out.hdf5"], 1),
        (["embed", __file__, "out.doc"], 1),
        (["embed", __file__, "out.hdf5", "--dtype", "int3"], 1),
        (["embed", __file__, "out.hdf5", "--layers", "none"], 1),
        (["embed", __file__, __file__ + ".parquet/x.npz", "--shard", "3/2"], 1),
        (["convert", "none", "out"], 1),
        (["convert", "one"], 1),
        (["released", "none"], 1),
        (["export", "none", "options.json", "weights.hdf5"], 1),
        (["export-onnx", "none", __file__], 1),
        (["perplexity", "none.txt"], 1),
        (["substitutes", "no brackets"], 1),
        (["fit-initial-state", "none", __file__, "--output", "out"], 1),
        (["pretrain", "none", "--train", __file__, "--output", "out"], 1),
        (["pretrain", "none", "--train", __file__, "--output", "out", "--epochs", "-1"], 1),
        (["types", "none.txt", "out.txt"], 1),
        (["change", "none.txt", "none.txt"], 1),
        (["geometry", "none.txt"], 1),
        (["show", "word", "--text", "none.txt"], 1),
    ],
)
def test_help_and_wrong_arguments_import_nothing_heavy(arguments: list[str], code: int):
    program = f"""
import sys
from elmo_hf_command import app
try:
    app({arguments!r})
except SystemExit as end:
    print(end.code, sorted({HEAVY} & sys.modules.keys()))
"""
    assert python(program).splitlines()[-1] == f"{code} []"


def test_a_shell_completes_commands():
    program = """
import os
from elmo_hf_command import app
os.environ |= {"_ELMO_HF_COMPLETE": "complete_bash", "COMP_WORDS": "elmo-hf exp", "COMP_CWORD": "1"}
app([], prog_name="elmo-hf")
"""
    assert python(program).split() == ["export", "export-onnx"]


def test_every_name_is_there_and_no_other():
    for name in elmo_hf.__all__:
        assert getattr(elmo_hf, name).__name__ == name
    assert set(elmo_hf.__all__) <= set(dir(elmo_hf))
    with pytest.raises(AttributeError, match="module 'elmo_hf' has no attribute 'ElmoForNothing'"):
        _ = elmo_hf.ElmoForNothing
