# SPDX-License-Identifier: Apache-2.0
"""What the pipelines of transformers must be told about ELMo: that a token is a row of character ids."""

from collections.abc import Sequence
from functools import wraps
from typing import Any

from transformers.pipelines.token_classification import TokenClassificationPipeline

# Marks our method, of which `trust_remote_code` makes a second copy beside an installed package.
_MARK = "_reads_rows_of_character_ids"


def patch_token_classification_pipeline():
    """
    Lets token classification, which asks each token for its one id, take rows of ids as well. Nothing changes for
    other models. May be called any number of times, and holds for pipelines that are built without `pipeline()` too.
    """
    one_id_a_token = TokenClassificationPipeline.gather_pre_entities
    if hasattr(one_id_a_token, _MARK):
        return

    @wraps(one_id_a_token)
    def gather_pre_entities(
        self: TokenClassificationPipeline,
        sentence: str,
        input_ids: Any,
        scores: Any,
        offset_mapping: Any,
        special_tokens_mask: Any,
        aggregation_strategy: Any,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        if input_ids.ndim == 1:
            return one_id_a_token(
                self, sentence, input_ids, scores, offset_mapping, special_tokens_mask, aggregation_strategy, **kwargs
            )
        return _gather_words(sentence, scores, offset_mapping, special_tokens_mask, **kwargs)

    setattr(gather_pre_entities, _MARK, True)
    TokenClassificationPipeline.gather_pre_entities = gather_pre_entities  # type: ignore


def _gather_words(
    sentence: str,
    scores: Any,
    offset_mapping: Any,
    special_tokens_mask: Any,
    word_ids: Sequence[int | None] | None = None,
    word_to_chars_map: Sequence[tuple[int, int]] | None = None,
) -> list[dict[str, Any]]:
    """
    One entry a word, as `TokenClassificationPipeline` groups them.

    Args:
        sentence: the text, given words joined by the pipeline's delimiter.
        scores: (words, labels) probabilities.
        offset_mapping: (words, 2) start and end in the text, or in the word itself if words were given.
        special_tokens_mask: (words,) 1 where the text has no word.
        word_ids: which of the given words each row is.
        word_to_chars_map: start and end of the given words in `sentence`.
    """
    words = []
    for index, (word_scores, offsets) in enumerate(zip(scores, offset_mapping, strict=True)):
        if special_tokens_mask[index]:
            continue
        start, end = map(int, offsets)
        word_id = None if word_ids is None or word_to_chars_map is None else word_ids[index]
        if word_id is not None and word_to_chars_map is not None:
            shift = word_to_chars_map[word_id][0]
            start, end = start + shift, end + shift
        words.append(
            {
                # The ids hold 48 bytes of a word, the text all of it.
                "word": sentence[start:end],
                "scores": word_scores,
                "start": start,
                "end": end,
                "index": index,
                "is_subword": False,
            }
        )
    return words


__all__ = ["patch_token_classification_pipeline"]
