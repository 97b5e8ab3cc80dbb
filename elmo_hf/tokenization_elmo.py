# SPDX-License-Identifier: Apache-2.0
"""Tokenizer of the ELMo model: text to words, as its training data was split, and words to rows of character ids."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BatchEncoding, PreTrainedTokenizer
from transformers.tokenization_utils_base import PaddingStrategy, TruncationStrategy
from transformers.utils import logging, to_py_obj

from .configuration_elmo import UNKNOWN_WORD, WORD_VOCABULARY_START
from .encoding_elmo import (
    COLUMNS,
    DEFAULT_WIDTH,
    ElmoEncoding,
    SplitText,
    as_batch,
    as_lists,
    concatenated,
    encoding_of,
    is_batch_of_rows,
    kept_lengths,
    padded_length,
    padded_list,
    padded_rows,
    samples_of,
    tensor_type_of,
    transposed,
)
from .spelling_elmo import ByteSpelling, LexiconSpelling, as_words, load_lexicon
from .word_splitting_elmo import WORD_PATTERNS, split_words

logger = logging.get_logger(__name__)


def batch_to_ids(batch: Iterable[Iterable[str]], max_characters_per_token: int = DEFAULT_WIDTH) -> torch.Tensor:
    """
    Character ids of tokenised sentences (`allennlp.modules.elmo.batch_to_ids`).

    Args:
        batch (iterable of iterables of `str`): Sentences as lists of words.
        max_characters_per_token (`int`, defaults to 50): Ids per word, as many as the biLM reads.

    Returns:
        `torch.LongTensor` of shape `(sentences, longest sentence, max_characters_per_token)`, zero where a sentence
        has no word.

    Raises:
        TypeError: a sentence is a `str` rather than a list of words, or a word is not a `str`.
    """
    if isinstance(batch, (str, bytes, Mapping)) or not isinstance(batch, Iterable):
        raise TypeError(f"`batch` must be a list of sentences, each a list of words, was: {batch!r}.")
    sentences = [as_words(sentence) for sentence in batch]
    width = max_characters_per_token
    rows = ByteSpelling(width).rows([word for sentence in sentences for word in sentence])
    lengths = np.fromiter(map(len, sentences), dtype=np.int64, count=len(sentences))
    ids = np.zeros((len(sentences), max(lengths, default=0), width), dtype=np.int64)
    ids[np.arange(ids.shape[1]) < lengths[:, None]] = rows
    return torch.from_numpy(ids)


class ElmoTokenizer(PreTrainedTokenizer):
    """
    Text or lists of words to character ids, `(words, 50)` a sentence ("Deep contextualized word representations",
    Peters et al., 2018; `ELMoTokenCharactersIndexer` in AllenNLP).

    A word is a row: its UTF-8 bytes (at most 48) between a begin and an end mark, filled up to 50. Rows of zeros are
    padding. Every word has a row, so there is no unknown word, nothing to add to the vocabulary (`add_tokens` raises)
    and nothing is lowercased.

    The model adds the boundaries `<S>` and `</S>` itself. Between the two texts of a pair stand `</S>` and `<S>`, as
    between two sentences of the training data; they are the only special tokens. Given as *words* they are boundaries
    too, in raw text they are characters like any others. As tokens they have no integer ids, therefore `bos_token` and
    `eos_token` are not set.

    With `is_split_into_words=True` each given word is one token, the empty word too, and offsets count from the start
    of that word. All arguments and results are those of a fast tokenizer (hence `is_fast`), other than that a sequence
    longer than `model_max_length` gives no warning.

    Args:
        word_splitter (`"moses"`, `"whitespace"` or `"characters"`, defaults to `"moses"`):
            How raw text becomes words. `"moses"` follows the Moses tokenizer for English, which prepared the training
            data of the English models: *don't* becomes `don 't`, *5%* becomes `5 %`, `U.S.` and `well-known` stay
            whole. `"whitespace"` is `str.split`. With `"characters"`, each is a word: proteins, SMILES strings.
        max_characters_per_token (`int`, defaults to 50):
            Character ids per word, begin and end marks included; at least 3, as in [`ElmoConfig`].
        word_vocab_file (`str`, *optional*):
            The words that the language model of the same folder predicts (`vocab.txt`), one per line: `<S>`, `</S>`,
            `<UNK>`, then by falling count. Only [`ElmoForPreTraining`] needs it.
        lexicon_file (`str`, *optional*):
            The numbers of words, of characters or of both (`lexicon.json`), for biLMs that have their own: those of
            ELMoForManyLangs, and those of bilm-tf that read whole words. A row then begins with the number of the
            word, if the lexicon has words, and goes on with those of its characters, if it has characters.
        pad_token (`str`, defaults to `"<pad>"`):
            How a row of zeros reads.
        kwargs:
            `model_max_length` (in words), `padding_side`, `truncation_side` and the other options of the base class.

    Raises:
        ValueError: an option, a length or a truncation is impossible.
        TypeError: a text is not a `str`, a sentence is a `str` where a list of words is due, a word is not a `str`.
    """

    vocab_files_names = {"word_vocab_file": "vocab.txt", "lexicon_file": "lexicon.json"}
    model_input_names = ["input_ids", "attention_mask"]
    _auto_class = "AutoTokenizer"

    def __init__(
        self,
        word_splitter: str = "moses",
        max_characters_per_token: int = DEFAULT_WIDTH,
        word_vocab_file: str | None = None,
        lexicon_file: str | None = None,
        pad_token: str = "<pad>",
        **kwargs: Any,
    ):
        if word_splitter not in WORD_PATTERNS:
            raise ValueError(f"`word_splitter` must be one of {', '.join(WORD_PATTERNS)}, was: {word_splitter!r}.")
        if isinstance(max_characters_per_token, bool) or not isinstance(max_characters_per_token, int):
            raise TypeError(f"`max_characters_per_token` must be a whole number, was: {max_characters_per_token!r}.")
        if max_characters_per_token < 3 and lexicon_file is None:
            raise ValueError(f"`max_characters_per_token` must be at least 3, was: {max_characters_per_token}.")
        self.word_splitter = word_splitter
        self.max_characters_per_token = max_characters_per_token
        self.spelling: ByteSpelling | LexiconSpelling = ByteSpelling(max_characters_per_token)
        if lexicon_file is not None:
            self.spelling = load_lexicon(Path(lexicon_file), max_characters_per_token)
        self._word_labels: dict[str, int] = {}
        if word_vocab_file is not None:
            # Not `splitlines`: a word may be one of the characters that it splits at.
            self.word_vocabulary = Path(word_vocab_file).read_text(encoding="utf-8").removesuffix("\n").split("\n")
        # Given to the base class as well, because it saves what it was given.
        super().__init__(
            word_splitter=word_splitter,
            max_characters_per_token=max_characters_per_token,
            word_vocab_file=word_vocab_file,
            lexicon_file=lexicon_file,
            pad_token=pad_token,
            **kwargs,
        )
        # Pipelines ask for truncation, and transformers 4 would warn that a tokenizer without a limit does none.
        getattr(self, "deprecation_warnings", {})["Asking-to-truncate-to-max_length"] = True

    @property
    def is_fast(self) -> bool:
        """True: words are split in Rust, and offsets, word ids and overflowing windows are there."""
        return True

    # The vocabulary is the characters, and it is closed.

    @property
    def vocab_size(self) -> int:
        """Number of character ids, 262 without a lexicon: `vocab_size` of the model's configuration."""
        return len(self.spelling.names)

    def __len__(self) -> int:
        return len(self.spelling.names)

    def get_vocab(self) -> dict[str, int]:
        """Readable names of the character ids: bytes as `<0x41>`, and six marks; or those of the lexicon."""
        return {name: index for index, name in enumerate(self.spelling.names)}

    @property
    def pad_token_id(self) -> int | None:
        """0, the id that fills a row of padding."""
        return None if self.pad_token is None else 0

    @property
    def all_special_ids(self) -> list[int]:
        return [] if self.pad_token is None else [0]

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Raises ValueError, unless the tokens are special tokens already (0 tokens added)."""
        tokens = list(new_tokens) if isinstance(new_tokens, (list, tuple)) else [new_tokens] if new_tokens else []
        new = [str(token) for token in tokens if str(token) not in self.all_special_tokens]
        if new:
            raise ValueError(
                f"`new_tokens` must be empty, was: {new}. ELMo spells each word, so that every word has ids already; "
                "to keep words whole, split the text yourself and pass `is_split_into_words=True`."
            )
        return 0

    def add_special_tokens(self, special_tokens_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> int:
        """Raises ValueError, unless the tokens are special tokens already (0 tokens added)."""
        return sum(self.add_tokens(tokens) for tokens in special_tokens_dict.values())

    def _add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        # The base class registers the special tokens of its own constructor here; they need no ids.
        return 0

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        """Writes `vocab.txt` and `lexicon.json` where there are such words; bytes are in the code."""
        prefix, files = f"{filename_prefix}-" if filename_prefix else "", []
        if self._word_labels:
            files.append(Path(save_directory, f"{prefix}vocab.txt"))
            files[-1].write_text("".join(f"{word}\n" for word in self._word_labels), encoding="utf-8", newline="\n")
        if isinstance(self.spelling, LexiconSpelling):
            files.append(Path(save_directory, f"{prefix}lexicon.json"))
            self.spelling.save(files[-1])
        return tuple(map(str, files))

    # The words that a language model predicts.

    @property
    def word_vocabulary(self) -> list[str] | None:
        """
        The words that [`ElmoForPreTraining`] predicts, in the order of their numbers; `None` without `vocab.txt`.

        Raises:
            ValueError: set to words of which the first three are not `<S>`, `</S>` and `<UNK>`, or one is there twice.
        """
        return list(self._word_labels) or None

    @word_vocabulary.setter
    def word_vocabulary(self, words: Sequence[str]):
        first = tuple(words[: len(WORD_VOCABULARY_START)])
        if first != WORD_VOCABULARY_START:
            raise ValueError(f"A word vocabulary must begin with {', '.join(WORD_VOCABULARY_START)}, was: {first}.")
        labels = {word: label for label, word in enumerate(words)}
        if len(labels) != len(words):
            twice = next(word for label, word in enumerate(words) if labels[word] != label)
            raise ValueError(f"A word vocabulary must have each word once, had twice: {twice!r}.")
        self._word_labels = labels

    def words_to_labels(self, words: Iterable[str]) -> np.ndarray:
        """
        Numbers of words in the word vocabulary, `(words,)` int64; that of `<UNK>` for words that are not there.

        Raises:
            ValueError: there is no word vocabulary.
        """
        if not self._word_labels:
            raise ValueError(
                "This tokenizer has no word vocabulary: load it from a folder with `vocab.txt`, pass "
                "`word_vocab_file` or set `word_vocabulary`."
            )
        unknown = WORD_VOCABULARY_START.index(UNKNOWN_WORD)
        return np.array([self._word_labels.get(word, unknown) for word in words], dtype=np.int64)

    # Words and their rows.

    def words_to_character_ids(self, words: Iterable[str]) -> np.ndarray:
        """
        Ids of words, `(words, max_characters_per_token)` int64; with a lexicon of words, one more in front. The words
        `<S>` and `</S>` are boundaries, `<bos>` and `<eos>` in models of ELMoForManyLangs.

        Raises:
            TypeError: `words` is a `str`, or one of them is not.
        """
        return self.spelling.rows(as_words(words))

    def tokenize(
        self, text: str, pair: str | None = None, add_special_tokens: bool = False, **kwargs: Any
    ) -> list[str]:
        """The words of a text, and those of a second one after it."""
        words = split_words(text, self.word_splitter)[0]
        if pair is None:
            return words
        boundaries = [*reversed(self.spelling.boundaries)] if add_special_tokens else []
        return words + boundaries + split_words(pair, self.word_splitter)[0]

    def split(self, text: str) -> tuple[list[str], list[tuple[int, int]]]:
        """The words of a text, and where each stands in it, `(start, end)` in characters."""
        return split_words(text, self.word_splitter)

    def convert_tokens_to_ids(self, tokens: str | Iterable[str] | None) -> Any:
        """
        A word to its row of 50 ids, words to a list of rows. The padding token gives zeros, which [`~__call__`] would
        not do: a word `<pad>` in a sentence is a word.
        """
        if tokens is None:
            return None
        words = [tokens] if isinstance(tokens, str) else as_words(tokens)
        ids = self.words_to_character_ids(words)
        ids[[word == self.pad_token for word in words]] = 0
        return ids[0].tolist() if isinstance(tokens, str) else ids.tolist()

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """
        A row of 50 ids to its word, `(words, 50)` to a list of words, one integer to the name of that character. Bytes
        that are no UTF-8 (a word cut within a character) become U+FFFD.

        Raises:
            ValueError: an id is not one of the 262, or a row has another length.
        """
        ids = to_py_obj(ids)
        if isinstance(ids, int):
            self.spelling.check(np.asarray([ids]))
            return self.spelling.names[ids]
        rows = self._as_rows([ids] if ids and isinstance(ids[0], int) else ids)
        self.spelling.check(rows)
        if skip_special_tokens:
            rows = rows[~self._is_special(rows)]
        words = [self._word(row) for row in rows]
        return words[0] if words and isinstance(ids[0], int) else words

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return " ".join(tokens)

    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Words joined by spaces from `(words, 50)` ids, one string a sentence from `(sentences, words, 50)`. Lists,
        arrays and tensors. `skip_special_tokens=True` leaves out boundaries and padding.
        """
        ids = to_py_obj(token_ids)
        if is_batch_of_rows(ids):
            return [self.decode(rows, skip_special_tokens, clean_up_tokenization_spaces) for rows in ids]
        words = self.convert_ids_to_tokens(ids, skip_special_tokens=skip_special_tokens)
        text = self.convert_tokens_to_string([words] if isinstance(words, str) else words)
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        return self.clean_up_tokenization(text) if clean_up_tokenization_spaces else text

    def batch_decode(self, sequences: Any, *args: Any, **kwargs: Any) -> list[str]:
        """[`decode`] of each sentence."""
        return [self.decode(sequence, *args, **kwargs) for sequence in sequences]

    def _word(self, row: np.ndarray) -> str:
        return self.spelling.word(row) if row.any() else str(self.pad_token)

    def _is_special(self, rows: np.ndarray) -> np.ndarray:
        """Which rows are boundaries or padding, `(words,)` bool."""
        return self.spelling.is_boundary(rows) | ~rows.any(axis=1)

    def _as_rows(self, ids: Any) -> np.ndarray:
        """Rows of character ids, `(words, 50)` int64, from nested lists, an array or a tensor; `[]` is no words."""
        width = self.spelling.ids_per_word
        if isinstance(ids, torch.Tensor):
            ids = ids.cpu()
        if hasattr(ids, "shape"):
            shape = tuple(ids.shape)
        else:
            # Integers where rows are due have no length.
            shape = (len(ids), *{len(row) if hasattr(row, "__len__") else 0 for row in ids})
        if shape not in ((0,), (shape[0], width)):
            raise ValueError(f"`input_ids` of a sentence must be (words, {width}), was: {shape}.")
        return np.asarray(ids, dtype=np.int64).reshape(-1, width)

    # Special tokens: only </S> <S> between the texts of a pair.

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        return 2 if pair else 0

    def build_inputs_with_special_tokens(self, token_ids_0: list, token_ids_1: list | None = None) -> list:
        """Rows of a text, or of a pair with `</S>` and `<S>` between."""
        if token_ids_1 is None:
            return list(token_ids_0)
        return [*token_ids_0, *self.convert_tokens_to_ids([*reversed(self.spelling.boundaries)]), *token_ids_1]

    def create_token_type_ids_from_sequences(self, token_ids_0: list, token_ids_1: list | None = None) -> list[int]:
        """0 for the first text and its `</S>`, 1 for `<S>` and the second."""
        if token_ids_1 is None:
            return [0] * len(token_ids_0)
        return [0] * (len(token_ids_0) + 1) + [1] * (len(token_ids_1) + 1)

    def get_special_tokens_mask(
        self, token_ids_0: list, token_ids_1: list | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 for boundaries (and padding, if `already_has_special_tokens`), 0 for words."""
        if already_has_special_tokens:
            if token_ids_1 is not None:
                raise ValueError("`token_ids_1` must be None if `already_has_special_tokens`, was given.")
            return self._is_special(self._as_rows(token_ids_0)).astype(int).tolist()
        if token_ids_1 is None:
            return [0] * len(token_ids_0)
        return [0] * len(token_ids_0) + [1, 1] + [0] * len(token_ids_1)

    # Encoding. transformers 5 sends single texts and batches to `_encode_plus`, 4 has a second method for batches.

    def _encode_plus(  # type: ignore[override]
        self, text: Any, text_pair: Any = None, is_split_into_words: bool = False, **options: Any
    ) -> BatchEncoding:
        samples, is_batch = samples_of(text, text_pair, is_split_into_words)
        texts = [text for sample in samples for text in sample]
        if is_split_into_words:
            split, spans = [as_words(words) for words in texts], None
        else:
            pieces = [split_words(text, self.word_splitter) for text in texts]
            split, spans = [words for words, _ in pieces], [offsets for _, offsets in pieces]
        # All words of the batch at once.
        rows = self.words_to_character_ids([word for words in split for word in words])
        if spans is None:
            spans = [[(0, len(word)) for word in words] for words in split]
        ends = np.cumsum([len(words) for words in split], dtype=np.int64)
        spelled = iter(map(SplitText, split, spans, np.split(rows, ends[:-1]) if split else []))
        return self._encode([[next(spelled) for _ in sample] for sample in samples], is_batch, **options)

    def _batch_encode_plus(self, batch_text_or_text_pairs: Sequence[Any], **options: Any) -> BatchEncoding:
        return self._encode_plus(batch_text_or_text_pairs, **options)

    def _call_one(self, text: Any, text_pair: Any = None, **options: Any) -> BatchEncoding:
        # The same for `__call__` of transformers 4, whose own check refuses batches of pairs of word lists.
        return self._encode_plus(text, text_pair, **self._with_strategies(**options))

    def _with_strategies(
        self,
        padding: bool | str | PaddingStrategy = False,
        truncation: bool | str | TruncationStrategy | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        verbose: bool = True,
        **options: Any,
    ) -> dict[str, Any]:
        """Options of [`~__call__`] as `_encode_plus` wants them."""
        padding_strategy, truncation_strategy, max_length, _ = self._get_padding_truncation_strategies(
            padding, truncation, max_length, pad_to_multiple_of, verbose
        )
        return {
            **options,
            "padding_strategy": padding_strategy,
            "truncation_strategy": truncation_strategy,
            "max_length": max_length,
            "pad_to_multiple_of": pad_to_multiple_of,
        }

    def prepare_for_model(  # type: ignore[override]
        self, ids: Any, pair_ids: Any = None, prepend_batch_axis: bool = False, **options: Any
    ) -> BatchEncoding:
        """
        [`~__call__`] for words that are rows of ids already: `(words, 50)`, and those of a second text. Without
        `prepend_batch_axis` tensors have no batch axis.
        """
        sample = []
        for rows in (ids,) if pair_ids is None else (ids, pair_ids):
            tokens = self.convert_ids_to_tokens(rows)
            sample.append(SplitText(tokens, [(0, len(token)) for token in tokens], self._as_rows(rows)))
        encoded = self._encode([sample], is_batch=False, **self._with_strategies(**options))
        if options.get("return_tensors") is not None and not prepend_batch_axis and len(encoded.encodings or ()) == 1:
            encoded.data = {name: value[0] for name, value in encoded.data.items()}
        return encoded

    def _encode(
        self,
        samples: list[list[SplitText]],
        is_batch: bool,
        add_special_tokens: bool = True,
        padding_strategy: PaddingStrategy = PaddingStrategy.DO_NOT_PAD,
        truncation_strategy: TruncationStrategy = TruncationStrategy.DO_NOT_TRUNCATE,
        max_length: int | None = None,
        stride: int = 0,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: Any = None,
        return_overflowing_tokens: bool = False,
        **columns: Any,
    ) -> BatchEncoding:
        """Encodes samples of one or two texts. With overflow, each window is a sequence of the batch."""
        encodings: list[Any] = []
        sample_of: list[int] = []
        for index, sample in enumerate(samples):
            windows = self._windows(
                sample, add_special_tokens, truncation_strategy, max_length, stride, return_overflowing_tokens
            )
            encodings += [self._joined(window, add_special_tokens) for window in windows]
            sample_of += [index] * len(windows)

        rows: Sequence[np.ndarray] | np.ndarray = [encoding.character_ids for encoding in encodings]
        side = self._side(padding_side)
        if length := padded_length(map(len, rows), padding_strategy, max_length, pad_to_multiple_of):
            rows = padded_rows(rows, length, side)
            pad_token = str(self.pad_token)
            encodings = [
                encoding.padded(character_ids, side, pad_token)
                for encoding, character_ids in zip(encodings, rows, strict=True)
            ]
        for _, group in groupby(zip(sample_of, encodings, strict=True), key=itemgetter(0)):
            first, *overflowing = (encoding for _, encoding in group)
            first.overflowing = overflowing

        data: dict[str, Any] = {"input_ids": rows, **self._columns(encodings, **columns)}
        if return_overflowing_tokens:
            data["overflow_to_sample_mapping"] = sample_of
        elif not is_batch and return_tensors is None:
            # A single sequence has no batch axis; its length stays a list of one, as with every fast tokenizer.
            return BatchEncoding(
                {name: values if name == "length" else values[0] for name, values in as_lists(data).items()},
                encodings,
            )
        return as_batch(data, return_tensors, encodings)

    def _windows(
        self,
        sample: list[SplitText],
        add_special_tokens: bool,
        strategy: TruncationStrategy,
        max_length: int | None,
        stride: int,
        with_overflow: bool,
    ) -> list[list[tuple[int, SplitText]]]:
        """Windows of a sample, each one cut (start, words) a text. The first is what truncation leaves."""
        num_special = self.num_special_tokens_to_add(len(sample) == 2) if add_special_tokens else 0
        lengths = [len(words) for words in sample]
        if (
            strategy == TruncationStrategy.DO_NOT_TRUNCATE
            or max_length is None
            or sum(lengths) + num_special <= max_length
        ):
            return [[(0, words) for words in sample]]
        if max_length < num_special:
            raise ValueError(
                f"`max_length` must be at least {num_special} for the boundaries of a pair, was: {max_length}."
            )
        kept = kept_lengths(lengths, max_length - num_special, strategy)
        cuts = [
            words.windows(number, stride, self.truncation_side) for words, number in zip(sample, kept, strict=True)
        ]
        if not with_overflow:
            return [[cut[0] for cut in cuts]]
        if len(cuts) == 1:
            return [[cut] for cut in cuts[0]]
        # The order of the `tokenizers` library.
        (first, *later_first), (second, *later_second) = cuts
        return [
            [first, second],
            *([one, other] for one in later_first for other in (second, *later_second)),
            *([first, other] for other in later_second),
        ]

    def _joined(self, window: list[tuple[int, SplitText]], add_special_tokens: bool) -> ElmoEncoding:
        parts = [encoding_of(words, start, sequence) for sequence, (start, words) in enumerate(window)]
        if len(parts) == 1:
            return parts[0]
        if add_special_tokens:
            boundaries = [*reversed(self.spelling.boundaries)]
            rows = self.words_to_character_ids(boundaries)
            nothing: list[Any] = [None, None]
            parts.insert(1, ElmoEncoding(boundaries, rows, [(0, 0), (0, 0)], nothing, nothing, [0, 1], [1, 1]))
        return concatenated(parts)

    def _columns(
        self,
        encodings: list[ElmoEncoding],
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
        verbose: bool = True,
        split_special_tokens: bool = False,
        **unused: Any,
    ) -> dict[str, list]:
        if unused:
            logger.warning(f"Not used by {type(self).__name__}: {', '.join(unused)}.")
        data: dict[str, list] = {}
        if self._wanted(return_token_type_ids, "token_type_ids"):
            data["token_type_ids"] = [encoding.type_ids for encoding in encodings]
        if self._wanted(return_attention_mask, "attention_mask"):
            data["attention_mask"] = [encoding.attention_mask for encoding in encodings]
        if return_special_tokens_mask:
            data["special_tokens_mask"] = [encoding.special_tokens_mask for encoding in encodings]
        if return_offsets_mapping:
            data["offset_mapping"] = [encoding.offsets for encoding in encodings]
        if return_length:
            data["length"] = [len(encoding) for encoding in encodings]
        return data

    def _wanted(self, choice: bool | None, name: str) -> bool:
        return name in self.model_input_names if choice is None else choice

    def _side(self, padding_side: str | None) -> str:
        side = self.padding_side if padding_side is None else padding_side
        if side not in ("left", "right"):
            raise ValueError(f"`padding_side` must be left or right, was: {side!r}.")
        return side

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str | PaddingStrategy = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: Any = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """
        Pads encoded sequences, as collators do: a list of them, or one mapping of a single sequence, `input_ids`
        (words, 50), or of a batch, (sequences, words, 50). Lists, arrays and tensors; without `return_tensors` the
        result is of the same kind. The columns of an encoding are padded, others (labels) are taken as they are.

        Raises:
            ValueError: there are no `input_ids`, or their shape is another.
        """
        columns = transposed(encoded_inputs)
        is_batch = isinstance(encoded_inputs, (list, tuple)) or is_batch_of_rows(columns["input_ids"])
        if not is_batch:
            columns = {name: [value] for name, value in columns.items()}
        if return_tensors is None:
            return_tensors = tensor_type_of(columns["input_ids"])

        rows = [self._as_rows(ids) for ids in columns["input_ids"]]
        if self._wanted(return_attention_mask, "attention_mask") and "attention_mask" not in columns:
            columns["attention_mask"] = [[1] * len(sequence) for sequence in rows]
        strategy, _, max_length, _ = self._get_padding_truncation_strategies(
            padding=padding, max_length=max_length, verbose=verbose
        )
        length = padded_length([len(sequence) for sequence in rows], strategy, max_length, pad_to_multiple_of)
        missing = [max(length - len(sequence), 0) for sequence in rows]
        side = self._side(padding_side)
        for name, (value, _) in COLUMNS.items():
            if name in columns:
                columns[name] = [
                    padded_list(list(to_py_obj(values)), number, side, value)
                    for values, number in zip(columns[name], missing, strict=True)
                ]
        columns["input_ids"] = padded_rows(rows, length, side) if length else rows
        batch = as_batch(columns, return_tensors)
        if not is_batch:
            batch.data = {name: values[0] for name, values in batch.data.items()}
        return batch


__all__ = ["ElmoTokenizer", "batch_to_ids"]
