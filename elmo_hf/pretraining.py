"""From text and sizes to a trained language model, resumed where it was stopped: `elmo-hf pretrain`."""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import (
    DataCollatorForTokenClassification,
    TrainerState,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from .bilm_trainer import BilmTrainer, EvaluateAtTheEnd, adamw_recipe, bilm_tf_recipe, schedule_decay
from .checkpoints.hub_folder import check_sizes, load_config, load_model, load_tokenizer
from .checkpoints.model_card import training_card
from .configuration_elmo import WORD_VOCABULARY_START, ElmoConfig
from .corpus import BilmSentences, BilmWindows, Corpus, build_vocabulary, count_words, write_corpus
from .files import PathLike, atomic_file
from .modeling_elmo import ElmoForPreTraining, ElmoModel
from .products_elmo import is_emulated
from .small_model import find_model
from .text_files import read_lines
from .tokenization_elmo import ElmoTokenizer
from .training_options import check_training_options
from .training_run import HASHED_OPTIONS, TrainingRun, hash_of, hash_of_model

# Rarer words are <UNK> to the language model, as in the vocabulary of the published models.
MIN_COUNT = 3
# A sentence without state is cut there: a whole chapter in one line would fill the memory.
MAX_SENTENCE_WORDS = 400
# Seconds that processes wait for the first one to split the text and count its words.
PREPARATION_TIMEOUT = 7 * 86400

# Of a card that was written here and may be written anew.
_CARD_MARK = "Trained by `elmo-hf pretrain`."

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Pretrained:
    """
    What was trained.

    Attributes:
        config: of the model.
        num_predicted_words: of its softmax.
        num_batches: in all.
        num_words: of the text.
        metrics: of its evaluation, if there was one.
    """

    config: ElmoConfig
    num_predicted_words: int
    num_batches: int
    num_words: int
    metrics: dict[str, float]


@contextmanager
def _leaves_no_precision_behind() -> Iterator[None]:
    """transformers 4 notes the precision of a training in the environment, where the next training finds it."""
    name = "ACCELERATE_MIXED_PRECISION"
    before = os.environ.get(name)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


@_leaves_no_precision_behind()
def pretrain(
    model_dir: PathLike,
    train: PathLike | Iterable[PathLike],
    output: PathLike,
    *,
    evaluation: PathLike | Iterable[PathLike] | None = None,
    vocab: PathLike | None = None,
    min_count: int | None = None,
    max_vocab: int | None = None,
    rows: int = 128,
    unroll_steps: int = 20,
    sentences: bool = False,
    read_last_boundary: bool = True,
    epochs: float = 10.0,
    max_steps: int | None = None,
    optimizer: str = "adagrad",
    learning_rate: float | None = None,
    sampled_words: int | None = None,
    pretokenized: bool = False,
    bf16: bool = False,
    resume: bool = False,
    seed: int = 42,
    save_steps: int | None = None,
    eval_steps: int | None = None,
    log_to: str | None = None,
) -> Pretrained | None:
    """
    Trains a biLM, the softmax of which predicts the words of a vocabulary, and writes it as a Hub folder.

    Args:
        model_dir: the folder of a configuration, for a new model, or of a model to train further; or a name, as
            [`find_model`] takes it.
        train: text, as `elmo_hf.text_files.read_lines` takes it.
        output: the folder to make.
        evaluation: other text, whose perplexity is measured.
        vocab: the words to predict, one per line; those of the folder or of the text when absent.
        min_count: how often a word must occur to be predicted, 3 when absent.
        max_vocab: how many words are predicted, at most.
        rows: sentences, or streams, that are read at the same time.
        unroll_steps: words of each stream per batch.
        sentences: whether sentences are shuffled and each starts from the initial state, instead of streams.
        read_last_boundary: whether the LSTMs read both boundaries between two sentences; bilm-tf's read one.
        epochs: passes over the text.
        max_steps: batches to train on, whatever `epochs` says.
        optimizer: adagrad, as bilm-tf trains, or adamw, see [`bilm_tf_recipe`] and [`adamw_recipe`].
        learning_rate: that of the recipe when absent.
        sampled_words: size of the sampled softmax, 0 for the full one; as configured when absent.
        pretokenized: whether words are what spaces separate.
        bf16: whether products are of bfloat16 (autocast), for which the processor must have instructions.
        resume: whether to go on with the training in `output`.
        seed: of the first weights, the order of sentences, dropout and sampling.
        save_steps: batches between two checkpoints; one per epoch when absent.
        eval_steps: batches between two evaluations; one per epoch when absent.
        log_to: an integration of transformers for the log, tensorboard for example.

    Returns:
        What was trained; `None` in all processes of several but the first.

    Raises:
        ImportError: accelerate is missing.
        OSError, ValueError: something cannot be read, is impossible, or does not belong to what is resumed.
    """
    numbers = {"rows": rows, "unroll_steps": unroll_steps, "save_steps": save_steps, "eval_steps": eval_steps}
    check_training_options(epochs, max_steps, learning_rate, optimizer, vocab, min_count, max_vocab, **numbers)
    _check_precision(bf16)
    model_dir, output, train = Path(find_model(model_dir)), Path(output), _paths(train)
    evaluation = _paths(evaluation) if evaluation is not None else None
    config = _config(model_dir, sampled_words)
    recipe, optimizer_class = _recipe(optimizer, unroll_steps, learning_rate)
    intervals = {**_interval("save", save_steps), **(_interval("eval", eval_steps) if evaluation else {})}
    lengths = {"num_train_epochs": epochs, "max_steps": max_steps or -1}
    arguments = _arguments(rows, bf16, output, seed, report_to=_logger(log_to), **lengths, **intervals, **recipe)
    of_words = {"min_count": min_count, "max_vocab": max_vocab, "pretokenized": pretokenized}
    of_batches = {"rows": rows * arguments.world_size, "unroll_steps": unroll_steps, "sentences": sentences}
    of_learning = {"optimizer": optimizer, "learning_rate": recipe["learning_rate"], "bf16": bf16, "seed": seed}
    options = {**of_words, **of_batches, "read_last_boundary": read_last_boundary, **of_learning}
    options["sampled_words"] = config.num_sampled_words
    run = TrainingRun(output, {**_hashes(model_dir, train, evaluation, vocab), **options})
    with run.discarded_when_it_fails():
        with arguments.main_process_first(local=False):
            checkpoint = run.begin(resume, arguments.process_index == 0)
            tokenizer: Any = load_tokenizer(model_dir, config)
            known_words = tokenizer.word_vocabulary
            corpora = _corpora(train, evaluation, output, str.split if pretokenized else tokenizer.tokenize)
            _set_words(tokenizer, run, corpora[0], None if vocab is None else Path(vocab), min_count, max_vocab)

        set_seed(seed)
        model = _bilm(model_dir, config, tokenizer.word_vocabulary, known_words)
        collator: Any = DataCollatorForTokenClassification(tokenizer) if sentences else default_data_collator
        examples: Sequence[Any] = (
            [BilmSentences(corpus, tokenizer, MAX_SENTENCE_WORDS) for corpus in corpora]
            if sentences
            else _windows(corpora, tokenizer, arguments, unroll_steps, read_last_boundary)
        )
        if optimizer == "adamw":
            batches = len(examples[0]) // (rows * arguments.world_size)
            schedule_decay(arguments, max_steps or math.ceil(epochs * batches))
        trainer = _trainer(model, arguments, collator, examples, tokenizer, optimizer_class)
        run.start()
        _train(trainer, run, checkpoint, epochs, max_steps)
    if not trainer.is_world_process_zero():
        return None
    num_batches = trainer.state.global_step
    _write_card(run, model.num_parameters(), num_batches, corpora[0])
    return Pretrained(config, len(tokenizer.word_vocabulary), num_batches, corpora[0].num_words, run.metrics)


def _hashes(
    model_dir: Path, train: Sequence[Path], evaluation: Sequence[Path] | None, vocab: PathLike | None
) -> dict[str, str | None]:
    """Of `HASHED_OPTIONS`."""
    return {
        "model_dir": hash_of_model(model_dir),
        "train": hash_of(train),
        "evaluation": hash_of(evaluation) if evaluation else None,
        "vocab": hash_of([vocab]) if vocab else None,
    }


def _trainer(
    model: ElmoForPreTraining,
    arguments: TrainingArguments,
    collator: Any,
    examples: Sequence[Any],
    tokenizer: ElmoTokenizer,
    optimizer_class: tuple[type, dict] | None,
) -> BilmTrainer:
    """`examples`: those to train on and, if there is an evaluation, those of it."""
    has_evaluation = len(examples) > 1
    return BilmTrainer(
        model,
        arguments,
        collator,
        train_dataset=examples[0],
        eval_dataset=examples[1] if has_evaluation else None,
        processing_class=tokenizer,
        callbacks=[EvaluateAtTheEnd()] if has_evaluation else None,
        optimizer_cls_and_kwargs=optimizer_class,
    )


def _check_precision(bf16: bool):
    if bf16 and not torch.cuda.is_available() and is_emulated(torch.bfloat16):
        raise ValueError(
            "`bf16` needs a GPU or a processor with instructions for bfloat16 (AVX-512 BF16 or AMX); this one would "
            "take longer than in float32. Leave it out."
        )


def _arguments(rows: int, bf16: bool, output: Path, seed: int, **others: Any) -> TrainingArguments:
    has_gpu = torch.cuda.is_available()
    return TrainingArguments(
        str(output),
        seed=seed,
        per_device_train_batch_size=rows,
        per_device_eval_batch_size=rows,
        logging_steps=100,
        save_total_limit=2,
        bf16=bf16,
        # Processes without a GPU find each other only when they are told that there is none, and so does bfloat16.
        use_cpu=not has_gpu and (bf16 or "LOCAL_RANK" in os.environ),
        dataloader_pin_memory=has_gpu,
        ddp_find_unused_parameters=False,
        ddp_timeout=PREPARATION_TIMEOUT,
        **others,
    )


def _windows(
    corpora: Sequence[Corpus],
    tokenizer: ElmoTokenizer,
    arguments: TrainingArguments,
    unroll_steps: int,
    read_last_boundary: bool,
) -> list[BilmWindows]:
    """Windows of each text. The other text may be short: `arguments` get as many rows as fit into it."""
    rows, processes = arguments.per_device_train_batch_size, arguments.world_size
    num_positions = corpora[-1].num_words + (1 + read_last_boundary) * len(corpora[-1])
    arguments.per_device_eval_batch_size = max(1, min(rows, num_positions // (processes * unroll_steps)))
    return [
        BilmWindows(corpus, tokenizer, size * processes, unroll_steps, read_last_boundary)
        for corpus, size in zip(corpora, (rows, arguments.per_device_eval_batch_size), strict=False)
    ]


def _paths(paths: PathLike | Iterable[PathLike]) -> list[Path]:
    return list(map(Path, [paths] if isinstance(paths, (str, os.PathLike)) else paths))


def _config(model_dir: Path, sampled_words: int | None) -> ElmoConfig:
    config = load_config(model_dir)
    if sampled_words is not None:
        config.num_sampled_words = sampled_words or None
    return config


def _recipe(
    optimizer: str, unroll_steps: int, learning_rate: float | None
) -> tuple[dict[str, Any], tuple[type, dict] | None]:
    """Keywords for `TrainingArguments` and `optimizer_cls_and_kwargs` for `BilmTrainer`."""
    if optimizer == "adagrad":
        return bilm_tf_recipe(unroll_steps, 0.2 if learning_rate is None else learning_rate)
    return adamw_recipe(0.003 if learning_rate is None else learning_rate), None


def _interval(name: str, steps: int | None) -> dict[str, Any]:
    return {f"{name}_strategy": "epoch"} if steps is None else {f"{name}_strategy": "steps", f"{name}_steps": steps}


def _logger(name: str | None) -> str:
    installed = get_available_reporting_integrations()
    if name is not None and name not in installed:
        raise ValueError(f"`log_to` must be installed, was: {name}. There are: {', '.join(installed) or 'none'}.")
    return name or "none"


def _corpora(
    train: Sequence[Path], evaluation: Sequence[Path] | None, output: Path, split: Callable[[str], list[str]]
) -> list[Corpus]:
    parts = {"train": train, "eval": evaluation}
    return [_corpus(paths, output / "corpus" / name, split) for name, paths in parts.items() if paths]


def _corpus(paths: Sequence[Path], folder: Path, split: Callable[[str], list[str]]) -> Corpus:
    if folder.exists():
        return Corpus(folder)
    with tqdm(desc=f"Splitting {folder.name}", unit=" sentences") as bar:
        return write_corpus(map(split, read_lines(paths)), folder, lambda count: bar.update())


def _set_words(
    tokenizer: ElmoTokenizer,
    run: TrainingRun,
    corpus: Corpus,
    vocab: Path | None,
    min_count: int | None,
    max_vocab: int | None,
):
    """The words to predict: those of the run, else those given, the tokenizer's own, or the text's. Kept there."""
    from_text = min_count is not None or max_vocab is not None
    file = run.folder / "vocab.txt"
    if run.words is not None:
        tokenizer.word_vocabulary = list(read_lines(file))
        return
    if vocab is not None:
        # Files of bilm-tf have the special words in any order, and anywhere; a model of ours has them first.
        words = list(read_lines(vocab))
        special = [word for word in WORD_VOCABULARY_START if word in words]
        tokenizer.word_vocabulary = [*special, *(word for word in words if word not in special)]
    elif from_text or tokenizer.word_vocabulary is None:
        counts = count_words(tqdm(corpus, desc="Counting words", unit=" sentences"))
        tokenizer.word_vocabulary = build_vocabulary(counts, MIN_COUNT if min_count is None else min_count, max_vocab)
    tokenizer.save_pretrained(run.folder)
    run.words = hash_of([file])
    run.save()


def _train(trainer: BilmTrainer, run: TrainingRun, checkpoint: Path | None, epochs: float, max_steps: int | None):
    """Trains from a checkpoint, or from the start, to the end, and writes the final model if it is not there yet."""
    total = max_steps or math.ceil(epochs * len(trainer.get_train_dataloader()))
    done = 0 if checkpoint is None else int(checkpoint.name.partition("-")[2])
    if done > total:
        name, value = ("max_steps", total) if max_steps else ("epochs", epochs)
        raise ValueError(f"`{name}` must reach as far as the {done} batches of {checkpoint}, was: {value}.")
    if checkpoint is not None and done == total:
        trainer.state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        trainer._load_from_checkpoint(str(checkpoint))
    else:
        trainer.train(None if checkpoint is None else str(checkpoint))
    if run.is_finished(total):
        if checkpoint is not None and done == total:
            logger.warning(f"{run.folder} was finished before, after {total} batches.")
        return
    trainer.save_model()
    if trainer.is_world_process_zero():
        history = reversed(trainer.state.log_history)
        run.finish(total, next((entry for entry in history if "eval_perplexity" in entry), {}))


def _write_card(run: TrainingRun, num_parameters: int, num_batches: int, corpus: Corpus):
    """A README.md, unless somebody has written another one."""
    card = run.folder / "README.md"
    before = card.read_text(encoding="utf-8") if card.exists() else _CARD_MARK
    facts = {"text": f"{corpus.num_words:,} words in {len(corpus):,} sentences", "batches": f"{num_batches:,}"}
    if "eval_perplexity" in run.metrics:
        facts["perplexity of other text"] = f"{run.metrics['eval_perplexity']:.1f}"
    options = {name: value for name, value in run.options.items() if name not in HASHED_OPTIONS}
    name, config = run.folder.absolute().name, load_config(run.folder)
    text = training_card(name, config, num_parameters, facts, options)
    if _CARD_MARK in before and text != before:
        with atomic_file(card, overwrite=True) as file:
            file.write_text(text, encoding="utf-8")


def _bilm(
    model_dir: Path, config: ElmoConfig, words: Sequence[str], known_words: Sequence[str] | None
) -> ElmoForPreTraining:
    """A language model with the weights of a folder, if it has any; those of the softmax only for the same words."""
    has_weights = any((model_dir / name).exists() for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME))
    has_softmax = "ElmoForPreTraining" in (config.architectures or ())
    config.word_vocab_size = len(words)
    check_sizes(config, ElmoForPreTraining)
    if has_weights and has_softmax and words == known_words:
        return load_model(model_dir, ElmoForPreTraining, config, dtype=torch.float32)
    model = ElmoForPreTraining(config)
    if has_weights:
        # The language model has no mix.
        bilm = load_model(model_dir, ElmoModel, config).state_dict()
        model.elmo.load_state_dict({name: value for name, value in bilm.items() if "scalar_mixes." not in name})
    return model
