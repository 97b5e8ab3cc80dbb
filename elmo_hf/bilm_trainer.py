"""Training of a biLM: `Trainer` with LSTM state that goes on from batch to batch, and the recipe of bilm-tf."""

import json
import math
import re
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from .corpus import BilmWindows
from .files import PathLike, atomic_file
from .modeling_elmo import ElmoForPreTraining

# Gradients are clipped to this norm, and Adagrad's squares start from this, in bilm-tf, where the loss of a step is
# the sum over the steps of a window. Here it is the average, see `bilm_tf_recipe`.
_CLIP_NORM, _INITIAL_ACCUMULATOR = 10.0, 1.0

# Written last into a checkpoint: the size of each of its files.
MANIFEST = "complete.json"

LstmStates = tuple[Tensor, Tensor]


def bilm_tf_recipe(unroll_steps: int = 20, learning_rate: float = 0.2) -> tuple[dict[str, Any], tuple[type, dict]]:
    """
    How bilm-tf trains: Adagrad with a constant learning rate, gradients clipped to a norm of 10.

    bilm-tf multiplies its loss by `unroll_steps` before it takes gradients. Adagrad's own scale makes up for that,
    once the clip is divided by `unroll_steps` and the initial accumulator by its square; the updates are the same.

    Returns:
        Keywords for `TrainingArguments` and `optimizer_cls_and_kwargs` for [`BilmTrainer`].
    """
    arguments = {
        "learning_rate": learning_rate,
        "lr_scheduler_type": "constant",
        "max_grad_norm": _CLIP_NORM / unroll_steps,
    }
    accumulator = {"initial_accumulator_value": _INITIAL_ACCUMULATOR / unroll_steps**2}
    return arguments, (torch.optim.Adagrad, {"lr": learning_rate, **accumulator})


def adamw_recipe(learning_rate: float = 0.003) -> dict[str, Any]:
    """
    How `elmo-novels` was trained: AdamW, a constant learning rate after a warm-up, see [`schedule_decay`] for its end.

    Returns:
        Keywords for `TrainingArguments`.
    """
    return {
        "learning_rate": learning_rate,
        "optim": "adamw_torch",
        "adam_beta2": 0.99,
        "lr_scheduler_type": "warmup_stable_decay",
        "warmup_steps": 200,
        "max_grad_norm": 1.0,
    }


def schedule_decay(arguments: TrainingArguments, max_steps: int):
    """
    Lets the learning rate of [`adamw_recipe`] fall over the last fifth of the steps. Where that begins does not matter
    before, so that a training may be resumed with more steps.
    """
    arguments.lr_scheduler_kwargs = {"num_decay_steps": max_steps // 5, "min_lr_ratio": 0.02}
    arguments.warmup_steps = min(arguments.warmup_steps, max_steps // 10)


class BilmTrainer(Trainer):
    """
    `Trainer` for [`ElmoForPreTraining`].

    With [`BilmWindows`], whose `rows` must be the batch size of all processes together, windows are read in order and
    the LSTM state is carried from one to the next, in training and in evaluation; a checkpoint holds it, so that
    training goes on exactly after `resume_from_checkpoint`, of which `True` means the last complete one. With
    [`BilmSentences`], sentences are drawn at random and nothing is carried.

    `evaluate` gives exact perplexities of both directions (full softmax), over the words and the end of each sentence.
    Training logs each direction's loss as `forward_sampled_loss` and `backward_sampled_loss` when it is sampled, and
    `words_per_second`.

    Raises:
        ValueError: the batch size does not fit the windows.
    """

    model: ElmoForPreTraining

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        for dataset, name, batch_size in (
            (self.train_dataset, "per_device_train_batch_size", self.args.train_batch_size),
            (self.eval_dataset, "per_device_eval_batch_size", self.args.eval_batch_size),
        ):
            whole = batch_size * self.args.world_size
            if isinstance(dataset, BilmWindows) and dataset.rows != whole:
                raise ValueError(
                    "`rows` of the windows must be the batch size of all processes together, "
                    f"`{name}` x {self.args.world_size} = {whole}, was: {dataset.rows}."
                )
        self._states: LstmStates | None = None
        self._forget_losses()

    def _forget_losses(self):
        # Of both directions, since the last entry of the log.
        self._losses, self._num_batches = torch.zeros(2), 0
        self._num_words, self._since = 0, time.perf_counter()

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        return SequentialSampler(dataset) if isinstance(dataset, BilmWindows) else super()._get_train_sampler(dataset)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        self._states = None
        if resume_from_checkpoint:
            folder = Path(str(self.args.output_dir))
            is_last = resume_from_checkpoint is True
            checkpoint = last_complete_checkpoint(folder) if is_last else Path(str(resume_from_checkpoint))
            if checkpoint is None or not is_complete(checkpoint):
                raise ValueError(f"{checkpoint or folder}: must be or have a complete checkpoint to resume, does not.")
            if isinstance(self.train_dataset, BilmWindows):
                states = load_file(self._states_file(checkpoint))
                self._states = states["hidden"].to(self.args.device), states["cell"].to(self.args.device)
            resume_from_checkpoint = str(checkpoint)
        self._forget_losses()
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        checkpoint = Path(self._get_output_dir(trial=trial), f"checkpoint-{self.state.global_step}")
        checkpoint.mkdir(parents=True, exist_ok=True)
        if self.is_world_process_zero():
            (checkpoint / MANIFEST).unlink(missing_ok=True)
        self._save_states(checkpoint)
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            sizes = {file.name: file.stat().st_size for file in checkpoint.iterdir()}
            with atomic_file(checkpoint / MANIFEST) as manifest:
                manifest.write_text(json.dumps(sizes), encoding="utf-8")
            # Not before this one is complete: `Trainer` itself may delete the last one that is.
            self._remove_old_checkpoints(checkpoint.parent)

    def _remove_old_checkpoints(self, folder: Path):
        if self.args.save_total_limit:
            for path in checkpoints(folder)[: -self.args.save_total_limit]:
                if str(path) != self.state.best_model_checkpoint:
                    shutil.rmtree(path, ignore_errors=True)

    def _save_states(self, checkpoint: Path):
        """Writes the carried state of this process into the folder of a checkpoint."""
        if self._states is not None:
            hidden, cell = (state.contiguous() for state in self._states)
            save_file({"hidden": hidden, "cell": cell}, self._states_file(checkpoint))

    def _states_file(self, checkpoint: Path) -> Path:
        return checkpoint / f"lstm_states_{self.args.process_index}.safetensors"

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, **kwargs: Any
    ) -> Any:
        outputs = model(**inputs, lstm_states=self._states)
        if "backward_input_ids" in inputs:
            self._states = tuple(state.detach() for state in outputs.lstm_states)
        with torch.no_grad():
            self._losses = self._losses.to(outputs.loss.device)
            self._losses += torch.stack([outputs.forward_loss, outputs.backward_loss])
        self._num_batches += 1
        self._num_words += inputs["labels"].numel()
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._num_batches:
            kind = "sampled_loss" if self.model.softmax.samples else "loss"
            for direction, loss in zip(("forward", "backward"), self._losses.tolist(), strict=True):
                logs[f"{direction}_{kind}"] = round(loss / self._num_batches, 4)
            rate = self._num_words * self.args.world_size / (time.perf_counter() - self._since)
            logs["words_per_second"] = round(rate, 1)
            self._forget_losses()
        super().log(logs, start_time)

    @torch.no_grad()
    def evaluate(
        self,
        eval_dataset: Dataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """
        Exact perplexities, in float32 whatever the training multiplies in; `{prefix}_loss` is the average of both
        directions in nats, `{prefix}_perplexity` that of their perplexities. With windows the state is carried,
        starting from the model's own.
        """
        loader = self.get_eval_dataloader(eval_dataset)
        start = time.perf_counter()
        self.model.eval()
        # `accelerate` has put autocast around `forward`.
        exact = getattr(self.model, "_original_forward", self.model)
        # Negative log-likelihood and number of words, of each direction.
        totals = torch.zeros(2, 2, dtype=torch.float64, device=self.args.device)
        states = None
        for inputs in loader:
            inputs = self._without_repeats(self._prepare_inputs(inputs))
            if not len(inputs["labels"]):
                continue
            outputs = exact(**inputs, lstm_states=states)
            if "backward_input_ids" in inputs:
                states = outputs.lstm_states
            losses = torch.stack([outputs.forward_loss, outputs.backward_loss]).double()
            words = _num_predicted(inputs).to(totals)
            totals += torch.stack([losses * words, words])
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        sums, words = self.accelerator.reduce(totals, reduction="sum").tolist()
        forward_loss, backward_loss = (total / count for total, count in zip(sums, words, strict=True))
        perplexities = math.exp(forward_loss), math.exp(backward_loss)
        seconds = time.perf_counter() - start
        metrics = {
            "loss": (forward_loss + backward_loss) / 2,
            "perplexity": sum(perplexities) / 2,
            "forward_perplexity": perplexities[0],
            "backward_perplexity": perplexities[1],
            "runtime": seconds,
            "words_per_second": words[0] / seconds,
        }
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        # What training was doing goes on, without the time that this took.
        self._since += time.perf_counter() - start
        return metrics

    def _without_repeats(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Drops the examples that `accelerate` read again to give each process as many in the last batch."""
        gradient_state = self.accelerator.gradient_state
        num_left = gradient_state.remainder
        if not gradient_state.end_of_dataloader or num_left <= 0:
            return inputs
        own = max(0, num_left - self.args.process_index * self.args.eval_batch_size)
        return {name: values[:own] for name, values in inputs.items()}


def _num_predicted(inputs: dict[str, Tensor]) -> Tensor:
    """(2,) words that each direction predicts; of a sentence, one boundary too."""
    num_words = (inputs["labels"] >= 0).sum()
    if "backward_labels" in inputs:
        return torch.stack([num_words, (inputs["backward_labels"] >= 0).sum()])
    return (num_words + len(inputs["labels"])).repeat(2)


def is_complete(checkpoint: PathLike) -> bool:
    """Whether all files of a checkpoint of [`BilmTrainer`] are there, as long as they were written."""
    try:
        sizes = json.loads(Path(checkpoint, MANIFEST).read_text(encoding="utf-8"))
        return all(Path(checkpoint, name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def checkpoints(folder: PathLike) -> list[Path]:
    """The checkpoints of a training, complete or not, the earliest first."""
    found = [path for path in Path(folder).glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name.partition("-")[2]))


def last_complete_checkpoint(folder: PathLike) -> Path | None:
    """The last checkpoint of a training of which nothing is missing."""
    return next((path for path in reversed(checkpoints(folder)) if is_complete(path)), None)


class EvaluateAtTheEnd(TrainerCallback):
    """Evaluates after the last batch, too, while what the log is written to is still open."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any):
        # The end of an epoch is one anyway.
        if args.eval_strategy == IntervalStrategy.STEPS and state.global_step >= state.max_steps:
            control.should_evaluate = True
