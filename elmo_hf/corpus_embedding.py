"""
Files in, a file of vectors out: a text of any size, in constant memory, and resumed where it was stopped.

Sentences are read in windows of some ten thousand words, sorted by length within each. Some windows make a part, which
is written as a whole into the folder `OUTPUT.parts`; at the end the file is made of all parts and moved into its
place, and the folder is removed. A part that is there is not computed again, but its sentences are read, and must be
those it was made of.
"""

import hashlib
import json
import math
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .batching import BATCH_SIZE, as_words, run_in_batches, windows_of
from .checkpoints.hub_folder import load_config, load_model, load_tokenizer
from .embedding import Choice, ElmoEmbedder, Layers, are_several, check_pooling, pooled
from .engine_elmo import has_word_vectors_of_same_bits
from .files import PathLike, atomic_file, signals_as_exceptions
from .modeling_elmo import ElmoModel
from .sentence_files import Sentence, SentenceFiles
from .small_model import find_model
from .tokenization_elmo import ElmoTokenizer
from .vector_files import DTYPES, EmbeddedSentences, SplitSentence, bytes_of, kind_of_vectors

# Called with the words that were embedded or skipped since the last time.
Progress = Callable[[int], None]

# Windows per part: what a stop loses at most.
WINDOWS_PER_PART = 4
RECORD = "record.json"


@dataclass(frozen=True)
class Embedded:
    """
    What was written.

    Attributes:
        path: the file.
        num_sentences: in it.
        num_words: in them.
        num_skipped: sentences of parts that were there already.
    """

    path: Path
    num_sentences: int
    num_words: int
    num_skipped: int


def embed_files(
    embedder: ElmoEmbedder,
    inputs: Sequence[PathLike],
    output: PathLike,
    *,
    kind: str | None = None,
    column: str | None = None,
    **options: Any,
) -> Embedded:
    """
    Writes the vectors of the sentences of files.

    Args:
        embedder: the model and its tokenizer.
        inputs: files, see [`SentenceFiles`], which takes `kind` and `column` as well.
        output: the file to write.
        options: of [`embed_sentences_to_file`].
    """
    return embed_sentences_to_file(embedder, SentenceFiles(inputs, kind, column), output, **options)


def embed_sentences_to_file(
    embedder: ElmoEmbedder,
    sentences: Iterable[Sentence],
    output: PathLike,
    *,
    layers: Layers = "mix",
    pooling: str | None = None,
    dtype: str = "float32",
    shard: tuple[int, int] | None = None,
    window: int | None = None,
    overlap: int = 0,
    carry_state: bool = False,
    overwrite: bool | None = False,
    progress: Progress | None = None,
) -> Embedded:
    """
    Writes the vectors of sentences. A second call with the same arguments goes on where the first was stopped, and
    ends with the same bytes.

    Args:
        embedder: the model and its tokenizer.
        sentences: text, or lists of words, in an order that is the same each time.
        output: the file to write; .hdf5, .parquet, .npz or .safetensors, which tells the format.
        layers: as for `ElmoEmbedder.embed`.
        pooling: as there.
        dtype: float32, float16 or, in safetensors, bfloat16.
        shard: (number from 0, of how many): only each so-many-th window of sentences, so that several machines share a
            text. The numbers of sentences are those of the whole text.
        window: words that the model reads at once of longer sentences, documents for example; all when absent.
        overlap: words that a window of a document shares with the next. Half of them count for each.
        carry_state: whether each sentence goes on from the LSTM state that the one before it left, as in a document of
            many lines. One sentence is read at a time, so it is slow, and there are no shards of it.
        overwrite: whether a file in that place is replaced.
        progress: called with numbers of words.

    Raises:
        FileExistsError: `output` is there.
        ValueError: an argument is impossible, or what is to be resumed was begun with others.
    """
    choice = embedder.selection(layers)
    check_pooling(pooling)
    kind = kind_of_vectors(output, dtype)
    _check_documents(shard, window, overlap, carry_state)
    settings = {
        "layers": list(layers) if isinstance(layers, list | tuple) else layers,
        "pooling": pooling,
        "dtype": dtype,
        "shard": None if shard is None else list(shard),
        "window": window,
        "overlap": overlap,
        "carry_state": carry_state,
        # Decides in which batch a sentence is read, and with that its last bits.
        "batch_size": embedder.batch_size,
        "model": _sum_of_model(embedder),
        "tokenizer": [embedder.tokenizer.word_splitter, embedder.tokenizer.max_characters_per_token],
    }
    run = _Run(embedder, choice, pooling, getattr(torch, dtype), window, overlap, carry_state)
    num_sentences = num_words = num_skipped = 0
    with atomic_file(output, overwrite=overwrite) as whole, signals_as_exceptions():
        parts = Parts(Path(f"{output}.parts"), settings)
        with kind(whole, are_several(layers), pooling is not None) as file:
            windows = _ReadAhead(_windows_of_text(sentences, embedder.tokenizer, shard))
            for number, part in enumerate(_parts(windows)):
                words = sum(len(sentence.words) for sentence in part)
                num_sentences, num_words = num_sentences + len(part), num_words + words
                if parts.has(number, part):
                    num_skipped += len(part)
                    run.skip(part)
                    for block in parts.read(number, part):
                        file.write(block)
                    if progress is not None:
                        progress(words)
                else:
                    with parts.new(number, part) as write, ThreadPoolExecutor(2) as pool:
                        for block in run.blocks(part, progress):
                            # Beside each other, and not beside the model: its threads would wait for those that share
                            # their cores.
                            begun = [pool.submit(writer, block) for writer in (write, file.write)]
                            windows.read_on()
                            for writing in begun:
                                writing.result()
    parts.remove()
    return Embedded(Path(output), num_sentences, num_words, num_skipped)


def embed_in_memory(
    embedder: ElmoEmbedder,
    sentences: Iterable[Sentence],
    layers: Layers = "mix",
    pooling: str | None = None,
    dtype: str = "float32",
) -> EmbeddedSentences:
    """
    The words and vectors of some sentences; the arguments are those of [`embed_sentences_to_file`].

    Raises:
        ValueError: an argument is impossible.
    """
    choice = embedder.selection(layers)
    check_pooling(pooling)
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, was: {dtype}.")
    run = _Run(embedder, choice, pooling, getattr(torch, dtype))
    return run.block(list(_numbered(sentences, embedder.tokenizer)))


def _check_documents(shard: tuple[int, int] | None, window: int | None, overlap: int, carry_state: bool):
    if shard is not None and not (0 <= shard[0] < shard[1]):
        raise ValueError(f"`shard` must be a number from 0 to {shard[1] - 1} of {shard[1]}, was: {shard[0]}.")
    if window is not None and window < 1:
        raise ValueError(f"`window` must be at least 1, was: {window}.")
    if overlap and (window is None or not 0 <= overlap < window):
        raise ValueError(f"`overlap` must be less than `window`, {window}, was: {overlap}.")
    if carry_state and (shard is not None or window is not None):
        raise ValueError("`carry_state` must be without `shard` and `window`: each sentence needs the one before it.")


def _sum_of_model(embedder: ElmoEmbedder) -> str:
    """Of its weights and what decides how they are used."""
    digest = hashlib.sha256(json.dumps(embedder.model.config.to_dict(), sort_keys=True, default=str).encode())
    for name, weight in sorted(embedder.model.state_dict().items()):
        content = weight.detach().cpu().contiguous()
        digest.update(name.encode())
        digest.update(content.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _numbered(sentences: Iterable[Sentence], tokenizer: ElmoTokenizer) -> Iterator[SplitSentence]:
    for index, sentence in enumerate(sentences):
        if isinstance(sentence, str):
            words, offsets = tokenizer.split(sentence)
            yield SplitSentence(index, words, [end for pair in offsets for end in pair], sentence)
        else:
            words = as_words(sentence, tokenizer)
            yield SplitSentence(index, words, None, " ".join(words))


def _num_words(sentence: SplitSentence) -> int:
    return len(sentence.words)


def _windows_of_text(
    sentences: Iterable[Sentence], tokenizer: ElmoTokenizer, shard: tuple[int, int] | None
) -> Iterator[list[SplitSentence]]:
    windows: Iterator[list[SplitSentence]] = windows_of(_numbered(sentences, tokenizer), _num_words)
    return windows if shard is None else islice(windows, shard[0], None, shard[1])


class _ReadAhead(Iterator[list[SplitSentence]]):
    """Windows, some of them read before they are needed."""

    def __init__(self, windows: Iterator[list[SplitSentence]]):
        self._windows = windows
        self._ready: deque[list[SplitSentence]] = deque()
        self._error: Exception | None = None

    def read_on(self):
        """Reads one more. An error waits until what comes before it is done."""
        if self._error is None and len(self._ready) < WINDOWS_PER_PART:
            try:
                self._ready.append(next(self._windows))
            except Exception as error:  # StopIteration as well
                self._error = error

    def __next__(self) -> list[SplitSentence]:
        if not self._ready:
            self.read_on()
        if not self._ready and self._error is not None:
            raise self._error
        return self._ready.popleft()


def _parts(windows: Iterator[list[SplitSentence]]) -> Iterator[list[SplitSentence]]:
    while part := list(islice(windows, WINDOWS_PER_PART)):
        yield [sentence for window in part for sentence in window]


class Parts:
    """
    The folder of the parts of a file that is being made, with a record of what they are made with. A part is the
    numbers of its vectors, then a JSON object with their shapes and a checksum of their text, then the length of that
    in eight bytes.

    Raises:
        ValueError: the folder belongs to other settings.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.folder, self._dtype, self._is_pooled = (
            folder,
            getattr(torch, settings["dtype"]),
            settings["pooling"] is not None,
        )
        record = folder / RECORD
        if not record.exists():
            with atomic_file(record) as file:
                file.write_text(json.dumps(settings), encoding="utf-8")
            return
        try:
            begun = json.loads(record.read_text(encoding="utf-8"))
            changed = [name for name in settings if begun.get(name) != settings[name]]
        except (ValueError, AttributeError):
            raise ValueError(f"{record}: must be the record of a run, was damaged. Delete {folder}.") from None
        if changed:
            raise ValueError(
                f"{folder} was begun with another `{changed[0]}`: the same command goes on, or delete that folder."
            )

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}"

    def has(self, number: int, sentences: list[SplitSentence]) -> bool:
        """
        Whether a part is done.

        Raises:
            ValueError: it was made of other sentences.
        """
        path = self._path(number)
        if not path.exists():
            return False
        with path.open("rb") as file:
            begun = self._description(file)["text"]
        if begun != _sum_of_text(sentences):
            raise ValueError(
                f"{self.folder} was begun with another text, from sentence {sentences[0].index} on: delete it to "
                "begin anew."
            )
        return True

    @contextmanager
    def new(self, number: int, sentences: list[SplitSentence]) -> Iterator[Callable[[EmbeddedSentences], None]]:
        """A function that adds some of the sentences of a new part, in their order."""
        blocks: list[tuple[int, list[int]]] = []

        def write(block: EmbeddedSentences):
            file.write(bytes_of(block.vectors))
            blocks.append((len(block.sentences), list(block.vectors.shape)))

        with atomic_file(self._path(number), overwrite=True) as temporary, temporary.open("wb", buffering=0) as file:
            yield write
            content = json.dumps({"text": _sum_of_text(sentences), "blocks": blocks}).encode()
            file.write(content + len(content).to_bytes(8, "little"))

    @staticmethod
    def _description(file: BinaryIO) -> dict[str, Any]:
        file.seek(-8, 2)
        length = int.from_bytes(file.read(8), "little")
        file.seek(-8 - length, 2)
        return json.loads(file.read(length))

    def read(self, number: int, sentences: list[SplitSentence]) -> Iterator[EmbeddedSentences]:
        """What a part that is done holds, as it was written."""
        rest = iter(sentences)
        with self._path(number).open("rb") as file:
            blocks = self._description(file)["blocks"]
            file.seek(0)
            for num_sentences, shape in blocks:
                numbers = bytearray(file.read(math.prod(shape) * self._dtype.itemsize))
                vectors = (
                    torch.frombuffer(numbers, dtype=self._dtype) if numbers else torch.empty(0, dtype=self._dtype)
                )
                yield EmbeddedSentences(list(islice(rest, num_sentences)), vectors.reshape(shape), self._is_pooled)

    def remove(self):
        """Everything, once the file is made."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _sum_of_text(sentences: list[SplitSentence]) -> str:
    digest = hashlib.sha256()
    for sentence in sentences:
        digest.update(json.dumps([sentence.index, sentence.words, sentence.text]).encode())
    return digest.hexdigest()


@dataclass
class _Run:
    """How sentences become vectors."""

    embedder: ElmoEmbedder
    choice: Choice
    pooling: str | None
    dtype: torch.dtype
    window: int | None = None
    overlap: int = 0
    carry_state: bool = False
    states: tuple[Tensor, Tensor] | None = None

    def blocks(self, sentences: list[SplitSentence], progress: Progress | None) -> Iterator[EmbeddedSentences]:
        """The vectors of a part, some of its sentences at a time."""
        # A part must be the same bytes whatever was computed before, and so must remembered words.
        model = self.embedder.model
        if not has_word_vectors_of_same_bits(model.character_encoder):
            model.clear_cache()
        results = self._vectors(sentences)
        for window in windows_of(sentences, _num_words):
            yield self._joined(window, results)
            if progress is not None:
                progress(sum(map(_num_words, window)))

    def block(self, sentences: list[SplitSentence]) -> EmbeddedSentences:
        """All at once."""
        return self._joined(sentences, self._vectors(sentences))

    def _joined(self, sentences: list[SplitSentence], results: Iterator[Tensor]) -> EmbeddedSentences:
        """The next results, which are those of these sentences."""
        if not sentences:
            # (..., 0, hidden_size), as of a sentence without words
            vectors = next(self._vectors([SplitSentence(0, [], None, "")]))
        elif self.pooling is None:
            vectors = torch.cat([next(results) for _ in sentences], dim=-2)
        else:
            vectors = torch.stack([pooled(next(results), self.pooling) for _ in sentences], dim=-2)
        return EmbeddedSentences(sentences, vectors.to(self.dtype), self.pooling is not None)

    def _vectors(self, sentences: list[SplitSentence]) -> Iterator[Tensor]:
        if self.carry_state:
            yield from (self._carried(sentence.words) for sentence in sentences)
            return
        pieces = [_windows(len(sentence.words), self.window, self.overlap) for sentence in sentences]
        words = (
            sentence.words[start:end]
            for sentence, bounds in zip(sentences, pieces, strict=True)
            for start, end, _, _ in bounds
        )
        results = run_in_batches(words, lambda batch: self.embedder._run(self.choice, batch), self.embedder.batch_size)
        for bounds in pieces:
            parts = [next(results)[..., first - start : last - start, :] for start, _, first, last in bounds]
            yield parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)

    def _carried(self, words: list[str]) -> Tensor:
        """Of one sentence that goes on from the one before."""
        vectors, self.states = self.embedder.run_with_states(self.choice, words, self.states)
        return vectors

    def skip(self, sentences: list[SplitSentence]):
        """Sentences that are done; where state is carried, it is computed again."""
        if self.carry_state:
            for sentence in sentences:
                self._carried(sentence.words)


def _windows(length: int, window: int | None, overlap: int) -> list[tuple[int, int, int, int]]:
    """Start and end of each window of a sentence, and of the words in it that count for it."""
    if window is None or length <= window:
        return [(0, length, 0, length)]
    starts = list(range(0, length - overlap, window - overlap))
    bounds = [(start, min(start + window, length)) for start in starts]
    # Where two overlap, each has the half that it has read more around.
    cuts = [
        0,
        *((later + min(end, length)) // 2 for (_, end), (later, _) in pairwise(bounds)),
        length,
    ]
    return [(*bound, cuts[number], cuts[number + 1]) for number, bound in enumerate(bounds)]


def load_embedder(
    name: PathLike | None = None, batch_size: int = BATCH_SIZE, device: str | None = None
) -> ElmoEmbedder:
    """
    An embedder of a model by whatever name it has.

    Args:
        name: as [`find_model`] takes it; `elmo-english` when absent.
        batch_size: sentences per batch, at most.
        device: cpu, cuda, cuda:1 and so on; where there is one, the first CUDA device when absent.

    Raises:
        OSError, ValueError: it cannot be had, or is damaged.
    """
    name = find_model(name)
    if Path(name).is_dir():
        config = load_config(name)
        tokenizer, model = load_tokenizer(name, config), load_model(name, ElmoModel, config)
        embedder = ElmoEmbedder(model, tokenizer, batch_size)
    else:
        embedder = ElmoEmbedder.from_pretrained(name, batch_size)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        embedder.model.to(torch.device(device))  # type: ignore[arg-type]
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`device` must be there, was: {device} ({str(error).splitlines()[0][:80]}).") from None
    return embedder
