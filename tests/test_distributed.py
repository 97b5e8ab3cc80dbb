"""
Training in two processes ends with the weights of one process that sees the same batches, evaluation with its figures.

The tests start this module once under `torchrun`; each of its two processes runs every case, the first one saves what
came out.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from torch.utils.data import Subset
from transformers import DataCollatorForTokenClassification, Trainer, TrainingArguments

from elmo_hf import ElmoForTokenClassification, ElmoTokenizer
from elmo_hf.bilm_trainer import BilmTrainer
from elmo_hf.corpus import BilmSentences
from tests.language_model import corpus, language_model, word_tokenizer
from tests.tiny import SENTENCES, tiny_config

NUM_PROCESSES = 2
GLOBAL_BATCH = 4
# Whole batches; one too few for a process; none for the second process in the last batch.
NUM_SENTENCES = (8, 7, 5, 1)
# Name, whether the biLM is frozen, arguments of the training.
CASES: dict[str, tuple[bool, dict[str, Any]]] = {
    "frozen": (True, {"optim": "adamw_torch", "learning_rate": 0.01}),
    "trained": (False, {"optim": "sgd", "learning_rate": 0.5}),
    "accumulated": (False, {"optim": "sgd", "learning_rate": 0.5, "gradient_accumulation_steps": 2}),
}


def save_start(folder: Path) -> None:
    torch.manual_seed(0)
    # Only the first mix is trained: a parameter that no gradient reaches is what makes processes wait for each other.
    config = tiny_config(initializer_factor=2.0, dropout=0.0, head_lstm_size=5, num_output_representations=2)
    ElmoForTokenClassification(config).save_pretrained(folder / "start")


def train(case: str, folder: Path) -> dict[str, Tensor]:
    """The weights after four steps, in this process or in all of them together."""
    frozen, overrides = CASES[case]
    # Loading replaces parameters, and might lose which of them are trained.
    model = ElmoForTokenClassification.from_pretrained(folder / "start")
    if frozen:
        model.freeze_bilm()
    tokenizer = ElmoTokenizer()
    examples = [
        {
            "input_ids": tokenizer(words, is_split_into_words=True)["input_ids"],
            "labels": [int(word[0].isupper()) for word in words],
        }
        for words in [*SENTENCES, *SENTENCES[::-1]]
    ]
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=GLOBAL_BATCH // int(os.environ.get("WORLD_SIZE", "1")),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        # Seconds, after which a process that waits for the other one in vain gives up.
        ddp_timeout=300,
        # A parameter without a gradient is an error.
        ddp_find_unused_parameters=False,
        **overrides,
    )
    collator = DataCollatorForTokenClassification(tokenizer)
    Trainer(model=model, args=arguments, train_dataset=examples, data_collator=collator).train()
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def perplexities(folder: Path) -> dict[str, Tensor]:
    """Of each number of sentences, whether they fill the last batch of every process or not."""
    tokenizer, text = word_tokenizer(), corpus(folder / "corpus")
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_eval_batch_size=GLOBAL_BATCH // int(os.environ.get("WORLD_SIZE", "1")),
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    collator = DataCollatorForTokenClassification(tokenizer)
    trainer = BilmTrainer(language_model(), arguments, collator, eval_dataset=BilmSentences(text, tokenizer))
    found = {}
    for number in NUM_SENTENCES:
        metrics = trainer.evaluate(Subset(trainer.eval_dataset, range(number)))
        directions = [metrics["eval_forward_perplexity"], metrics["eval_backward_perplexity"]]
        found[f"{number} sentences"] = torch.tensor(directions)
    return found


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """What came out of each case in two processes."""
    folder = tmp_path_factory.mktemp("two-processes")
    save_start(folder)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(NUM_PROCESSES)]
    command += ["-m", "tests.test_distributed", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    # That of a width of 1 once had another order in memory than its weight.
    assert "Grad strides do not match" not in result.stderr
    return torch.load(folder / "found.pt")


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one_at_the_same_global_batch(
    case: str, two_processes: dict[str, dict[str, Tensor]], tmp_path: Path
):
    AcceleratorState._reset_state(reset_partial_state=True)
    save_start(tmp_path)
    torch.testing.assert_close(two_processes[case], train(case, tmp_path), rtol=0, atol=1e-6)


def test_two_processes_have_the_perplexity_of_one(two_processes: dict[str, dict[str, Tensor]], tmp_path: Path):
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.testing.assert_close(two_processes["perplexities"], perplexities(tmp_path), rtol=1e-6, atol=0)


def main() -> None:
    folder = Path(sys.argv[1])
    found = {case: train(case, folder) for case in CASES}
    found["perplexities"] = perplexities(folder / os.environ["RANK"])
    if os.environ["RANK"] == "0":
        torch.save(found, folder / "found.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
