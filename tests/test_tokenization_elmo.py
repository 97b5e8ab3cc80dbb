"""Character ids by hand, words as Moses splits them, and encodings that equal those of a fast tokenizer."""

import copy
import inspect
import itertools
import json
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from datasets.fingerprint import Hasher
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sacremoses import MosesTokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
)

from elmo_hf.tokenization_elmo import ElmoTokenizer, batch_to_ids

BEGIN_SENTENCE, END_SENTENCE, BEGIN, END, FILL = 257, 258, 259, 260, 261


# No limit of time for one example, on a busy machine that would fail now and then.
patient = settings(deadline=None)


@pytest.fixture(scope="module")
def tokenizer() -> ElmoTokenizer:
    return ElmoTokenizer()


def row(*characters: int) -> list[int]:
    """A row of 50 ids that begins with these."""
    return [*characters, *[FILL] * (50 - len(characters))]


# Character ids


def test_a_word_is_its_bytes_plus_one_between_begin_and_end(tokenizer: ElmoTokenizer) -> None:
    # "Ab" is 0x41 0x62.
    assert tokenizer.convert_tokens_to_ids("Ab") == row(259, 66, 99, 260)


def test_a_letter_outside_ascii_is_several_bytes(tokenizer: ElmoTokenizer) -> None:
    # "é" is 0xC3 0xA9, "東" is 0xE6 0x9D 0xB1.
    assert tokenizer.words_to_character_ids(["é", "東"]).tolist() == [
        row(259, 196, 170, 260),
        row(259, 231, 158, 178, 260),
    ]


def test_a_word_is_cut_after_48_bytes_even_within_a_character(tokenizer: ElmoTokenizer) -> None:
    ids = tokenizer.words_to_character_ids(["a" * 49, "a" * 47 + "é", "a" * 48])
    assert ids[0].tolist() == ids[2].tolist() == [259, *[98] * 48, 260]
    assert ids[1].tolist() == [259, *[98] * 47, 196, 260]


def test_boundaries_given_as_words_are_boundaries(tokenizer: ElmoTokenizer) -> None:
    assert tokenizer.convert_tokens_to_ids(["<S>", "</S>"]) == [row(259, 257, 260), row(259, 258, 260)]
    # Only the whole word.
    assert tokenizer.convert_tokens_to_ids("<S>s") == row(259, 61, 84, 63, 116, 260)


def test_the_empty_word_is_a_word(tokenizer: ElmoTokenizer) -> None:
    encoded = tokenizer(["a", "", "b"], is_split_into_words=True)
    assert encoded["input_ids"][1] == row(259, 260)
    assert encoded["attention_mask"] == [1, 1, 1]
    assert encoded.word_ids() == [0, 1, 2]


def test_a_null_character_and_a_lone_surrogate_have_no_effect_on_neighbours(tokenizer: ElmoTokenizer) -> None:
    ids = tokenizer.words_to_character_ids(["a\0", "\ud800b", "a"])
    assert ids.tolist() == [row(259, 98, 1, 260), row(259, 99, 260), row(259, 98, 260)]


def test_another_width_keeps_fewer_characters() -> None:
    narrow = ElmoTokenizer(max_characters_per_token=5)
    assert narrow.words_to_character_ids(["abcdef", "<S>"]).tolist() == [
        [259, 98, 99, 100, 260],
        [259, 257, 260, 261, 261],
    ]
    assert ElmoTokenizer(max_characters_per_token=3).words_to_character_ids(["</S>"]).tolist() == [[259, 258, 260]]
    assert narrow([], return_tensors="pt")["input_ids"].shape[:2] == (0, 0)


@patient
@given(st.lists(st.text(max_size=60)))
def test_character_ids_equal_a_plain_spelling(words: list[str]) -> None:
    def spelled(word: str) -> list[int]:
        if word in ("<S>", "</S>"):
            return row(BEGIN, BEGIN_SENTENCE if word == "<S>" else END_SENTENCE, END)
        return row(BEGIN, *(byte + 1 for byte in word.encode("utf-8", "ignore")[:48]), END)

    assert ElmoTokenizer().words_to_character_ids(words).tolist() == [spelled(word) for word in words]


def test_batch_to_ids_pads_with_zeros() -> None:
    ids = batch_to_ids([["a", "b"], [], ["c"]])
    assert ids.dtype == torch.int64
    assert ids.shape == (3, 2, 50)
    assert ids[:, :, 1].tolist() == [[98, 99], [0, 0], [100, 0]]
    assert ids[:, :, 0].tolist() == [[259, 259], [0, 0], [259, 0]]


def test_batch_to_ids_takes_any_iterable_of_words() -> None:
    expected = batch_to_ids([["a", "bc"], ["d"]])
    assert torch.equal(batch_to_ids(iter([("a", "bc"), iter(["d"])])), expected)
    assert torch.equal(batch_to_ids([np.array(["a", "bc"]), np.array(["d"])]), expected)
    assert batch_to_ids([]).shape == (0, 0, 50)
    assert batch_to_ids([[], []]).shape == (2, 0, 50)


@pytest.mark.parametrize("batch", ["a sentence", ["a sentence"], [["a"], "b"], [["a", 1]], [None], 3, None, [[["a"]]]])
def test_batch_to_ids_refuses_what_is_no_list_of_words(batch: Any) -> None:
    with pytest.raises(TypeError, match="must be a"):
        batch_to_ids(batch)


@pytest.mark.parametrize(
    "words", ["abc", ["a", 1], ["a", None], [["a", 1]], [["a"], "bc"], [["a"], [b"b"]], [1], [None]]
)
def test_the_tokenizer_refuses_what_is_no_list_of_words(tokenizer: ElmoTokenizer, words: Any) -> None:
    with pytest.raises(TypeError, match=r"must be a .*, was: "):
        tokenizer(words, is_split_into_words=True)


@pytest.mark.parametrize("text", [3, [3], [None], ["a", None], b"a", [["a", 3]], [("a", None)]])
def test_the_tokenizer_refuses_what_is_no_text(tokenizer: ElmoTokenizer, text: Any) -> None:
    with pytest.raises(TypeError, match=r"A text must be a `str`, was: "):
        tokenizer(text)


# Words of raw text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The U.S. dollar rose 5.2 %, to $1,234.56.", "The|U.S.|dollar|rose|5.2|%|,|to|$|1,234.56|."),
        ("I don't know; she'd've left.", "I|don|'t|know|;|she|'d've|left|."),
        ("well-known (1990's) rock'n'roll", "well-known|(|1990|'s|)|rock|'n'roll"),
        ("Mr. Smith, of No. 5, met Dr. No. Really?", "Mr.|Smith|,|of|No.|5|,|met|Dr.|No|.|Really|?"),
        ("At 5 p.m. He left... twice. etc. and so on.", "At|5|p.m.|He|left|...|twice.|etc.|and|so|on|."),
        ("'Hello,' he said, ''tis the dogs' bone.'", "'|Hello|,|'|he|said|,|'|'|tis|the|dogs|'|bone|.|'"),
        ("a,b 1,2,3, pp. 4 3.5. A", "a|,|b|1,2,3|,|pp.|4|3.5|.|A"),
        ('a/b@c_d & #e "f" …g—', 'a|/|b|@|c|_|d|&|#|e|"|f|"|…|g|—'),
        ("said--and `quoted' -- .net", "said--and|`quoted|'|--|.net"),
    ],
)
def test_words_are_those_of_moses(tokenizer: ElmoTokenizer, text: str, words: str) -> None:
    assert tokenizer.tokenize(text) == words.split("|")


_MOSES_TEXT = st.lists(
    st.sampled_from(
        ["a", "B", "Mr", "No", "U.S", "etc", "s", "5", "12", ".", ".", ",", "'", "-", "`", '"', "(", " ", " "]
    )
).map("".join)


@cache
def moses() -> MosesTokenizer:
    return MosesTokenizer("en")


@settings(max_examples=300, deadline=None)
@given(_MOSES_TEXT)
def test_words_of_any_text_are_those_of_sacremoses(text: str) -> None:
    # Between words, because sacremoses glues an apostrophe at either end of the text to its neighbour; and it leaves
    # the second of two commas or apostrophes unsplit when nothing (or one character, no letter) is between.
    text = f"x {text} y"
    assume(not re.search(r"'([^A-Za-z]|\s+)?'|,,", text))
    assert ElmoTokenizer().tokenize(text) == moses().tokenize(text, escape=False)


@patient
@given(st.text() | _MOSES_TEXT)
def test_words_are_slices_that_cover_all_but_white_space(text: str) -> None:
    encoded = ElmoTokenizer()(text, return_offsets_mapping=True)
    offsets = encoded["offset_mapping"]
    assert encoded.tokens() == [text[start:end] for start, end in offsets]
    bounds = [0, *(bound for offset in offsets for bound in offset), len(text)]
    assert bounds == sorted(bounds)
    between = "".join(text[start:end] for start, end in zip(bounds[::2], bounds[1::2], strict=True))
    assert all(character.isspace() or character < " " for character in between)
    assert not any(character.isspace() for token in encoded.tokens() for character in token)


@patient
@given(st.text() | st.text(st.sampled_from([chr(code) for code in range(0x3001) if chr(code).isspace()] + ["a"])))
def test_the_whitespace_splitter_is_that_of_python(text: str) -> None:
    assert ElmoTokenizer(word_splitter="whitespace").tokenize(text) == text.split()


def test_offsets_count_characters_whatever_their_bytes(tokenizer: ElmoTokenizer) -> None:
    text = "🙂\u00a0naïve\t東京 cafe\u0301,\nx"
    encoded = tokenizer(text, return_offsets_mapping=True)
    assert encoded.tokens() == ["🙂", "naïve", "東京", "cafe\u0301", ",", "x"]
    assert encoded["offset_mapping"] == [(0, 1), (2, 7), (8, 10), (11, 16), (16, 17), (18, 19)]


def test_a_lone_surrogate_in_raw_text_is_a_word_and_keeps_positions(tokenizer: ElmoTokenizer) -> None:
    encoded = tokenizer("a \ud800 b", return_offsets_mapping=True)
    assert encoded.tokens() == ["a", "\ud800", "b"]
    assert encoded["offset_mapping"] == [(0, 1), (2, 3), (4, 5)]


@pytest.mark.parametrize("piece", ["a", "1,", "a.", "-.", "a'", ".", "e\u0301", "No. ", " "])
def test_endless_words_neither_hang_nor_break(tokenizer: ElmoTokenizer, piece: str) -> None:
    # The regular expression engine gives up after ten million steps back within one word.
    text = piece * (1_000_000 // len(piece))
    assert sum(map(len, tokenizer.tokenize(text))) == len(text) - text.count(" ")


def test_an_unknown_splitter_or_width_is_an_error() -> None:
    with pytest.raises(ValueError, match="`word_splitter` must be one of moses, whitespace, characters, was: 'spacy'"):
        ElmoTokenizer(word_splitter="spacy")
    with pytest.raises(ValueError, match="`max_characters_per_token` must be at least 3, was: 2"):
        ElmoTokenizer(max_characters_per_token=2)
    with pytest.raises(TypeError, match="must be a whole number, was: '50'"):
        ElmoTokenizer(max_characters_per_token="50")


# Encodings


@cache
def fast_tokenizer(**options: Any) -> PreTrainedTokenizerFast:
    """A fast tokenizer of words between spaces, with the same two special tokens between the texts of a pair."""
    words = ["<pad>", "</S>", "<S>", *(f"w{number}" for number in range(40))]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="$A:0", pair="$A:0 </S>:0 <S>:1 $B:1", special_tokens=[("</S>", 1), ("<S>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", **options)


_WORDS = st.lists(st.integers(0, 39).map("w{}".format), min_size=1, max_size=12)
_SIDE = st.sampled_from(["left", "right"])
_CALLS = st.fixed_dictionaries(
    {
        "truncation": st.sampled_from([True, False, "longest_first", "only_first", "only_second"]),
        "padding": st.sampled_from([True, False, "longest", "max_length"]),
        # At least a word of each text of a pair.
        "max_length": st.integers(4, 20),
        "stride": st.integers(0, 3),
        "padding_side": _SIDE,
        "add_special_tokens": st.booleans(),
        "return_overflowing_tokens": st.booleans(),
        "is_split_into_words": st.booleans(),
        "pad_to_multiple_of": st.sampled_from([None, 4]),
    }
)


def assert_same_encoding(given: Any, expected: Any) -> None:
    """All attributes and methods that `BatchEncoding` uses, other than the ids, which follow the tokens."""
    for name in ("tokens", "offsets", "word_ids", "sequence_ids", "n_sequences"):
        assert getattr(given, name) == getattr(expected, name), name
    for name in ("special_tokens_mask", "attention_mask", "type_ids"):
        assert getattr(given, name) == getattr(expected, name), name
    assert len(given) == len(expected)
    for name in ("token_to_sequence", "token_to_word", "token_to_chars"):
        for token in range(len(expected) + 1):
            assert getattr(given, name)(token) == getattr(expected, name)(token), (name, token)
    for name in ("word_to_tokens", "word_to_chars", "char_to_token", "char_to_word"):
        for place in itertools.product(range(14), range(expected.n_sequences)):
            assert getattr(given, name)(*place) == getattr(expected, name)(*place), (name, place)
    assert given.ids == ElmoTokenizer().convert_tokens_to_ids(given.tokens)


@settings(max_examples=300, deadline=None)
@given(
    batch=st.lists(_WORDS, min_size=1, max_size=3) | st.lists(st.tuples(_WORDS, _WORDS), min_size=1, max_size=3),
    is_batch=st.booleans(),
    sides=st.tuples(_SIDE, _SIDE),
    options=_CALLS,
)
def test_encodings_have_the_structure_of_a_fast_tokenizer(
    batch: list, is_batch: bool, sides: tuple[str, str], options: dict[str, Any]
) -> None:
    if not options["is_split_into_words"]:
        batch = [tuple(map(" ".join, item)) if isinstance(item, tuple) else " ".join(item) for item in batch]
    arguments: tuple = (batch,) if is_batch else batch[0] if isinstance(batch[0], tuple) else (batch[0],)
    # transformers 4 takes a batch of pairs of word lists in this form only.
    reference = tuple(zip(*batch, strict=True)) if is_batch and isinstance(batch[0], tuple) else arguments
    options = options | dict.fromkeys(
        ["return_offsets_mapping", "return_special_tokens_mask", "return_token_type_ids", "return_length"], True
    )
    tokenizers = [kind(padding_side=sides[0], truncation_side=sides[1]) for kind in (ElmoTokenizer, fast_tokenizer)]
    try:
        given = tokenizers[0](*arguments, **options, verbose=False)
    except ValueError as error:
        # A stride as long as the window is a crash of the Rust library.
        assume("`stride`" not in str(error))
        # It may crash at another text of the batch before it refuses this one, and its crash is no `Exception`.
        with pytest.raises(BaseException, match=r"[Tt]runcat|`stride` must be strictly less"):
            tokenizers[1](*reference, **options, verbose=False)
        return
    expected = tokenizers[1](*reference, **options, verbose=False)

    assert given.keys() == expected.keys()
    for name in given.keys() - {"input_ids"}:
        assert given[name] == expected[name], name
    for ours, theirs in zip(given.encodings, expected.encodings, strict=True):
        assert_same_encoding(ours, theirs)


def test_the_first_window_has_the_others_as_overflow(tokenizer: ElmoTokenizer) -> None:
    options: dict[str, Any] = {"truncation": True, "max_length": 2, "stride": 1, "padding": True}
    encoded = tokenizer(["a", "b c d e"], return_overflowing_tokens=True, **options)
    assert [one.tokens for one in encoded[1].overflowing] == [["c", "d"], ["d", "e"]]
    assert encoded["overflow_to_sample_mapping"] == [0, 1, 1, 1]
    assert encoded[2].word_ids == [1, 2]
    assert encoded[0].overflowing == encoded[2].overflowing == []
    assert tokenizer("b c d e", **options)[0].overflowing == []


def test_a_stride_as_long_as_the_window_is_an_error(tokenizer: ElmoTokenizer) -> None:
    with pytest.raises(ValueError, match="`stride` must be less than the 2 words that `max_length` leaves, was: 2"):
        tokenizer("a b c d", truncation=True, max_length=2, stride=2, return_overflowing_tokens=True)


def test_truncation_that_cannot_be_done_is_an_error(tokenizer: ElmoTokenizer) -> None:
    with pytest.raises(ValueError, match="`max_length` must be at least 2 for the boundaries of a pair, was: 1"):
        tokenizer("a", "b", truncation=True, max_length=1)
    with pytest.raises(
        ValueError, match="must leave a word of the text that 'only_second' cuts; the other has 3 words"
    ):
        tokenizer("a b c", "d e", truncation="only_second", max_length=5)
    with pytest.raises(ValueError, match="`truncation='only_second'` needs a `text_pair`"):
        tokenizer("a b c", truncation="only_second", max_length=2)


def test_a_pair_has_the_boundaries_of_two_sentences_between(tokenizer: ElmoTokenizer) -> None:
    encoded = tokenizer("a b", "c", return_special_tokens_mask=True, return_token_type_ids=True)
    assert encoded.tokens() == ["a", "b", "</S>", "<S>", "c"]
    assert encoded["special_tokens_mask"] == [0, 0, 1, 1, 0]
    assert encoded["token_type_ids"] == [0, 0, 0, 1, 1]
    assert encoded.sequence_ids() == [0, 0, None, None, 1]
    assert "token_type_ids" not in tokenizer("a", "b")
    rows = tokenizer.convert_tokens_to_ids(["a", "b"]), tokenizer.convert_tokens_to_ids(["c"])
    assert tokenizer.build_inputs_with_special_tokens(*rows) == encoded["input_ids"]
    assert tokenizer.create_token_type_ids_from_sequences(*rows) == encoded["token_type_ids"]
    assert tokenizer.get_special_tokens_mask(*rows) == encoded["special_tokens_mask"]
    assert tokenizer.get_special_tokens_mask(encoded["input_ids"], already_has_special_tokens=True) == [0, 0, 1, 1, 0]


@pytest.mark.parametrize("return_tensors", ["pt", "np"])
def test_tensors_hold_what_lists_hold(tokenizer: ElmoTokenizer, return_tensors: str) -> None:
    wanted: dict[str, Any] = {"padding": True, "return_offsets_mapping": True, "return_special_tokens_mask": True}
    batch = [("The bank's muddy.", "Yes"), ("a", "b c d e f g")]
    lists = tokenizer(batch, **wanted)
    tensors = tokenizer(batch, return_tensors=return_tensors, **wanted)
    assert tensors.keys() == lists.keys()
    for name, value in tensors.items():
        assert isinstance(value, torch.Tensor if return_tensors == "pt" else np.ndarray)
        assert str(value.dtype).endswith("int64")
        expected = [[list(pair) for pair in offsets] for offsets in lists[name]] if "offset" in name else lists[name]
        assert value.tolist() == expected
    assert tensors["input_ids"].shape == (2, 9, 50)


def test_a_single_text_has_a_batch_axis_only_as_a_tensor(tokenizer: ElmoTokenizer) -> None:
    assert len(tokenizer("a b")["input_ids"]) == 2
    assert tokenizer("a b", return_tensors="pt")["input_ids"].shape == (1, 2, 50)
    assert tokenizer("a b", return_length=True)["length"] == [2]


def test_nothing_to_encode_has_the_right_shapes(tokenizer: ElmoTokenizer) -> None:
    assert tokenizer("")["input_ids"] == []
    wanted: dict[str, Any] = {"return_tensors": "pt", "return_offsets_mapping": True}
    for batch, words in (([], ()), ([""], (1, 0)), (["", "a"], (2, 1))):
        encoded = tokenizer(batch, padding=True, **wanted)
        words = words or (0, 0)
        assert encoded["input_ids"].shape == (*words, 50)
        assert encoded["attention_mask"].shape == words
        assert encoded["offset_mapping"].shape == (*words, 2)
        assert encoded["attention_mask"].dtype == torch.int64
    assert tokenizer([], is_split_into_words=True)["input_ids"] == []
    assert tokenizer([[], ["a"]], is_split_into_words=True, padding=True)["attention_mask"] == [[0], [1]]


def test_sentences_of_several_lengths_need_padding_to_become_a_tensor(tokenizer: ElmoTokenizer) -> None:
    with pytest.raises(ValueError, match=r"`input_ids` must have one length .* has: 1, 2\. Pass `padding=True`"):
        tokenizer(["a", "b c"], return_tensors="pt")


def test_encodings_say_where_a_word_is_in_the_text(tokenizer: ElmoTokenizer) -> None:
    text = "Don't panic, Élodie!"
    encoded = tokenizer(text)
    assert encoded.is_fast
    for index, character in enumerate(text):
        token = encoded.char_to_token(index)
        if character == " ":
            assert token is None
        else:
            start, end = encoded.token_to_chars(token)
            assert start <= index < end
            assert encoded.word_to_chars(encoded.char_to_word(index)) == (start, end)
            assert encoded.word_to_tokens(encoded.token_to_word(token)) == (token, token + 1)


def test_offsets_of_given_words_count_within_the_word(tokenizer: ElmoTokenizer) -> None:
    encoded = tokenizer(["don't", "", "U.S. dollar"], is_split_into_words=True, return_offsets_mapping=True)
    assert encoded.tokens() == ["don't", "", "U.S. dollar"]
    assert encoded["offset_mapping"] == [(0, 5), (0, 0), (0, 11)]


def test_targets_become_labels(tokenizer: ElmoTokenizer) -> None:
    encoded = tokenizer("a b", text_target="c")
    assert encoded["labels"] == [row(259, 100, 260)]


def test_prepare_for_model_equals_a_call(tokenizer: ElmoTokenizer) -> None:
    ids = [tokenizer.convert_tokens_to_ids(words) for words in (["a", "b", "c"], ["d", "e"])]
    options: dict[str, Any] = {"truncation": "only_first", "max_length": 6, "return_special_tokens_mask": True}
    assert dict(tokenizer.prepare_for_model(*ids, **options)) == dict(tokenizer("a b c", "d e", **options))
    assert tokenizer.prepare_for_model(ids[0], return_tensors="pt")["input_ids"].shape == (3, 50)
    batched = tokenizer.prepare_for_model(ids[0], return_tensors="pt", prepend_batch_axis=True)
    assert batched["input_ids"].shape == (1, 3, 50)
    assert tokenizer.encode("a b c") == ids[0]


def test_an_argument_that_is_not_known_is_named_in_a_warning(
    tokenizer: ElmoTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    monkeypatch.setattr("elmo_hf.tokenization_elmo.logger.warning", messages.append)
    tokenizer("a", is_slow=True)
    assert messages == ["Not used by ElmoTokenizer: is_slow."]


# Back to words


@patient
@given(st.lists(st.text(max_size=16).filter(lambda word: word != "<pad>"), max_size=5))
def test_ids_become_the_words_again(words: list[str]) -> None:
    tokenizer = ElmoTokenizer()
    words = [word.encode("utf-8", "ignore").decode() for word in words]
    words = [word for word in words if len(word.encode()) <= 48]
    ids = tokenizer.convert_tokens_to_ids(words)
    assert tokenizer.convert_ids_to_tokens(ids) == words
    assert tokenizer.convert_ids_to_tokens(np.array(ids).reshape(-1, 50)) == words
    assert tokenizer.decode(torch.tensor(ids).reshape(-1, 50)) == " ".join(words)
    assert [tokenizer.convert_ids_to_tokens(one) for one in ids] == words


def test_decoding_leaves_out_boundaries_and_padding_if_asked(tokenizer: ElmoTokenizer) -> None:
    batch = tokenizer([("a b", "c"), ("d", "e")], padding=True, return_tensors="pt")["input_ids"]
    assert tokenizer.decode(batch) == ["a b </S> <S> c", "d </S> <S> e <pad>"]
    assert tokenizer.batch_decode(batch, skip_special_tokens=True) == ["a b c", "d e"]
    assert tokenizer.decode(batch[1].tolist(), skip_special_tokens=True) == "d e"
    assert tokenizer.decode([]) == ""
    assert tokenizer.batch_decode([[], batch[1]]) == ["", "d </S> <S> e <pad>"]
    assert tokenizer.decode([[], batch[0].tolist()]) == ["", "a b </S> <S> c"]


def test_bytes_that_are_no_text_are_replaced(tokenizer: ElmoTokenizer) -> None:
    assert tokenizer.convert_ids_to_tokens(row(259, 98, 196, 260)) == "a\ufffd"


def test_padding_reads_and_writes_as_the_padding_token(tokenizer: ElmoTokenizer) -> None:
    assert tokenizer.convert_ids_to_tokens([[0] * 50]) == ["<pad>"]
    assert tokenizer.convert_tokens_to_ids(["<pad>"]) == [[0] * 50]
    # In a sentence it is a word like any other: five letters, which nothing masks.
    encoded = tokenizer(["<pad>"], is_split_into_words=True)
    assert encoded["input_ids"] == [row(259, 61, 113, 98, 101, 63, 260)]


@pytest.mark.parametrize("ids", [262, -1, [[262] * 50], [[-1] * 50], [[0] * 49], [1, 2, 3], np.zeros((2, 51), int)])
def test_ids_that_are_none_are_an_error(tokenizer: ElmoTokenizer, ids: Any) -> None:
    with pytest.raises(ValueError, match="must be"):
        tokenizer.convert_ids_to_tokens(ids)


# The vocabulary


def test_the_vocabulary_is_the_262_characters(tokenizer: ElmoTokenizer) -> None:
    vocabulary = tokenizer.get_vocab()
    assert len(vocabulary) == len(tokenizer) == tokenizer.vocab_size == 262
    assert sorted(vocabulary.values()) == list(range(262))
    assert tokenizer.convert_ids_to_tokens(0x41 + 1) == "<0x41>"
    assert vocabulary["<0x41>"] == 0x42
    assert (vocabulary["<pad>"], vocabulary["<S>"], vocabulary["</S>"]) == (0, BEGIN_SENTENCE, END_SENTENCE)
    assert tokenizer.save_vocabulary("nowhere") == ()


def test_special_tokens_have_integer_ids_or_are_not_set(tokenizer: ElmoTokenizer) -> None:
    # The Trainer copies these into the model's configuration.
    assert tokenizer.pad_token_id == 0
    assert tokenizer.bos_token_id is tokenizer.eos_token_id is None
    assert tokenizer.all_special_tokens == ["<pad>"]
    assert tokenizer.all_special_ids == [0]


def test_nothing_can_be_added_to_the_vocabulary(tokenizer: ElmoTokenizer) -> None:
    for add in (
        lambda: tokenizer.add_tokens(["ent1"]),
        lambda: tokenizer.add_tokens("ent1", special_tokens=True),
        lambda: tokenizer.add_special_tokens({"cls_token": "[CLS]"}),
        lambda: tokenizer.add_special_tokens({"additional_special_tokens": ["[X]"]}),
    ):
        with pytest.raises(ValueError, match="every word has ids already"):
            add()
    assert tokenizer.add_tokens([]) == tokenizer.add_special_tokens({"pad_token": "<pad>"}) == 0
    assert tokenizer.cls_token is None


# Padding afterwards, as collators do


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["list", "np", "pt"])
@pytest.mark.parametrize("form", ["features", "columns"])
def test_padding_afterwards_equals_padding_at_once(side: str, kind: str, form: str) -> None:
    tokenizer = ElmoTokenizer(padding_side=side)
    texts = ["a b c", "", "d e"]
    wanted: dict[str, Any] = {"return_special_tokens_mask": True, "return_offsets_mapping": True}
    expected = tokenizer(texts, padding=True, pad_to_multiple_of=4, **wanted)
    features: list[dict[str, Any]] = [dict(tokenizer(text, **wanted)) for text in texts]
    if kind != "list":
        shapes = {"input_ids": (-1, 50), "offset_mapping": (-1, 2)}
        features = [
            {name: np.array(value, dtype=int).reshape(shapes.get(name, -1)) for name, value in feature.items()}
            for feature in features
        ]
    if kind == "pt":
        features = [{name: torch.from_numpy(value) for name, value in feature.items()} for feature in features]
    columns = {name: [feature[name] for feature in features] for name in features[0]}
    padded = tokenizer.pad(features if form == "features" else columns, pad_to_multiple_of=4)
    assert isinstance(padded["input_ids"], {"list": list, "np": np.ndarray, "pt": torch.Tensor}[kind])
    for name, value in expected.items():
        pairs = [[list(pair) for pair in offsets] for offsets in value] if name == "offset_mapping" else value
        assert np.array_equal(np.asarray(padded[name]), np.asarray(pairs)), name


def test_a_single_sequence_is_padded_without_a_batch_axis(tokenizer: ElmoTokenizer) -> None:
    padded = tokenizer.pad(tokenizer("a b"), padding="max_length", max_length=4)
    assert padded["attention_mask"] == [1, 1, 0, 0]
    assert len(padded["input_ids"]) == 4
    assert tokenizer.pad({"input_ids": []}, padding="max_length", max_length=1)["input_ids"] == [[0] * 50]
    assert tokenizer.pad(tokenizer("a b c"), padding="max_length", max_length=2)["attention_mask"] == [1, 1, 1]


def test_padding_needs_ids_of_the_right_shape(tokenizer: ElmoTokenizer) -> None:
    with pytest.raises(ValueError, match="`encoded_inputs` must have `input_ids`, has: labels"):
        tokenizer.pad([{"labels": 1}])
    with pytest.raises(ValueError, match=r"must be \(words, 50\), was: \(2, 49\)"):
        tokenizer.pad([{"input_ids": [[0] * 49] * 2}])
    with pytest.raises(ValueError, match=r"must be \(words, 50\), was: \(2, 0\)"):
        tokenizer.pad([{"input_ids": [1, 2]}])
    with pytest.raises(ValueError, match="`padding_side` must be left or right, was: 'top'"):
        tokenizer.pad([tokenizer("a")], padding_side="top")


def test_collators_pad_words_and_labels(tokenizer: ElmoTokenizer) -> None:
    features = [{**tokenizer("a b c"), "label": 1}, {**tokenizer("d"), "label": 0}]
    batch = DataCollatorWithPadding(tokenizer)(features)
    assert batch["input_ids"].shape == (2, 3, 50)
    assert batch["labels"].tolist() == [1, 0]
    features = [{**tokenizer("a b c"), "labels": [1, 2, 3]}, {**tokenizer("d"), "labels": [4]}]
    batch = DataCollatorForTokenClassification(tokenizer)(features)
    assert batch["labels"].tolist() == [[1, 2, 3], [4, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["input_ids"][1, 1:].eq(0).all()


# Saved, copied, shared


def test_options_survive_saving(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "word_splitter": "whitespace",
        "max_characters_per_token": 20,
        "padding_side": "left",
        "truncation_side": "left",
        "model_max_length": 77,
        "pad_token": "<nothing>",
    }
    ElmoTokenizer(**options).save_pretrained(tmp_path)
    loaded = ElmoTokenizer.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in options} == options
    assert loaded.tokenize("don't") == ["don't"]


def test_saving_writes_what_remote_code_needs(tmp_path: Path) -> None:
    ElmoTokenizer().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["auto_map"] == {"AutoTokenizer": ["tokenization_elmo.ElmoTokenizer", None]}
    source = Path(inspect.getfile(ElmoTokenizer))
    assert (tmp_path / "tokenization_elmo.py").read_bytes() == source.read_bytes()


def test_copies_and_threads_encode_alike(tokenizer: ElmoTokenizer) -> None:
    texts = [f"Text {number} isn't long, is it?" for number in range(200)]
    expected = [tokenizer(text)["input_ids"] for text in texts]
    for twin in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
        assert [twin(text)["input_ids"] for text in texts] == expected
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: tokenizer(text)["input_ids"], texts)) == expected


def test_encodings_can_be_pickled(tokenizer: ElmoTokenizer) -> None:
    encoded = tokenizer(["a b", "c"], padding=True, return_tensors="np")
    again = pickle.loads(pickle.dumps(encoded))
    assert again.word_ids(1) == [0, None]
    assert again[0].tokens == ["a", "b"]
    assert np.array_equal(again["input_ids"], encoded["input_ids"])


def test_encoding_does_not_change_the_fingerprint() -> None:
    tokenizer = ElmoTokenizer(model_max_length=2)
    fingerprint = Hasher.hash(tokenizer)
    tokenizer(["a b c", "d"], padding=True, return_tensors="pt")
    tokenizer.pad([tokenizer("a")])
    assert Hasher.hash(tokenizer) == fingerprint == Hasher.hash(ElmoTokenizer(model_max_length=2))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_dataset_is_mapped_by_two_processes(tokenizer: ElmoTokenizer) -> None:
    texts = ["The bank's muddy.", "", "Yes", "a b c"]
    mapped = datasets.Dataset.from_dict({"text": texts}).map(
        lambda batch: tokenizer(batch["text"]), batched=True, num_proc=2
    )
    assert list(mapped["input_ids"]) == tokenizer(texts)["input_ids"]
    assert list(mapped["attention_mask"]) == tokenizer(texts)["attention_mask"]
