"""The tokenizer tests of the installed transformers, run on `ElmoTokenizer`."""

import unittest
from typing import Any

import pytest
import transformers

from elmo_hf.tokenization_elmo import ElmoTokenizer
from tests.upstream import import_upstream, leave_out, names_to_check, results_of

TokenizerTesterMixin: Any = import_upstream("test_tokenization_common").TokenizerTesterMixin

_ADDS_TOKENS = "adds tokens to a word vocabulary; here every word has ids, and `add_tokens` raises"
_INTEGER_IDS = "expects one integer a token"
_PYTHON_LAYOUT = (
    "expects a length warning and the `overflowing_tokens` of Python tokenizers, not the windows of fast ones"
)
_SENTENCEPIECE = "for sentencepiece models"
_TWO_CLASSES = "for a slow class with a fast twin"
_SLOW = "of the slow suite, which looks the class up among the models of the library"

# Tests that do not apply, with the reason. A test below checks that each of them exists and does not pass.
INAPPLICABLE = {
    "test_chat_template_save_loading": "for constructors that name `chat_template`",
    "test_conversion_reversible": _INTEGER_IDS,
    "test_encode_plus_with_padding": _INTEGER_IDS,
    "test_get_vocab": _ADDS_TOKENS,
    "test_maximum_encoding_length_pair_input": _PYTHON_LAYOUT,
    "test_maximum_encoding_length_single_input": _PYTHON_LAYOUT,
    "test_padding_with_attention_mask": _INTEGER_IDS,
    "test_save_and_load_tokenizer": _ADDS_TOKENS,
    "test_tokenize_special_tokens": _ADDS_TOKENS,
    "test_tokenizers_common_ids_setters": _INTEGER_IDS,
}
if transformers.__version__.startswith("4."):
    INAPPLICABLE |= {
        "test_add_special_tokens": _ADDS_TOKENS,
        "test_add_tokens_tokenizer": _ADDS_TOKENS,
        "test_added_token_are_matched_longest_first": _ADDS_TOKENS,
        "test_added_token_serializable": _ADDS_TOKENS,
        "test_added_tokens_do_lower_case": _ADDS_TOKENS,
        "test_encode_decode_fast_slow_all_tokens": "skips itself since transformers pull request 29473",
        "test_encode_decode_with_spaces": _ADDS_TOKENS,
        "test_np_encode_plus_sent_to_model": _SLOW,
        "test_padding_warning_message_fast_tokenizer": _TWO_CLASSES,
        "test_pickle_subword_regularization_tokenizer": _SENTENCEPIECE,
        "test_right_and_left_padding": _INTEGER_IDS,
        "test_rust_and_python_full_tokenizers": _TWO_CLASSES,
        "test_rust_tokenizer_add_prefix_space": _TWO_CLASSES,
        "test_rust_tokenizer_signature": _TWO_CLASSES,
        "test_save_sentencepiece_tokenizer": _SENTENCEPIECE,
        "test_save_slow_from_fast_and_reload_fast": _TWO_CLASSES,
        "test_sentencepiece_tokenize_and_convert_tokens_to_string": _SENTENCEPIECE,
        "test_sentencepiece_tokenize_and_decode": _SENTENCEPIECE,
        "test_special_tokens_initialization_with_non_empty_additional_special_tokens": _ADDS_TOKENS,
        "test_subword_regularization_tokenizer": _SENTENCEPIECE,
        "test_tokenizer_fast_store_full_signature": _TWO_CLASSES,
        "test_torch_encode_plus_sent_to_model": _SLOW,
        "test_training_new_tokenizer": _TWO_CLASSES,
        "test_training_new_tokenizer_with_special_tokens_change": _TWO_CLASSES,
    }
else:
    INAPPLICABLE |= {
        "test_encode_basic_padding": _INTEGER_IDS,
        "test_integration": "for expected outputs that the test module of a model provides",
        "test_integration_from_extractor": "for vocabularies extracted from a tokenizer.json",
        "test_sequence_ids": "for the `TokenizersBackend` class",
    }


class _Contract(TokenizerTesterMixin):
    tokenizer_class = ElmoTokenizer
    from_pretrained_id: list[str] = []
    test_rust_tokenizer = False

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        ElmoTokenizer().save_pretrained(cls.tmpdirname)

    def get_clean_sequence(
        self,
        tokenizer: ElmoTokenizer,
        with_prefix_space: bool = False,
        max_length: int | None = 20,
        min_length: int = 5,
    ) -> tuple[str, list]:
        """A text of at most 20 words and its ids; the original takes its words from an integer vocabulary."""
        text = "The river bank was muddy but Main Street raised its rates by a quarter of that"
        text = " " * with_prefix_space + " ".join(text.split()[:max_length])
        return text, tokenizer.encode(text, add_special_tokens=False)


# Some tests leave files open, and one calls deprecated methods on purpose.
@pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning",
    r"ignore:\W*prepare_seq2seq_batch:FutureWarning",
    "ignore:`as_target_tokenizer`:UserWarning",
)
class ElmoTokenizerContractTest(_Contract, unittest.TestCase):
    pass


leave_out(ElmoTokenizerContractTest, INAPPLICABLE)


@pytest.mark.parametrize("name", names_to_check(_Contract, INAPPLICABLE))
def test_a_test_left_out_exists_and_does_not_pass(name: str) -> None:
    assert not all(results_of(_Contract, name))
