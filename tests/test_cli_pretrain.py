"""`elmo-hf pretrain`: what it trains, what it starts from, what it leaves and how it ends."""

import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer
from transformers.trainer_utils import get_last_checkpoint

from elmo_hf import ElmoForPreTraining, ElmoModel, ElmoTokenizer, pretraining
from elmo_hf.corpus import BilmWindows, Corpus
from tests.test_cli import run
from tests.test_cli_kills import begin_in_a_fork
from tests.tiny import SENTENCES, tiny_config

# 80 sentences of 21 different words, and three of them once more.
TEXT = "\n".join(" ".join(words) for words in SENTENCES * 20)
OTHER_TEXT = "\n".join(" ".join(words) for words in (SENTENCES[0], SENTENCES[1], SENTENCES[3]))
LEARN_BY_HEART = ["--optimizer", "adamw", "--learning-rate", "0.03", "--max-steps", "60", "--eval-steps", "100"]


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    """Options of every run: the text to train on, and a little of it to measure."""
    (tmp_path / "train.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "eval.txt").write_text(OTHER_TEXT, encoding="utf-8")
    return ["--train", str(tmp_path / "train.txt"), "--eval", str(tmp_path / "eval.txt"), "--pretokenized"]


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    # Large enough to learn the text by heart in a minute.
    config = tiny_config(
        cell_clip=None, proj_clip=None, projection_dim=16, cell_size=32, char_cnn_filters=[[1, 8], [3, 16]]
    )
    config.save_pretrained(tmp_path / "config")
    return tmp_path / "config"


def pretrain(*arguments: str | Path) -> str:
    code, out, err = run("pretrain", *arguments)
    assert code == 0, err
    return out


def weights(folder: str | Path) -> dict[str, Tensor]:
    return ElmoForPreTraining.from_pretrained(folder).state_dict()


def bilm_weights(folder: str | Path) -> dict[str, Tensor]:
    return {
        name: weight for name, weight in ElmoModel.from_pretrained(folder).state_dict().items() if "mix" not in name
    }


def perplexities(out: str) -> list[float]:
    """As printed: of both directions, forward, backward."""
    (found,) = re.findall(r"^  perplexity  ([\d.]+) \(forward ([\d.]+), backward ([\d.]+)\)$", out, re.MULTILINE)
    return [float(number) for number in found]


def test_a_folder_of_a_configuration_becomes_a_language_model(config_dir: Path, texts: list[str], tmp_path: Path):
    out = pretrain(
        config_dir, *texts, "--output", tmp_path / "out", "--rows", "4", "--unroll-steps", "8", *LEARN_BY_HEART
    )
    assert "  words       24 to predict\n" in out
    assert "  training    60 batches of a text of 500 words\n" in out
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.word_vocabulary[:6] == ["<S>", "</S>", "<UNK>", ".", "The", "bank"]
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "out").eval()
    assert model.config.word_vocab_size == 24
    assert isinstance(AutoModel.from_pretrained(tmp_path / "out"), ElmoModel)
    assert (tmp_path / "out" / "corpus" / "train" / "sentences.txt").read_text(encoding="utf-8") == TEXT + "\n"

    # The other text is too short for four rows.
    (batch,) = DataLoader(BilmWindows(Corpus(tmp_path / "out" / "corpus" / "eval"), tokenizer, 3, 8), batch_size=3)
    with torch.no_grad():
        outputs = model(**batch)
    forward, backward = math.exp(outputs.forward_loss), math.exp(outputs.backward_loss)
    # They are printed with two digits.
    assert perplexities(out) == pytest.approx([(forward + backward) / 2, forward, backward], abs=0.006)
    assert perplexities(out)[0] < 3


def test_a_converted_checkpoint_is_trained_on_with_a_new_softmax(
    reference_model_dir: Path, texts: list[str], tmp_path: Path
):
    still: list[Any] = ["--rows", "2", "--max-steps", "1", "--learning-rate", "0"]
    pretrain(reference_model_dir, *texts, "--output", tmp_path / "first", *still, "--max-vocab", "10")
    torch.testing.assert_close(bilm_weights(tmp_path / "first"), bilm_weights(reference_model_dir), rtol=0, atol=0)
    assert weights(tmp_path / "first")["softmax.weight"].shape == (10, 16)

    # Its own words again, without being told; others; others of the same number.
    pretrain(tmp_path / "first", *texts, "--output", tmp_path / "same", *still, "--seed", "1")
    torch.testing.assert_close(weights(tmp_path / "same"), weights(tmp_path / "first"), rtol=0, atol=0)
    pretrain(tmp_path / "first", *texts, "--output", tmp_path / "more", *still, "--min-count", "20")
    assert weights(tmp_path / "more")["softmax.weight"].shape == (24, 16)
    words = (tmp_path / "first" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    (tmp_path / "words.txt").write_text("\n".join([*words[:-1], "muddy"]), encoding="utf-8")
    still += ["--vocab", tmp_path / "words.txt", "--seed", "1"]
    pretrain(tmp_path / "first", *texts, "--output", tmp_path / "new", *still)
    assert ElmoTokenizer.from_pretrained(tmp_path / "new").word_vocabulary == [*words[:-1], "muddy"]
    first, new = weights(tmp_path / "first"), weights(tmp_path / "new")
    assert not torch.equal(first["softmax.weight"], new["softmax.weight"])
    torch.testing.assert_close(bilm_weights(tmp_path / "new"), bilm_weights(reference_model_dir), rtol=0, atol=0)


@pytest.mark.parametrize("mode", [[], ["--sentences"]], ids=["windows", "sentences"])
def test_a_resumed_training_ends_where_an_uninterrupted_one_does(
    mode: list[str], config_dir: Path, texts: list[str], tmp_path: Path
):
    texts += ["--rows", "4", "--unroll-steps", "5", "--sampled-words", "9", "--save-steps", "2"]
    options: list[Any] = texts + mode
    whole = pretrain(config_dir, *options, "--output", tmp_path / "whole", "--max-steps", "4")
    part = pretrain(config_dir, *options, "--output", tmp_path / "part", "--max-steps", "2")
    resumed = pretrain(config_dir, *options, "--output", tmp_path / "part", "--max-steps", "4", "--resume")
    assert perplexities(resumed) == perplexities(whole) != perplexities(part)
    torch.testing.assert_close(weights(tmp_path / "part"), weights(tmp_path / "whole"), rtol=0, atol=0)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Sampled words and state: all that is random and all that is carried.
SHORT: list[Any] = ["--rows", "4", "--unroll-steps", "5", "--sampled-words", "9", "--save-steps", "1"]


def test_resuming_a_finished_training_changes_nothing(config_dir: Path, texts: list[str], tmp_path: Path):
    options = [*texts, *SHORT, "--max-steps", "2", "--output", tmp_path / "out"]
    out = pretrain(config_dir, *options)
    before = files_of(tmp_path / "out")
    # What the trainer logs is not printed again.
    assert out.endswith(pretrain(config_dir, *options, "--resume"))
    assert files_of(tmp_path / "out") == before
    code, _, err = run("pretrain", config_dir, *options, "--resume", "--max-steps", "1")
    message = f"`--max-steps` must reach as far as the 2 batches of {tmp_path / 'out' / 'checkpoint-2'}, was: 1."
    assert (code, err.splitlines()[-1]) == (1, f"elmo-hf: {message}")


def test_a_training_goes_on_only_with_what_it_began_with(config_dir: Path, texts: list[str], tmp_path: Path):
    options = [*texts, *SHORT, "--max-steps", "1", "--output", tmp_path / "out"]
    pretrain(config_dir, *options)
    before = files_of(tmp_path / "out")
    (tmp_path / "other.txt").write_text(TEXT[:-1], encoding="utf-8")
    for changed, message in (
        (["--rows", "2"], "`--rows` must be 4 to resume OUT, was: 2."),
        (["--unroll-steps", "6"], "`--unroll-steps` must be 5 to resume OUT, was: 6."),
        (["--seed", "1"], "`--seed` must be 42 to resume OUT, was: 1."),
        (["--sentences"], "`--sentences` must be False to resume OUT, was: True."),
        (["--optimizer", "adamw"], "`--optimizer` must be adagrad to resume OUT, was: adamw."),
        (["--sampled-words", "8"], "`--sampled-words` must be 9 to resume OUT, was: 8."),
        (["--min-count", "2"], "`--min-count` must be None to resume OUT, was: 2."),
        (["--train", tmp_path / "other.txt"], "`--train` must be what the training in OUT began with, was another."),
    ):
        code, _, err = run("pretrain", config_dir, *options, "--resume", *changed)
        assert (code, err) == (1, f"elmo-hf: {message.replace('OUT', str(tmp_path / 'out'))}\n")
    words = tmp_path / "out" / "vocab.txt"
    words.write_text(words.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    code, _, err = run("pretrain", config_dir, *options, "--resume")
    assert code == 1
    assert "must be the words that the training began with, was changed" in err
    words.write_bytes(before["vocab.txt"])
    assert files_of(tmp_path / "out") == before
    code, _, err = run("pretrain", config_dir, *options[:-1], config_dir, "--resume")
    assert (code, err) == (1, f"elmo-hf: {config_dir}: must be a folder of `elmo-hf pretrain`, had no run.json.\n")


@pytest.mark.parametrize("lost", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "lstm_states_0.safetensors"])
def test_an_incomplete_checkpoint_is_left_out(lost: str, config_dir: Path, texts: list[str], tmp_path: Path):
    options = [*texts, *SHORT, "--max-steps", "3"]
    pretrain(config_dir, *options, "--output", tmp_path / "whole")
    pretrain(config_dir, *options[:-1], "2", "--output", tmp_path / "part")
    file = tmp_path / "part" / "checkpoint-2" / lost
    os.truncate(file, file.stat().st_size // 2)
    pretrain(config_dir, *options, "--output", tmp_path / "part", "--resume")
    torch.testing.assert_close(weights(tmp_path / "part"), weights(tmp_path / "whole"), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rows", "99"], "`--rows` must be at most"),
        (["--vocab", "twice.txt"], "must have each word once, had twice"),
        (["--epochs", "0"], "`--epochs` must be more than 0, was: 0.0."),
        (["--epochs", "-1"], "`--epochs` must be more than 0, was: -1.0."),
        (["--epochs", "nan"], "`--epochs` must be more than 0, was: nan."),
        (["--learning-rate", "inf"], "`--learning-rate` must be at least 0, was: inf."),
        (["--min-count", "0"], "`--min-count` must be at least 1, was: 0."),
    ],
)
def test_a_command_that_fails_leaves_the_place_free(
    options: list[str],
    message: str,
    config_dir: Path,
    texts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "twice.txt").write_text("<S>\n</S>\n<UNK>\nbank\nbank\n", encoding="utf-8")
    code, _, err = run("pretrain", config_dir, *texts, "--rows", "2", "--max-steps", "1", "--output", "out", *options)
    assert code == 1
    assert message in err.splitlines()[-1]
    assert not Path("out").exists()
    pretrain(config_dir, *texts, "--rows", "2", "--max-steps", "1", "--output", "out")


def test_the_special_words_may_stand_anywhere_in_a_vocabulary(config_dir: Path, texts: list[str], tmp_path: Path):
    (tmp_path / "words.txt").write_text("</S>\nbank\n<S>\nriver\n<UNK>\n", encoding="utf-8")
    options = ["--rows", "2", "--max-steps", "1", "--output", tmp_path / "out", "--vocab", tmp_path / "words.txt"]
    pretrain(config_dir, *texts, *options)
    words = ElmoTokenizer.from_pretrained(tmp_path / "out").word_vocabulary
    assert words == ["<S>", "</S>", "<UNK>", "bank", "river"]


def _run_quietly(*arguments: str | Path) -> None:
    begin_in_a_fork()
    sys.exit(run("pretrain", *arguments)[0])


@pytest.mark.usefixtures("one_thread")
def test_a_training_killed_at_any_moment_ends_as_an_undisturbed_one(
    config_dir: Path, texts: list[str], tmp_path: Path
):
    context = multiprocessing.get_context("fork")
    options = [*texts, *SHORT, "--max-steps", "5", "--output", tmp_path / "whole"]
    start = time.perf_counter()
    pretrain(config_dir, *options)
    duration = time.perf_counter() - start
    expected = weights(tmp_path / "whole")
    draw = random.Random(0)
    options[-1] = tmp_path / "killed"
    for turn in range(int(os.environ.get("ELMO_HF_KILLS", "4"))):
        # Each training is killed up to three times before it may end.
        for _ in range(1 + turn % 3):
            process = context.Process(target=_run_quietly, args=(config_dir, *options, "--resume"))
            process.start()
            process.join(draw.uniform(0, 1.2 * duration))
            if process.exitcode is None:
                os.kill(process.pid or 0, draw.choice([signal.SIGTERM, signal.SIGKILL]))
            process.join()
        pretrain(config_dir, *options, "--resume")
        torch.testing.assert_close(weights(tmp_path / "killed"), expected, rtol=0, atol=0)
        assert not list((tmp_path / "killed").rglob(".*"))
        shutil.rmtree(tmp_path / "killed")


def test_a_finished_run_says_so_and_mends_its_model(
    config_dir: Path, texts: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    command = ["pretrain", config_dir, *texts, "--output", tmp_path / "out", "--rows", "2", "--max-steps", "1"]
    assert run(*command)[0] == 0
    file = tmp_path / "out" / "model.safetensors"
    whole = file.read_bytes()
    code, _, _ = run(*command, "--resume")
    assert code == 0
    assert "was finished before, after 1 batches" in caplog.text
    for damage in (file.unlink, lambda: file.write_bytes(whole[:1000])):
        damage()
        assert run(*command, "--resume")[0] == 0
        assert file.read_bytes() == whole


def test_an_interrupt_leaves_the_place_free(
    config_dir: Path, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("elmo_hf.pretraining.count_words", interrupt)
    assert run("pretrain", config_dir, *texts, "--output", tmp_path / "out", "--rows", "2")[0] != 0
    assert not (tmp_path / "out").exists()


def test_resume_without_a_checkpoint_starts(config_dir: Path, texts: list[str], tmp_path: Path):
    out = pretrain(config_dir, *texts, "--output", tmp_path / "out", "--rows", "2", "--max-steps", "1", "--resume")
    assert "  training    1 batches" in out


def test_sentences_are_trained_without_state(config_dir: Path, texts: list[str], tmp_path: Path):
    out = pretrain(config_dir, *texts, "--output", tmp_path / "out", "--sentences", "--rows", "8", *LEARN_BY_HEART)
    assert "  training    60 batches of a text of 500 words\n" in out
    assert perplexities(out)[0] < 3
    checkpoint = get_last_checkpoint(tmp_path / "out")
    assert checkpoint is not None
    assert not list(Path(checkpoint).glob("lstm_states*"))


def test_what_was_trained_has_a_card_that_is_kept_once_somebody_writes_another(
    config_dir: Path, texts: list[str], tmp_path: Path
):
    options: list[Any] = [*texts, "--rows", "4", "--output", tmp_path / "out"]
    pretrain(config_dir, *options, "--max-steps", "2", "--save-steps", "1")
    card = tmp_path / "out" / "README.md"
    text = card.read_text(encoding="utf-8")
    assert text.startswith("---\n# license: not stated yet\nlibrary_name: transformers\n")
    assert "| text | 500 words in 80 sentences |\n| batches | 2 |\n| perplexity of other text | " in text
    assert "| `--rows` | `4` |\n" in text
    assert "AutoModelForPreTraining" in text
    pretrain(config_dir, *options, "--max-steps", "3", "--resume")
    assert "| batches | 3 |" in card.read_text(encoding="utf-8")
    card.write_text("mine", encoding="utf-8")
    pretrain(config_dir, *options, "--max-steps", "4", "--resume")
    assert card.read_text(encoding="utf-8") == "mine"


def test_the_function_trains_as_the_command_does(config_dir: Path, texts: list[str], tmp_path: Path):
    text, other = texts[1], texts[3]
    options = ["--rows", "4", "--max-steps", "3", "--output", tmp_path / "command"]
    printed = perplexities(pretrain(config_dir, *texts, *options))
    done = pretraining.pretrain(
        str(config_dir), text, str(tmp_path / "function"), evaluation=other, pretokenized=True, rows=4, max_steps=3
    )
    assert done is not None
    assert (done.num_batches, done.num_predicted_words) == (3, done.config.word_vocab_size)
    assert done.metrics["eval_perplexity"] == pytest.approx(printed[0], abs=0.01)
    ours, theirs = weights(tmp_path / "function"), weights(tmp_path / "command")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_text_is_split_as_the_tokenizer_of_the_folder_does(config_dir: Path, tmp_path: Path):
    (tmp_path / "text").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "text" / name).write_text("It's muddy.\n\n" * 5, encoding="utf-8")
    for splitter in ("moses", "whitespace"):
        ElmoTokenizer(word_splitter=splitter).save_pretrained(config_dir)
        output = tmp_path / splitter
        pretrain(config_dir, "--train", tmp_path / "text", "--train", tmp_path / "text" / "a.txt", "--output", output,
                 "--rows", "1", "--max-steps", "1")  # fmt: skip
        corpus = Corpus(output / "corpus" / "train")
        assert list(corpus) == [["It", "'s", "muddy", "."] if splitter == "moses" else ["It's", "muddy."]] * 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--rows", "99"],
            "`--rows` must be at most 33 for the 660 positions of out/corpus/train in windows of 20, was: 99.",
        ),
        (
            ["--unroll-steps", "31"],
            "`--rows` must be at most 0 for the 30 positions of out/corpus/eval in windows of 31, was: 1.",
        ),
        (["--train", "none.txt"], "none.txt: must be a text file or a folder of them, was missing."),
        (["--vocab", "none.txt"], "none.txt: must be a text file or a folder of them, was missing."),
        (["--vocab", "a", "--min-count", "2"], "`--vocab` must be without `--min-count` and `--max-vocab`, was: a."),
        (["--max-vocab", "2"], "`--max-vocab` must be more than the 3 special words, was: 2."),
        (["--log-to", "paper"], "`--log-to` must be installed, was: paper. There are: "),
        (["--output", "."], ".: must be a new or empty folder, was there already. See `--resume`."),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    options: list[str],
    message: str,
    config_dir: Path,
    texts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("pretrain", config_dir, *texts, "--rows", "2", "--output", "out", *options)
    assert (code, out) == (1, "")
    assert f"elmo-hf: {message}" in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_folder_without_a_configuration_is_refused(texts: list[str], tmp_path: Path):
    code, _, err = run("pretrain", tmp_path / "none", *texts, "--output", tmp_path / "out")
    assert (code, err) == (1, f"elmo-hf: {tmp_path / 'none'}: must be a folder with config.json, was not.\n")


def run_process(*command: str | Path) -> str:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    done = subprocess.run(
        [sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_module_trains_like_the_command(config_dir: Path, texts: list[str], tmp_path: Path):
    options = [*texts, "--rows", "2", "--max-steps", "2"]
    out = run_process("-m", "elmo_hf", "pretrain", config_dir, *options, "--output", tmp_path / "module")
    assert perplexities(out) == perplexities(pretrain(config_dir, *options, "--output", tmp_path / "command"))
    torch.testing.assert_close(weights(tmp_path / "module"), weights(tmp_path / "command"), rtol=0, atol=0)


def test_two_processes_train_together(config_dir: Path, texts: list[str], tmp_path: Path):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = [*texts, "--unroll-steps", "5", "--max-steps", "3", "--sampled-words", "0"]
    out = run_process(
        *torchrun, "-m", "elmo_hf", "pretrain", config_dir, *options, "--rows", "2", "--output", tmp_path / "two"
    )
    alone = pretrain(config_dir, *options, "--rows", "4", "--output", tmp_path / "one")
    # Each process averages over its own words, of which one may have more than the other.
    assert perplexities(out) == pytest.approx(perplexities(alone), rel=0.02)
    checkpoint = get_last_checkpoint(tmp_path / "two")
    assert checkpoint is not None
    assert len(list(Path(checkpoint).glob("lstm_states_*.safetensors"))) == 2


def test_perplexities_go_to_tensorboard(config_dir: Path, texts: list[str], tmp_path: Path):
    options = [*texts, "--rows", "4", "--max-steps", "1", "--eval-steps", "1", "--log-to", "tensorboard"]
    pretrain(config_dir, *options, "--output", tmp_path / "out")
    # All in one file, which is closed.
    (events,) = (tmp_path / "out").rglob("events.out.tfevents.*")
    assert b"eval/perplexity" in events.read_bytes()
