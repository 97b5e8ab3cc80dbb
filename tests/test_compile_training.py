"""`TrainingArguments(torch_compile=True)`: one graph, and the losses and weights of a training without it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from transformers import Trainer, TrainingArguments, default_data_collator

from elmo_hf import ElmoForTokenClassification, ElmoTokenizer
from tests.tiny import SENTENCES, tiny_config

# What the compiler of PyTorch says of its own parts.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

WORDS = 3


def train(folder: Path, **overrides: Any) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of the steps and the weights after them."""
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.manual_seed(0)
    model = ElmoForTokenClassification(tiny_config(initializer_factor=2.0, dropout=0.0, num_hidden_layers=1))
    tokenizer = ElmoTokenizer()
    examples = [
        {
            **tokenizer(words[:WORDS], is_split_into_words=True, padding="max_length", max_length=WORDS),
            "labels": [int(word[0].isupper()) for word in words[:WORDS]] + [-100] * (WORDS - len(words)),
        }
        for words in SENTENCES
    ]
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=4,
        per_device_train_batch_size=2,
        learning_rate=0.5,
        optim="sgd",
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        **overrides,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=examples, data_collator=default_data_collator)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_a_compiled_training_is_one_graph_and_ends_where_an_uncompiled_one_does(tmp_path: Path):
    expected_losses, expected_weights = train(tmp_path)
    torch._dynamo.utils.counters.clear()
    losses, weights = train(tmp_path, torch_compile=True, torch_compile_backend="aot_eager")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
    # They are logged with four digits.
    assert losses == pytest.approx(expected_losses, abs=1e-4)
    # Sums in another order.
    torch.testing.assert_close(weights, expected_weights, rtol=1e-5, atol=1e-6)
