"""A tiny language model over a small vocabulary, with text for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elmo_hf import ElmoForPreTraining, ElmoTokenizer
from elmo_hf.corpus import Corpus, write_corpus
from tests.tiny import tiny_model

WORDS = ["the", ".", "river", "bank", "was", "muddy", "rose", "and", "its", "rates", "light", "rain"]
TEXT = [
    ["the", "river", "rose", "."],
    ["its", "bank", "was", "muddy", "and", "light", "."],
    ["rain", "."],
    ["the", "bank", "and", "the", "unknown", "rates", "rose", "."],
    ["light", "rain", "and", "the", "river", "was", "muddy", "."],
]


def word_tokenizer() -> ElmoTokenizer:
    tokenizer = ElmoTokenizer()
    tokenizer.word_vocabulary = ["<S>", "</S>", "<UNK>", *WORDS]
    return tokenizer


def language_model(seed: int = 0, **overrides: Any) -> ElmoForPreTraining:
    """In evaluation mode, with weights far from 0."""
    sizes = {"word_vocab_size": 3 + len(WORDS), "num_sampled_words": None, **overrides}
    return tiny_model(seed, ElmoForPreTraining, **sizes)


def corpus(folder: Path, sentences: Sequence[Sequence[str]] = TEXT * 8) -> Corpus:
    return write_corpus(sentences, folder)
