"""The small English model inside the package: what it promises without a network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer

import elmo_hf
from benchmarks.word_senses import ITEMS, accuracy, read_items
from elmo_hf import ElmoModel, default_model_path, load_default
from elmo_hf.checkpoints.conversion import convert_checkpoint, export_checkpoint
from elmo_hf.scoring import perplexity, substitutes

# Our own sentences, in the manner of its novels, speeches and textbooks.
TEXT = [
    "The old gentleman rose from his chair and walked slowly to the window.",
    '"I am very glad to see you," said she, holding out her hand.',
    "It was late in the evening when the carriage stopped before the house.",
    "My delegation calls on all parties to respect human rights and international law.",
    "In the second half of the century, the rate of unemployment rose in most countries.",
]


@pytest.fixture(scope="module")
def language_model() -> tuple:
    folder = default_model_path()
    return AutoModelForPreTraining.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def test_it_loads_in_a_new_process_without_a_network():
    code = "import elmo_hf; model, tokenizer = elmo_hf.load_default(); print(model.training, model.dtype)"
    # No network, not even an attempt: every connection would fail.
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(elmo_hf.__file__).parents[1]),
        "HF_HUB_OFFLINE": "1",
        "https_proxy": "http://127.0.0.1:9",
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False torch.float32\n"


def test_encoder_and_softmax_keep_their_sizes():
    folder = default_model_path()
    with safe_open(folder / "model.safetensors", "pt") as file:
        encoder = sum(file.get_tensor(name).nbytes for name in sorted(file.keys()) if not name.startswith("softmax."))
    assert encoder < 12e6
    assert sum(path.stat().st_size for path in folder.iterdir()) < 30e6


def test_embedding_model_comes_out_of_the_language_model_without_a_warning(caplog: pytest.LogCaptureFixture):
    model = AutoModel.from_pretrained(default_model_path())
    assert type(model) is ElmoModel
    assert not caplog.records


def test_text_like_that_it_read_is_expected_far_better_than_the_same_words_in_disorder(language_model: tuple):
    _, tokenizer = language_model
    in_order = perplexity(*language_model, TEXT)
    shuffled = perplexity(*language_model, [tokenizer.tokenize(text)[::-1] for text in TEXT])
    assert in_order.forward < 100
    assert in_order.backward < 100
    assert shuffled.average > 5 * in_order.average


def test_substitutes_fit_both_sides(language_model: tuple):
    found = dict(substitutes(*language_model, "She looked at him with tears in her eyes .", 8, top_k=3))
    assert "eyes" in found
    found = dict(substitutes(*language_model, "He did not know what to say .", 6, top_k=10))
    assert {"do", "say"} <= set(found)


def test_context_tells_senses_apart_that_a_word_alone_cannot():
    model, tokenizer = load_default()
    items = read_items()
    static, contextual = (accuracy(model, tokenizer, items, layer) for layer in (0, 2))
    # Chance, by the rule for ties.
    assert static < 0.5
    assert contextual > 0.78
    assert accuracy(model, tokenizer, read_items(ITEMS.with_name("modern_senses.tsv")), 2) > 0.9


def test_conversion_to_hdf5_and_back_is_exact(tmp_path: Path):
    export_checkpoint(default_model_path(), tmp_path / "options.json", tmp_path / "weights.hdf5")
    convert_checkpoint(tmp_path / "options.json", tmp_path / "weights.hdf5", tmp_path / "model")
    model, _ = load_default()
    again = ElmoModel.from_pretrained(tmp_path / "model").state_dict()
    assert model.state_dict().keys() == again.keys()
    assert all(torch.equal(weight, again[name]) for name, weight in model.state_dict().items())
