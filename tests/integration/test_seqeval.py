"""seqeval: scores of whole entities, as `Trainer` asks for them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from transformers import EvalPrediction

O, B, I, PAD = 0, 1, 2, -100  # noqa: E741 (names of the scheme)


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")
def test_the_recipe_counts_whole_entities_and_no_padding(run_recipe: Callable[[str], dict[str, Any]]):
    found = run_recipe("Entity scores with seqeval")
    right = np.array([[B, I, O, O, B, O], [O, B, O, PAD, PAD, PAD]])

    def scores(tags: list[list[int]]) -> dict[str, float]:
        return found["compute_metrics"](EvalPrediction(np.eye(3)[np.array(tags)], right))

    # What stands at padding is no entity.
    assert scores([[B, I, O, O, B, O], [O, B, O, B, I, B]]) == {"f1": 1.0, "precision": 1.0, "recall": 1.0}
    # Half of a name is none.
    wrong = scores([[B, O, O, O, B, O], [O, O, O, O, O, O]])
    assert wrong == pytest.approx({"f1": 0.4, "precision": 1 / 2, "recall": 1 / 3})
    assert scores([[O] * 6] * 2) == {"f1": 0.0, "precision": 0.0, "recall": 0.0}

    predicted = found["trainer"].predict(found["trainer"].eval_dataset)
    expected = found["compute_metrics"](EvalPrediction(predicted.predictions, predicted.label_ids))
    assert expected == {name: found["scores"][f"eval_{name}"] for name in expected}
