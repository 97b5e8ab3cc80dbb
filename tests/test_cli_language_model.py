"""`elmo-hf perplexity`, `substitutes` and `fit-initial-state`: what they print and write, and how they refuse."""

import re
from pathlib import Path

import pytest
import torch

from elmo_hf import ElmoForPreTraining, ElmoModel, ElmoTokenizer, default_model_path
from elmo_hf.scoring import fit_initial_state, perplexity, score_sentences, substitutes
from tests.language_model import TEXT, language_model, word_tokenizer
from tests.test_cli import run
from tests.tiny import tiny_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A language model with its tokenizer, and beside it `TEXT` in two files of a folder."""
    language_model().save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "text").mkdir()
    for name, sentences in (("a.txt", TEXT[:2]), ("b.txt", [*TEXT[2:], []])):
        (tmp_path / "text" / name).write_text("\n".join(map(" ".join, sentences)), encoding="utf-8")
    return tmp_path


def succeed(*arguments: str | Path) -> str:
    code, out, err = run(*arguments)
    assert code == 0, err
    return out


@pytest.mark.parametrize("carry", [False, True])
def test_perplexity_is_that_of_the_function(carry: bool, folder: Path):
    expected = perplexity(language_model(), word_tokenizer(), TEXT, carry_state=carry)
    options = ["--model", folder / "model", "--pretokenized", *["--carry-state"] * carry]
    assert succeed("perplexity", folder / "text", *options) == (
        f"perplexity  {expected.average:,.2f} (forward {expected.forward:,.2f}, backward {expected.backward:,.2f})\n"
        f"of          {expected.num_words} words in 5 sentences, {1 / expected.num_words:.2%} of them <UNK>\n"
    )


def test_words_are_printed_with_both_logarithms(folder: Path):
    out = succeed("perplexity", folder / "text" / "a.txt", "--words", "--model", folder / "model", "--pretokenized")
    *sentences, summary = out.split("\n\n")
    assert summary.startswith("perplexity")
    for sentence, scores in zip(sentences, score_sentences(language_model(), word_tokenizer(), TEXT[:2]), strict=True):
        rows = [line.split("\t") for line in sentence.splitlines()]
        assert [word for word, *_ in rows] == [*scores.words, "</S>", "<S>"]
        assert [float(ahead) for _, ahead, _ in rows if ahead] == pytest.approx(scores.forward, abs=5.1e-4)
        assert [float(behind) for *_, behind in rows if behind] == pytest.approx(scores.backward, abs=5.1e-4)


def test_without_a_model_the_small_one_answers_and_splits_text_itself(tmp_path: Path):
    (tmp_path / "text.txt").write_text("She didn't go.\n", encoding="utf-8")
    out = succeed("perplexity", tmp_path / "text.txt")
    assert re.search(r"^of          5 words in 1 sentences, 0.00% of them <UNK>$", out, re.MULTILINE)


def test_substitutes_are_those_of_the_function(folder: Path):
    expected = substitutes(language_model(), word_tokenizer(), ["the", "river", "rose", "."], 1, 4)
    out = succeed("substitutes", "the [river] rose.", "--top", "4", "--model", folder / "model")
    assert out.splitlines() == [f"{probability:.4f}  {word}" for word, probability in expected]


@pytest.mark.parametrize(
    "sentence",
    ["the river rose.", "the [ ] rose.", "the [river rose.", "the [river] [rose].", "the [old river] rose.", "a] [b]"],
)
def test_a_sentence_without_a_word_in_brackets_is_refused(sentence: str):
    code, out, err = run("substitutes", sentence)
    message = f"elmo-hf: The sentence must have one word in [brackets], was: {sentence!r}.\n"
    assert (code, out, err) == (1, "", message)


def test_an_embedding_model_scores_nothing(tmp_path: Path):
    tiny_model().save_pretrained(tmp_path)
    message = f"elmo-hf: {tmp_path}: must be a language model, as `elmo-hf pretrain` makes them, was: no softmax.\n"
    for command in (["substitutes", "a [b] c"], ["perplexity", tmp_path / "config.json"]):
        assert run(*command, "--model", tmp_path) == (1, "", message)


@pytest.mark.parametrize("model_class", [ElmoForPreTraining, ElmoModel])
def test_a_warm_copy_starts_where_typical_sentences_end(model_class: type, folder: Path):
    model = model_class.from_pretrained(folder / "model")
    model.save_pretrained(folder / "model")
    output = folder / "warm"
    assert (
        succeed("fit-initial-state", folder / "model", folder / "text", "--output", output, "--sentences", "3")
        == f"{output}\n"
    )

    fit_initial_state(model.base_model, word_tokenizer(), [" ".join(words) for words in TEXT[:3]])
    warm = model_class.from_pretrained(output)
    expected = model.state_dict()
    assert warm.state_dict().keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in warm.state_dict().items())
    assert warm.base_model.initial_state.hidden.abs().max() > 0.01
    assert ElmoTokenizer.from_pretrained(output).word_vocabulary == word_tokenizer().word_vocabulary


def test_warm_copies_overwrite_nothing_and_need_a_folder(folder: Path):
    code, out, err = run("fit-initial-state", default_model_path(), folder / "text", "--output", folder / "model")
    message = f"elmo-hf: {folder / 'model'}: must be a new or empty folder, was there already.\n"
    assert (code, out, err) == (1, "", message)
    code, out, err = run("fit-initial-state", folder / "none", folder / "text", "--output", folder / "out")
    assert (code, out, err) == (1, "", f"elmo-hf: {folder / 'none'}: must be a folder with config.json, was not.\n")
    assert not (folder / "out").exists()
