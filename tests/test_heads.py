"""The heads: what they compute, what their losses are, and what freezing the biLM saves."""

import re
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from elmo_hf import (
    ElmoConfig,
    ElmoForMultipleChoice,
    ElmoForPreTraining,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
    lstm_elmo,
    modeling_elmo,
)
from tests.tiny import SENTENCES, character_ids, tiny_config, tiny_model

HEADS = [
    ElmoForTokenClassification,
    ElmoForSequenceClassification,
    ElmoForQuestionAnswering,
    ElmoForMultipleChoice,
]
AUTO_CLASSES = {
    ElmoForTokenClassification: AutoModelForTokenClassification,
    ElmoForSequenceClassification: AutoModelForSequenceClassification,
    ElmoForQuestionAnswering: AutoModelForQuestionAnswering,
    ElmoForMultipleChoice: AutoModelForMultipleChoice,
}
# Sums in another order.
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}


def head(model_class: type, seed: int = 0, **overrides: Any) -> Any:
    return tiny_model(seed, model_class, **{"num_labels": 3, "dropout": 0.0, **overrides})


def inputs_for(model_class: type) -> dict[str, Tensor]:
    """Four sentences, or two choices each for two questions, and labels for them."""
    ids = character_ids(SENTENCES)
    if model_class is ElmoForTokenClassification:
        classes = torch.arange(ids.shape[0] * ids.shape[1]).view(ids.shape[:2]) % 3
        return {"input_ids": ids, "labels": classes.masked_fill(~(ids != 0).any(-1), -100)}
    if model_class is ElmoForSequenceClassification:
        return {"input_ids": ids, "labels": torch.tensor([0, 2, 1, 1])}
    if model_class is ElmoForQuestionAnswering:
        return {
            "input_ids": ids,
            "start_positions": torch.tensor([1, 0, 0, 9]),
            "end_positions": torch.tensor([2, 6, 0, 10]),
        }
    return {"input_ids": ids.unflatten(0, (2, 2)), "labels": torch.tensor([1, 0])}


def scores_of(outputs: Any) -> Tensor:
    return outputs.logits if "logits" in outputs else torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


# What they compute


def test_a_token_classifier_is_a_linear_layer_over_the_first_mix():
    model = head(ElmoForTokenClassification, num_output_representations=2)
    ids = character_ids()
    mixed = model.elmo(ids).elmo_representations[0]
    torch.testing.assert_close(model(ids).logits, mixed @ model.classifier.weight.T + model.classifier.bias)


def test_a_bilstm_reads_each_sentence_as_if_it_were_alone_and_unpadded():
    model = head(ElmoForTokenClassification, head_lstm_size=5)
    ids = character_ids()
    logits = model(ids).logits
    assert model.classifier.in_features == 10
    for row, sentence in enumerate(SENTENCES):
        mixed = model.elmo(ids[row : row + 1, : len(sentence)]).last_hidden_state[0]
        states, _ = model.context.lstm(mixed)
        torch.testing.assert_close(logits[row, : len(sentence)], model.classifier(states), **ROUNDING)


@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
@pytest.mark.parametrize("head_lstm_size", [None, 5])
def test_a_sentence_is_pooled_over_its_words_alone(pooling: str, head_lstm_size: int | None):
    model = head(ElmoForSequenceClassification, sentence_pooling=pooling, head_lstm_size=head_lstm_size)
    logits = model(character_ids()).logits
    for row, sentence in enumerate(SENTENCES):
        words = model.elmo(character_ids([sentence])).last_hidden_state[0]
        if head_lstm_size is not None:
            words, _ = model.context.lstm(words)
        half = words.shape[1] // 2
        pooled = {
            "mean": words.mean(0),
            "max": words.amax(0),
            "last": torch.cat([words[-1, :half], words[0, half:]]),
        }[pooling]
        torch.testing.assert_close(logits[row], model.classifier(pooled), **ROUNDING)


@pytest.mark.parametrize("head_lstm_size", [None, 5])
@pytest.mark.parametrize(
    ("model_class", "pooling"),
    [
        (ElmoForTokenClassification, "mean"),
        (ElmoForSequenceClassification, "mean"),
        (ElmoForSequenceClassification, "max"),
        (ElmoForSequenceClassification, "last"),
        (ElmoForQuestionAnswering, "mean"),
        (ElmoForMultipleChoice, "last"),
    ],
)
def test_neither_padding_nor_its_side_nor_empty_neighbours_change_scores(
    model_class: type, head_lstm_size: int | None, pooling: str
):
    model = head(model_class, sentence_pooling=pooling, head_lstm_size=head_lstm_size)
    ids = character_ids([*SENTENCES, []], width=13)
    on_the_left = torch.stack([row.roll(13 - len(words), 0) for row, words in zip(ids, [*SENTENCES, []], strict=True)])
    per_word = model_class in (ElmoForTokenClassification, ElmoForQuestionAnswering)
    if model_class is ElmoForMultipleChoice:
        ids, on_the_left = ids.unsqueeze(0), on_the_left.unsqueeze(0)
    right, left = scores_of(model(ids)), scores_of(model(on_the_left))
    assert right.isfinite().all()
    for row, sentence in enumerate(SENTENCES):
        alone = character_ids([sentence])
        expected = scores_of(model(alone.unsqueeze(0) if model_class is ElmoForMultipleChoice else alone))
        expected = expected[0, 0] if model_class is ElmoForMultipleChoice else expected[0]
        for scores, at in ((right, slice(0, len(sentence))), (left, slice(13 - len(sentence), 13))):
            given = scores[0, row] if model_class is ElmoForMultipleChoice else scores[row]
            torch.testing.assert_close(given[at] if per_word else given, expected, **ROUNDING)


@pytest.mark.parametrize("pooling", ["mean", "max", "last"])
@pytest.mark.parametrize("head_lstm_size", [None, 5])
def test_a_text_without_words_has_the_scores_of_a_zero_vector(pooling: str, head_lstm_size: int | None):
    model = head(ElmoForSequenceClassification, sentence_pooling=pooling, head_lstm_size=head_lstm_size)
    torch.testing.assert_close(model(torch.zeros(1, 0, 50, dtype=torch.long)).logits[0], model.classifier.bias)
    torch.testing.assert_close(model(torch.zeros(1, 2, 50, dtype=torch.long)).logits[0], model.classifier.bias)


def test_a_choice_is_scored_as_a_text_of_its_own():
    model = head(ElmoForMultipleChoice)
    scores = model(**inputs_for(ElmoForMultipleChoice)).logits
    single = head(ElmoForSequenceClassification, num_labels=1)
    torch.testing.assert_close(scores, single(character_ids()).logits.view(2, 2), **ROUNDING)


def test_a_pair_has_the_same_scores_when_its_words_are_remembered():
    model = head(ElmoForSequenceClassification)
    # The boundaries between its texts are words of the row, and stand around the row as well.
    boundaries = model.elmo.character_encoder.boundary_ids(torch.device("cpu")).flip(0)
    texts = character_ids([["Is", "it", "dry"], ["No", "it", "rained"]])
    ids = torch.cat([texts[0], boundaries, texts[1]]).unsqueeze(0)
    with torch.no_grad():
        first, second = model(ids).logits, model(ids).logits
    torch.testing.assert_close(second, first, **ROUNDING)


def test_an_answer_never_begins_or_ends_at_padding():
    outputs = head(ElmoForQuestionAnswering, head_lstm_size=5)(character_ids())
    is_word = (character_ids() != 0).any(-1)
    for logits in (outputs.start_logits, outputs.end_logits):
        assert (logits.softmax(-1)[~is_word] == 0).all()
        assert (logits.softmax(-1)[is_word] > 0).all()


@pytest.mark.parametrize("model_class", HEADS)
def test_hidden_states_are_returned_only_when_asked_for_and_lstm_states_never(model_class: type):
    model = head(model_class)
    inputs = inputs_for(model_class)
    assert not {"hidden_states", "lstm_hidden", "lstm_cell", "attention_mask"} & set(model(**inputs))
    given = model(**inputs, output_hidden_states=True).hidden_states
    expected = model.elmo(inputs["input_ids"], output_hidden_states=True).hidden_states
    assert len(given) == 3
    assert all(map(torch.equal, given, expected))
    assert len(model(**inputs, return_dict=False)) == len(model(**inputs))


def test_character_vectors_may_be_given_instead_of_ids():
    model = head(ElmoForSequenceClassification, head_lstm_size=5)
    ids = character_ids()
    attention_mask = (ids != 0).any(-1).long()
    given = model(inputs_embeds=model.get_input_embeddings()(ids), attention_mask=attention_mask).logits
    torch.testing.assert_close(given, model(ids).logits, **ROUNDING)


def test_dropout_stands_before_the_classifier_in_training_only():
    model = head(ElmoForTokenClassification, classifier_dropout=0.9)
    ids = character_ids()
    assert torch.equal(model(ids).logits, model(ids).logits)
    assert not torch.equal(model.train()(ids).logits, model(ids).logits)


# Losses


def test_the_loss_of_tokens_is_the_mean_over_labelled_words():
    model, inputs = head(ElmoForTokenClassification), inputs_for(ElmoForTokenClassification)
    outputs = model(**inputs)
    chosen = outputs.logits.log_softmax(-1).gather(2, inputs["labels"].clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(outputs.loss, -chosen[inputs["labels"] != -100].mean())


def test_a_batch_without_a_label_has_a_loss_of_zero():
    inputs = inputs_for(ElmoForTokenClassification)
    inputs["labels"].fill_(-100)
    assert head(ElmoForTokenClassification)(**inputs).loss == 0


@pytest.mark.parametrize(
    ("num_labels", "labels", "problem_type", "loss"),
    [
        (3, torch.tensor([0, 2, 1, 1]), "single_label_classification", F.cross_entropy),
        (3, torch.tensor([[1.0, 0, 1]] * 4), "multi_label_classification", F.binary_cross_entropy_with_logits),
        (1, torch.tensor([[0.5], [1.0], [-2.0], [0.0]]), "regression", F.mse_loss),
    ],
)
def test_labels_tell_the_problem_and_its_loss(
    num_labels: int, labels: Tensor, problem_type: str, loss: Any, tmp_path: Path
):
    model = head(ElmoForSequenceClassification, num_labels=num_labels)
    outputs = model(character_ids(), labels=labels)
    torch.testing.assert_close(outputs.loss, loss(outputs.logits, labels))
    model.save_pretrained(tmp_path)
    assert ElmoConfig.from_pretrained(tmp_path).problem_type == problem_type


def test_several_numbers_may_be_predicted_and_one_needs_no_axis():
    numbers = torch.tensor([[0.5, 1.0], [1.0, 0.0], [-2.0, 3.0], [0.0, 0.0]])
    model = head(ElmoForSequenceClassification, num_labels=2, problem_type="regression")
    outputs = model(character_ids(), labels=numbers)
    torch.testing.assert_close(outputs.loss, F.mse_loss(outputs.logits, numbers))
    single = head(ElmoForSequenceClassification, num_labels=1)
    outputs = single(character_ids(), labels=numbers[:, 0])
    torch.testing.assert_close(outputs.loss, F.mse_loss(outputs.logits[:, 0], numbers[:, 0]))


@pytest.mark.parametrize(
    ("problem_type", "labels", "message"),
    [
        ("single_label_classification", torch.zeros(4, 3, dtype=torch.long), "shape (4,) for single_label"),
        ("multi_label_classification", torch.zeros(4), "shape (4, 3) for multi_label"),
        ("regression", torch.zeros(3, 4), "shape (4, 3) for regression, was: (3, 4)"),
    ],
)
def test_labels_of_a_wrong_shape_are_refused(problem_type: str, labels: Tensor, message: str):
    model = head(ElmoForSequenceClassification, problem_type=problem_type)
    with pytest.raises(ValueError, match=re.escape(f"`labels` must have {message}")):
        model(character_ids(), labels=labels)


def test_the_loss_of_answers_leaves_out_positions_without_a_word():
    model = head(ElmoForQuestionAnswering)
    # The third sentence has one word, the row eleven.
    starts, ends = torch.tensor([1, -1, 5, 11]), torch.tensor([[2], [6], [0], [10]])
    outputs = model(character_ids(), start_positions=starts, end_positions=ends)
    start_loss = F.cross_entropy(outputs.start_logits[:1], starts[:1])
    end_loss = F.cross_entropy(outputs.end_logits, ends[:, 0])
    torch.testing.assert_close(outputs.loss, (start_loss + end_loss) / 2)
    assert "loss" not in model(character_ids(), start_positions=starts)


@pytest.mark.parametrize(
    ("model_class", "problem_type"),
    [
        *((model_class, None) for model_class in HEADS),
        (ElmoForSequenceClassification, "multi_label_classification"),
        (ElmoForSequenceClassification, "regression"),
    ],
)
def test_four_accumulated_steps_have_the_gradient_of_one(model_class: type, problem_type: str | None):
    model = head(model_class, problem_type=problem_type)
    inputs = inputs_for(model_class)
    if problem_type is not None:
        inputs["labels"] = F.one_hot(inputs["labels"], 3).float()
    # As `Trainer` counts them.
    targets = inputs.get("labels", inputs.get("start_positions"))
    num_items = (targets != -100).sum()
    model(**inputs).loss.backward()
    at_once = gradients(model)
    model.zero_grad()
    for step in range(len(inputs["input_ids"])):
        row = {name: value[step : step + 1] for name, value in inputs.items()}
        model(**row, num_items_in_batch=num_items).loss.backward()
    torch.testing.assert_close(gradients(model), at_once, **ROUNDING)


# Training


@pytest.mark.parametrize("head_lstm_size", [None, 5])
@pytest.mark.parametrize("model_class", HEADS)
def test_every_parameter_is_trained_again_and_again_with_and_without_checkpointing(
    model_class: type, head_lstm_size: int | None
):
    model = head(model_class, head_lstm_size=head_lstm_size).train()
    inputs = inputs_for(model_class)
    model(**inputs).loss.backward()
    once = gradients(model)
    assert set(once) == {name for name, _ in model.named_parameters()}
    model(**inputs).loss.backward()
    torch.testing.assert_close(gradients(model), {name: 2 * value for name, value in once.items()}, **ROUNDING)
    model.zero_grad()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model(**inputs).loss.backward()
    torch.testing.assert_close(gradients(model), once, **ROUNDING)


@pytest.mark.parametrize("model_class", HEADS)
def test_autocast_to_bfloat16_changes_a_loss_by_rounding_only(model_class: type):
    model, inputs = head(model_class, head_lstm_size=5).train(), inputs_for(model_class)
    expected = model(**inputs).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**inputs).loss
    loss.backward()
    assert loss.dtype == torch.float32
    # bfloat16 has 8 bits.
    torch.testing.assert_close(loss, expected, rtol=0.05, atol=0.0)
    assert all(value.isfinite().all() for value in gradients(model).values())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        one = model(**{name: value[:1] for name, value in inputs.items()}).loss
    assert one.isfinite()


@pytest.mark.parametrize("model_class", HEADS)
def test_a_frozen_bilm_gets_no_gradient_and_mix_and_head_do(model_class: type):
    model = head(model_class, head_lstm_size=5).train()
    model.freeze_bilm()
    model(**inputs_for(model_class)).loss.backward()
    trained = set(gradients(model))
    assert {name for name in trained if name.startswith("elmo.")} == {
        "elmo.scalar_mixes.0.scalar_parameters",
        "elmo.scalar_mixes.0.gamma",
    }
    assert {name.split(".")[0] for name in trained} == {"elmo", "context", model.output_name}
    model.unfreeze_bilm()
    model(**inputs_for(model_class)).loss.backward()
    assert set(gradients(model)) == {name for name, _ in model.named_parameters()}


def test_the_bare_model_can_be_frozen_as_well():
    model = tiny_model()
    model.freeze_bilm()
    assert {name.split(".")[0] for name, one in model.named_parameters() if one.requires_grad} == {"scalar_mixes"}


def test_freezing_logs_how_many_parameters_are_left_to_train():
    model = head(ElmoForSequenceClassification)
    with mock.patch.object(modeling_elmo.logger, "info") as info:
        model.freeze_bilm()
        model.unfreeze_bilm()
    total = sum(parameter.numel() for parameter in model.parameters())
    # Three weights and gamma of the mix, and a matrix and a bias for three labels.
    left = 3 + 1 + 3 * 12 + 3
    assert info.call_args_list == [
        mock.call(f"The biLM is frozen: {left:,} of {total:,} parameters to train."),
        mock.call(f"The biLM is trained: {total:,} of {total:,} parameters to train."),
    ]


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_bilm_keeps_nothing_for_a_backward_pass_and_runs_as_in_inference(frozen: bool):
    model = head(ElmoForTokenClassification).train()
    if frozen:
        model.freeze_bilm()
    kept: list[Tensor] = []
    inside = [False]

    def keep(tensor: Tensor) -> Tensor:
        if inside[0]:
            kept.append(tensor)
        return tensor

    read = model.elmo.read_sentences

    def watched(*args: Any) -> Any:
        inside[0] = True
        try:
            return read(*args)
        finally:
            inside[0] = False

    model.elmo.read_sentences = watched
    inputs = inputs_for(ElmoForTokenClassification)
    spy = mock.patch.object(lstm_elmo, "lstm_in_place", wraps=lstm_elmo.lstm_in_place)
    with saved_tensors_hooks(keep, lambda tensor: tensor), spy as inference:
        loss = model(**inputs).loss
    loss.backward()
    # Two layers, both directions in one.
    assert inference.call_count == (2 if frozen else 0)
    assert (len(kept) == 0) == frozen
    words = {word for sentence in SENTENCES for word in sentence}
    entry = model.elmo.character_encoder.word_vectors._entry
    assert (entry is not None and len(entry[2][0]) == len(words) + 2) == frozen


def test_parameter_groups_give_the_bilm_a_rate_of_its_own():
    model = head(ElmoForTokenClassification, head_lstm_size=5)
    groups = model.parameter_groups(learning_rate=1e-3, bilm_learning_rate=1e-5, weight_decay=0.1)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {
        names[parameter]: (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]
    }
    assert sum(len(group["params"]) for group in groups) == len(found) == len(names)
    assert found["elmo.encoder.forward_layers.0.weight_hh"] == (1e-5, 0.1)
    assert found["elmo.encoder.forward_layers.0.bias"] == (1e-5, 0.0)
    assert found["elmo.character_encoder.embeddings.weight"] == (1e-5, 0.1)
    assert found["elmo.scalar_mixes.0.gamma"] == (1e-3, 0.0)
    assert found["elmo.scalar_mixes.0.scalar_parameters"] == (1e-3, 0.0)
    assert found["classifier.weight"] == (1e-3, 0.1)
    assert found["context.lstm.weight_ih_l0"] == (1e-3, 0.1)
    model.freeze_bilm()
    assert {group["lr"] for group in model.parameter_groups(1e-3, 1e-5)} == {1e-3}


# Configuration, loading and saving


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"head_lstm_size": 0}, ValueError, "`head_lstm_size` must be at least 1, was: 0."),
        ({"head_lstm_size": 2.5}, TypeError, "`head_lstm_size` must be a whole number, was: 2.5."),
        (
            {"classifier_dropout": 1.0},
            ValueError,
            "`classifier_dropout` must be at least 0 and less than 1, was: 1.0.",
        ),
        ({"classifier_dropout": None}, TypeError, "`classifier_dropout` must be a number, was: None."),
        ({"sentence_pooling": "cls"}, ValueError, "`sentence_pooling` must be mean or max or last, was: 'cls'."),
    ],
)
def test_an_impossible_option_of_a_head_is_refused(values: dict[str, Any], error: type, message: str):
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        tiny_config(**values)


@pytest.mark.parametrize(("model_class", "num_read"), [(ElmoForTokenClassification, 1), (ElmoForPreTraining, 0)])
def test_mixes_that_nothing_reads_are_not_made(model_class: type, num_read: int, tmp_path: Path):
    # In a file of one mix, the other two are new.
    model_class(tiny_config(word_vocab_size=9)).save_pretrained(tmp_path)
    loaded = model_class.from_pretrained(tmp_path, num_output_representations=3)
    for model in (model_class(loaded.config), loaded):
        assert len(model.elmo.scalar_mixes) == num_read
        assert all(parameter.requires_grad for parameter in model.parameters())
    # The bare model has them all, the new ones as they start.
    assert len(ElmoModel.from_pretrained(tmp_path, num_output_representations=3).scalar_mixes) == 3


@pytest.mark.parametrize("model_class", [*HEADS, ElmoForPreTraining])
def test_a_head_counts_words_and_refuses_boundaries(model_class: type):
    with pytest.raises(ValueError, match=r"^`keep_sentence_boundaries` must be False for a model whose labels count"):
        model_class(tiny_config(keep_sentence_boundaries=True, word_vocab_size=9))


@pytest.mark.parametrize("head_lstm_size", [None, 5])
@pytest.mark.parametrize("model_class", HEADS)
def test_a_saved_head_comes_back_bit_by_bit_with_its_options(
    model_class: type, head_lstm_size: int | None, tmp_path: Path
):
    model = head(
        model_class, head_lstm_size=head_lstm_size, sentence_pooling="last", classifier_dropout=0.25, num_labels=4
    )
    model.save_pretrained(tmp_path)
    loaded = AUTO_CLASSES[model_class].from_pretrained(tmp_path)
    assert type(loaded) is model_class
    options = (loaded.config.head_lstm_size, loaded.config.sentence_pooling, loaded.dropout.p)
    assert options == (head_lstm_size, "last", 0.25)
    ids = inputs_for(model_class)["input_ids"]
    for name, parameter in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), parameter), name
    # `nn.LSTM` rounds by where its weights lie in memory.
    torch.testing.assert_close(scores_of(loaded(ids)), scores_of(model(ids)), **ROUNDING)
    # And the biLM without its head.
    assert torch.equal(ElmoModel.from_pretrained(tmp_path)(ids).last_hidden_state, model.elmo(ids).last_hidden_state)


@pytest.mark.parametrize("model_class", HEADS)
def test_a_new_head_on_a_published_bilm_is_initialised(model_class: type, tmp_path: Path):
    bilm = tiny_model()
    bilm.save_pretrained(tmp_path)
    # It tells that the head is new, as every model does.
    transformers.logging.set_verbosity_error()
    try:
        torch.manual_seed(0)
        model = AUTO_CLASSES[model_class].from_pretrained(tmp_path, head_lstm_size=50, num_labels=3).eval()
    finally:
        transformers.logging.set_verbosity_warning()
    for name, parameter in bilm.named_parameters():
        assert torch.equal(model.elmo.get_parameter(name), parameter), name
    for name, parameter in model.named_parameters():
        if name.startswith("context.") and parameter.dim() > 1:
            # Uniform within the bound of Glorot and Bengio.
            bound = (6 / (parameter.shape[0] + parameter.shape[1])) ** 0.5
            assert parameter.abs().max() <= bound
            torch.testing.assert_close(parameter.std(), torch.tensor(bound / 3**0.5), rtol=0.05, atol=0.0)
        elif name.endswith("bias") and not name.startswith("elmo."):
            assert (parameter == 0).all()
    assert model.get_submodule(model.output_name).weight.std() > 0
