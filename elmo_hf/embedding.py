"""Sentences in, arrays out: the vectors of any number of sentences, in their order and in constant memory."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging

from .batching import BATCH_SIZE, as_words, run_in_batches
from .checkpoints.bilm_hdf5 import read_model
from .downloads import local_file
from .files import PathLike
from .modeling_elmo import ElmoModel, ElmoPreTrainedModel
from .tokenization_elmo import ElmoTokenizer

logger = logging.get_logger(__name__)

Layers = str | int | Sequence[int]

# What says where a folder of the Hub is, which model and tokenizer must agree on.
_PLACE = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token", "trust_remote_code")


class Choice(NamedTuple):
    """Which vectors are wanted of what a model gives."""

    choose: Callable[[Any], Tensor]  # from outputs to (..., batch, words, hidden_size)
    needs_layers: bool


class ElmoEmbedder:
    """
    Vectors of many sentences: sentences of similar length run together, the results come back in the order of the
    input, one at a time. They are those of evaluation, whatever mode the model is in.

        ElmoEmbedder(model, tokenizer)                     # of this package
        ElmoEmbedder("options.json", "weights.hdf5", -1)   # as in AllenNLP 0.9: files or addresses, and a CUDA device

    Args:
        model: an [`ElmoModel`], used as it is, on its device, or a model with a head, of which the biLM is used; or
            the options that AllenNLP's class of this name took.
        tokenizer: splits sentences that are given as text; or the weights that belong to the options.
        batch_size: sentences per batch, at most; after options and weights, the CUDA device, -1 for the CPU.
        cuda_device: to move the model to; it stays where it is when absent.

    Raises:
        ValueError, TypeError: these do not belong together.
    """

    def __init__(
        self,
        model: ElmoPreTrainedModel | PathLike | None = None,
        tokenizer: ElmoTokenizer | PathLike | None = None,
        batch_size: int | None = None,
        *,
        options_file: PathLike | None = None,
        weight_file: PathLike | None = None,
        cuda_device: int | None = None,
    ):
        if isinstance(model, str | os.PathLike):
            if isinstance(tokenizer, ElmoTokenizer) or options_file is not None or weight_file is not None:
                raise TypeError(
                    f"`model` must be a model beside a tokenizer, was a name: {model!r}. "
                    "`ElmoEmbedder.from_pretrained` loads a folder or a repository."
                )
            options_file, weight_file, model, tokenizer = model, tokenizer, None, None
            cuda_device, batch_size = (batch_size if cuda_device is None else cuda_device), None
        if options_file is not None:
            if weight_file is None:
                raise TypeError("`weight_file` must be given with `options_file`, was None.")
            model = read_model(local_file(options_file), local_file(weight_file))
            tokenizer = ElmoTokenizer(max_characters_per_token=model.config.max_characters_per_token)
        if not isinstance(model, ElmoPreTrainedModel) or not isinstance(tokenizer, ElmoTokenizer):
            raise TypeError(
                "`ElmoEmbedder` takes a model and its tokenizer, or an options.json and an hdf5 file of weights, got: "
                f"{type(model).__name__} and {type(tokenizer).__name__}."
            )
        batch_size = BATCH_SIZE if batch_size is None else batch_size
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, was: {batch_size}.")
        bilm: Any = model if isinstance(model, ElmoModel) else model.base_model
        if cuda_device is not None:
            bilm = bilm.to("cpu" if cuda_device < 0 else f"cuda:{cuda_device}")
        self.model: ElmoModel = bilm
        self.tokenizer, self.batch_size = tokenizer, batch_size

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike, batch_size: int = BATCH_SIZE, **kwargs: Any) -> "ElmoEmbedder":
        """
        Loads a Hub repository or folder; `kwargs` go to the model's `from_pretrained`, and those that say where it is
        (`revision`, `subfolder`, `token`, `cache_dir`, ...) to the tokenizer's as well.
        """
        model = ElmoModel.from_pretrained(folder, **kwargs).eval()
        place = {name: kwargs[name] for name in _PLACE if name in kwargs}
        return cls(model, ElmoTokenizer.from_pretrained(folder, **place), batch_size)

    def embed(
        self, sentences: Iterable[Any], layers: Layers = "mix", pooling: str | None = None
    ) -> Iterator[np.ndarray]:
        """
        Yields one float32 array per sentence, while it reads on.

        Args:
            sentences: text, or lists of words, of any number. An empty sentence has no words and keeps its place.
            layers: `"mix"` (the first scalar mix), `"top"`, `"average"`, `"sum"`, `"all"`, the number of a layer, 0
                for the word vectors, or a list of numbers.
            pooling: `None`, or one vector per sentence, `"mean"` or `"max"` over its words; zeros without words.

        Returns:
            Arrays (words, hidden_size), with `"all"` or a list (layers, words, hidden_size), without the words when
            pooled.

        Raises:
            ValueError: `layers` or `pooling` is not one of these.
            TypeError: `sentences` is one text, or a sentence is neither text nor a list of words.
        """
        if isinstance(sentences, str | bytes):
            raise TypeError(f"`sentences` must be a list of sentences, was one text: {sentences[:60]!r}. Pass [text].")
        choice = self.selection(layers)
        check_pooling(pooling)
        return self._embed(sentences, choice, pooling)

    def _embed(self, sentences: Iterable[Any], choice: Choice, pooling: str | None) -> Iterator[np.ndarray]:
        words = (as_words(sentence, self.tokenizer) for sentence in sentences)
        for vectors in run_in_batches(words, partial(self._run, choice), self.batch_size):
            yield vectors.contiguous().numpy() if pooling is None else pooled(vectors, pooling).numpy()

    def _run(self, choice: Choice, sentences: list[list[str]]) -> list[Tensor]:
        """The vectors of a batch, float32 on the CPU; halves of it, where an accelerator has too little memory."""
        self._warn_of_cut_words(sentences)
        try:
            vectors = self._chosen(choice, self._read(choice, sentences))
        except torch.OutOfMemoryError:
            if len(sentences) == 1:
                raise
        else:
            return [vectors[..., row, : len(words), :] for row, words in enumerate(sentences)]
        half = len(sentences) // 2
        return self._run(choice, sentences[:half]) + self._run(choice, sentences[half:])

    def run_with_states(
        self, choice: Choice, words: list[str], lstm_states: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The vectors of one sentence that starts from a state of the LSTMs, and the state after it."""
        self._warn_of_cut_words([words])
        outputs = self._read(choice, [words], lstm_states)
        return self._chosen(choice, outputs)[..., 0, :, :], outputs.lstm_states

    @torch.inference_mode()
    def _read(
        self, choice: Choice, sentences: list[list[str]], lstm_states: tuple[Tensor, Tensor] | None = None
    ) -> Any:
        """What the model gives, in evaluation mode."""
        inputs = self.tokenizer(sentences, is_split_into_words=True, padding=True, return_tensors="pt")
        was_training = self.model.training
        self.model.eval()
        try:
            return self.model(
                **inputs.to(self.model.device), lstm_states=lstm_states, output_hidden_states=choice.needs_layers
            )
        finally:
            self.model.train(was_training)

    @torch.inference_mode()
    def _chosen(self, choice: Choice, outputs: Any) -> Tensor:
        """(..., batch, words, hidden_size), without boundaries."""
        keep = slice(1, -1) if self.model.config.keep_sentence_boundaries else slice(None)
        return choice.choose(outputs)[..., keep, :].float().cpu()

    def _warn_of_cut_words(self, sentences: list[list[str]]):
        limit = self.model.config.max_characters_per_token - 2
        # A character has four bytes at most.
        long = (word for words in sentences for word in words if 4 * len(word) > limit)
        if limit > 0 and self.model.config.word_embedding_dim == 0 and any(len(w.encode()) > limit for w in long):
            logger.warning_once(f"Words of more than {limit} bytes are cut there, as in the training of ELMo.")

    def selection(self, layers: Layers) -> Choice:
        """
        Which vectors `layers` asks for.

        Raises:
            ValueError: `layers` is not one of what `embed` takes, or the model has no mix.
        """
        num_layers = self.model.config.num_hidden_layers + 1
        choices: dict[str | int, Callable[[Any], Tensor]] = {
            "mix": lambda outputs: outputs.last_hidden_state,
            "top": lambda outputs: outputs.hidden_states[-1],
            "average": lambda outputs: sum(outputs.hidden_states) / num_layers,
            "sum": lambda outputs: sum(outputs.hidden_states),
            "all": lambda outputs: torch.stack(outputs.hidden_states),
            **{number: partial(_layer, number) for number in range(num_layers)},
        }
        if isinstance(layers, Sequence) and not isinstance(layers, str):
            wrong = [number for number in layers if isinstance(number, bool) or number not in range(num_layers)]
            if wrong or not layers:
                raise ValueError(f"`layers` must be numbers from 0 to {num_layers - 1}, was: {list(layers)!r}.")
            numbers = list(layers)
            choose: Callable[[Any], Tensor] = lambda outputs: torch.stack([outputs.hidden_states[n] for n in numbers])  # noqa: E731
        elif isinstance(layers, bool) or layers not in choices:
            raise ValueError(f"`layers` must be one of {', '.join(map(str, choices))}, was: {layers!r}.")
        elif layers == "mix" and not self.model.scalar_mixes:
            raise ValueError("`layers` must not be mix for a language model, which has none; average is its mean.")
        else:
            choose = choices[layers]
        return Choice(choose, layers != "mix")

    # The methods of AllenNLP's class, which always give all layers.

    def embed_sentence(self, sentence: Sequence[str]) -> np.ndarray:
        """(layers, words, hidden_size) of one list of words (`ElmoEmbedder.embed_sentence` of AllenNLP 0.9)."""
        return next(self.embed([_words_of(sentence)], "all"))

    def embed_batch(self, batch: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """(layers, words, hidden_size) of each list of words (`ElmoEmbedder.embed_batch` of AllenNLP 0.9)."""
        return list(self.embed(map(_words_of, batch), "all"))

    def embed_sentences(
        self, sentences: Iterable[Sequence[str]], batch_size: int | None = None
    ) -> Iterator[np.ndarray]:
        """As `embed_batch`, of any number (`ElmoEmbedder.embed_sentences` of AllenNLP 0.9)."""
        embedder = self if batch_size is None else type(self)(self.model, self.tokenizer, batch_size)
        return embedder.embed(map(_words_of, sentences), "all")

    def embed_file(
        self,
        input_file: IO[str] | PathLike | Sequence[PathLike],
        output_file_path: PathLike,
        output_format: str = "all",
        batch_size: int | None = None,
        forget_sentences: bool = False,
        use_sentence_keys: bool = False,
        **options: Any,
    ) -> Any:
        """
        Writes the vectors of a file (`ElmoEmbedder.embed_file` of AllenNLP 0.9, whose arguments are the first six).

        Args:
            input_file: an open file whose lines are sentences, words separated by spaces, as in AllenNLP; or the paths
                of files, which [`embed_files`] reads by their names.
            output_file_path: its ending tells the format: .hdf5, .parquet, .npz or .safetensors.
            output_format: the `layers`, all, top, average and so on.
            batch_size: sentences per batch.
            forget_sentences: has no effect; `sentence_to_index` is always written.
            use_sentence_keys: must be false: the numbers of sentences are their keys, which a "/" in one cannot break.
            options: further arguments of [`embed_files`].

        Returns:
            [`Embedded`]: what was written.
        """
        from .corpus_embedding import embed_files, embed_sentences_to_file

        if use_sentence_keys:
            raise ValueError("`use_sentence_keys` must be False: a sentence may have a /, and be there twice.")
        embedder = self if batch_size is None else type(self)(self.model, self.tokenizer, batch_size)
        if hasattr(input_file, "read"):
            file: Any = input_file
            lines = (line.split() for line in file)
            return embed_sentences_to_file(embedder, lines, output_file_path, layers=output_format, **options)
        paths: Any = [input_file] if isinstance(input_file, str | os.PathLike) else input_file
        return embed_files(embedder, paths, output_file_path, layers=output_format, **options)


def _words_of(sentence: Sequence[str]) -> list[str]:
    if isinstance(sentence, str):
        raise TypeError(f"A sentence must be a list of words here, was: {sentence[:60]!r}. `embed` takes text.")
    return [str(word) for word in sentence]


def _layer(number: int, outputs: Any) -> Tensor:
    return outputs.hidden_states[number]


def are_several(layers: Layers) -> bool:
    """Whether vectors of these layers have an axis of layers."""
    return layers == "all" or (isinstance(layers, Sequence) and not isinstance(layers, str))


def check_pooling(pooling: str | None):
    """Raises a ValueError for what is no pooling."""
    if pooling not in (None, "mean", "max"):
        raise ValueError(f"`pooling` must be mean, max or None, was: {pooling!r}.")


def pooled(vectors: Tensor, pooling: str) -> Tensor:
    """(..., words, hidden_size) -> (..., hidden_size), zeros without words."""
    if vectors.shape[-2] == 0:
        return vectors.new_zeros(*vectors.shape[:-2], vectors.shape[-1])
    return vectors.mean(-2) if pooling == "mean" else vectors.amax(-2)
