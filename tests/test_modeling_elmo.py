"""The model, cheapest first: arithmetic by hand, twins, promises about batches and masks, then the ecosystem."""

import copy
import logging
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import accelerate
import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from elmo_hf import ElmoConfig, ElmoModel
from elmo_hf.character_encoder_elmo import ElmoCharacterEncoder, ElmoHighway
from elmo_hf.modeling_elmo import ElmoLstmLayer, ElmoModelOutput, ElmoScalarMix
from tests.tiny import SENTENCES, character_ids, tiny_config, tiny_model, word_ids

# Same sums in another order: float32 with values around 1.
ROUNDING = 1e-5

EXACT = {"rtol": 0.0, "atol": 0.0}


def call(model: ElmoModel, **inputs: Any) -> ElmoModelOutput:
    return model(**inputs)


def call_as_traced(model: ElmoModel, **inputs: Any) -> ElmoModelOutput:
    """The operations that `torch.compile` and `torch.export` see, without the minutes that they take."""
    with mock.patch.object(torch.compiler, "is_compiling", return_value=True):
        return model(**inputs)


RUNS = {"inference": torch.inference_mode()(call), "training": call, "traced": call_as_traced}


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest) -> Any:
    """`run(model, **inputs)` by each of the three ways that the LSTMs have: without gradients, with, and traced."""
    return RUNS[request.param]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Any:
    """Warnings and errors that transformers logs, as a list of lines."""
    transformers.utils.logging.enable_propagation()
    caplog.set_level(logging.WARNING)
    yield lambda: [record.getMessage() for record in caplog.records]
    transformers.utils.logging.disable_propagation()


# ---------------------------------------------------------------------------------------------------------------------
# Arithmetic by hand
# ---------------------------------------------------------------------------------------------------------------------


def test_scalar_mix_is_gamma_times_the_softmax_weighted_sum():
    mix = ElmoScalarMix(tiny_config(num_hidden_layers=1))
    with torch.no_grad():
        # softmax([log 3, 0]) = [3/4, 1/4]
        mix.scalar_parameters.copy_(torch.tensor([np.log(3.0), 0.0]))
        mix.gamma.fill_(2.0)
    mixed = mix([torch.tensor([4.0, -8.0]), torch.tensor([8.0, 16.0])])
    # 2 * (3/4 * 4 + 1/4 * 8) = 10; 2 * (3/4 * -8 + 1/4 * 16) = -4
    torch.testing.assert_close(mixed, torch.tensor([10.0, -4.0]))


def test_fixed_mixing_weights_are_a_softmax_without_gamma_and_without_parameters():
    mix = ElmoScalarMix(tiny_config(num_hidden_layers=1, scalar_mix_parameters=[float(np.log(3.0)), 0.0]))
    torch.testing.assert_close(mix([torch.tensor([4.0]), torch.tensor([8.0])]), torch.tensor([5.0]))
    assert list(mix.parameters()) == []


def test_a_layer_without_weight_stays_out_even_when_it_is_infinite():
    mix = ElmoScalarMix(tiny_config(scalar_mix_parameters=[-9e10, 1, -9e10]))
    infinite = torch.full((2,), torch.inf)
    assert mix([infinite, torch.tensor([1.5, 2.5]), -infinite]).tolist() == [1.5, 2.5]


def test_scalar_mix_refuses_another_number_of_layers():
    mix = ElmoScalarMix(tiny_config())
    with pytest.raises(ValueError, match=r"`layers` must be 3 tensors, one per layer, was: 2"):
        mix([torch.zeros(1), torch.zeros(1)])


def test_highway_transforms_by_its_gate_and_carries_the_rest():
    highway = ElmoHighway(tiny_config(char_cnn_filters=[[1, 2]]))
    with torch.no_grad():
        highway.transform.weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, 0.0]]))
        highway.transform.bias.copy_(torch.tensor([1.0, 1.0]))
        highway.carry_gate.weight.zero_()
        # sigmoid(log 3) = 3/4 and sigmoid(-log 3) = 1/4
        highway.carry_gate.bias.copy_(torch.tensor([np.log(3.0), -np.log(3.0)]))
    # relu([2 + 6 + 1, -2 + 1]) = [9, 0]; 3/4 * 9 + 1/4 * 2 = 7.25; 1/4 * 0 + 3/4 * 3 = 2.25
    torch.testing.assert_close(highway(torch.tensor([[2.0, 3.0]])), torch.tensor([[7.25, 2.25]]))


def one_filter_encoder(width: int, activation: str = "relu") -> ElmoCharacterEncoder:
    """Sums `width` characters, whose vectors are their ids in hundreds, and lets the result through."""
    config = tiny_config(
        char_embedding_dim=1,
        char_cnn_filters=[[width, 1]],
        char_cnn_activation=activation,
        num_highway_layers=0,
        projection_dim=1,
    )
    encoder = ElmoCharacterEncoder(config)
    with torch.no_grad():
        encoder.embeddings.weight.copy_(torch.arange(262.0)[:, None] / 100)
        encoder.convolutions[0].weight.fill_(1.0)
        encoder.convolutions[0].bias.zero_()
        encoder.projection.weight.fill_(1.0)
        encoder.projection.bias.zero_()
    return encoder


def test_a_word_is_the_largest_window_of_its_characters():
    # "ab" is 259, 98, 99, 260, 261...; of three characters in a row, 261 three times is the largest sum.
    assert one_filter_encoder(3)(torch.tensor([word_ids("ab")])).item() == pytest.approx(7.83)


def test_padding_characters_take_part_in_the_maximum():
    # 48 characters leave no room for padding: the largest id of the word is its end, 260, and not 261.
    vectors = one_filter_encoder(1)(torch.tensor([word_ids("a"), word_ids("a" * 48)]))
    torch.testing.assert_close(vectors, torch.tensor([[2.61], [2.60]]))


def test_the_activation_follows_the_maximum():
    encoder = one_filter_encoder(1, activation="tanh")
    with torch.no_grad():
        encoder.convolutions[0].bias.fill_(-2.0)
    # tanh(2.61 - 2)
    assert encoder(torch.tensor([word_ids("a")])).item() == pytest.approx(np.tanh(0.61), abs=1e-6)
    with torch.no_grad():
        encoder.convolutions[0].bias.fill_(-3.0)
    # relu would make it 0.
    assert encoder(torch.tensor([word_ids("a")])).item() == pytest.approx(np.tanh(-0.39), abs=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Twins: torch's LSTM without the clips, plain numpy with them
# ---------------------------------------------------------------------------------------------------------------------


def directions(model: ElmoModel, layer: int) -> tuple[ElmoLstmLayer, ElmoLstmLayer]:
    return model.encoder.forward_layers[layer], model.encoder.backward_layers[layer]


def twin(layer: ElmoLstmLayer) -> nn.LSTM:
    """torch's LSTM with the same weights; the 1.0 that TensorFlow adds to the forget gate goes into its bias."""
    projection_dim, cell_size = layer.weight_hr.shape
    lstm = nn.LSTM(projection_dim, cell_size, proj_size=projection_dim, batch_first=True)
    bias = layer.bias.detach().clone()
    bias[cell_size : 2 * cell_size] += 1.0
    weights = {"weight_ih_l0": layer.weight_ih, "weight_hh_l0": layer.weight_hh, "weight_hr_l0": layer.weight_hr}
    lstm.load_state_dict({**weights, "bias_ih_l0": bias, "bias_hh_l0": torch.zeros_like(bias)})
    return lstm


def test_without_clips_each_direction_is_torch_lstm_with_one_added_to_the_forget_gate(run: Any):
    model = tiny_model(num_hidden_layers=1, cell_clip=None, proj_clip=None, keep_sentence_boundaries=True)
    hidden_states = run(model, input_ids=character_ids(), output_hidden_states=True).hidden_states
    lengths = torch.tensor([len(sentence) + 2 for sentence in SENTENCES])
    width = int(lengths.max())
    inputs = hidden_states[0][..., :6].clone()
    # (batch, words): each sentence back to front, its padding left where it is
    steps = torch.arange(width).expand(len(lengths), -1)
    reverse = torch.where(steps < lengths[:, None], lengths[:, None] - 1 - steps, steps)[..., None].expand(-1, -1, 6)

    def read(lstm: nn.LSTM, values: Tensor) -> Tensor:
        packed = pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=width)[0]

    forward, backward = (twin(layer) for layer in directions(model, 0))
    expected = torch.cat([read(forward, inputs), read(backward, inputs.gather(1, reverse)).gather(1, reverse)], dim=-1)
    torch.testing.assert_close(hidden_states[1], expected, rtol=0, atol=ROUNDING)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def plain_lstm(
    layer: ElmoLstmLayer,
    config: ElmoConfig,
    inputs: np.ndarray,
    hidden: np.ndarray | float = 0.0,
    cell: np.ndarray | float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One direction of one layer over one sentence of (words, projection_dim), in float64, without the skip."""
    weight_ih, weight_hh, bias, weight_hr = (
        getattr(layer, name).detach().double().numpy() for name in ("weight_ih", "weight_hh", "bias", "weight_hr")
    )
    hidden, cell = np.broadcast_to(hidden, weight_hr.shape[0]), np.broadcast_to(cell, weight_hr.shape[1])
    cell_bound, projection_bound = config.cell_clip or np.inf, config.proj_clip or np.inf
    outputs = []
    for vector in inputs:
        i, f, g, o = np.split(weight_ih @ vector + weight_hh @ hidden + bias, 4)
        cell = np.clip(sigmoid(f + 1.0) * cell + sigmoid(i) * np.tanh(g), -cell_bound, cell_bound)
        hidden = np.clip(weight_hr @ (sigmoid(o) * np.tanh(cell)), -projection_bound, projection_bound)
        outputs.append(hidden)
    return np.array(outputs), hidden, cell


def plain_layers(model: ElmoModel, sentence: Sequence[str]) -> np.ndarray:
    """(layers, words + 2, hidden_size) of one sentence, boundaries included."""
    config = model.config
    # `<S>` and `</S>` are the ids 257 and 258, framed and filled like any word.
    boundaries = [[259, id, 260, *[261] * 47] for id in (257, 258)]
    ids = torch.tensor([boundaries[0], *map(word_ids, sentence), boundaries[1]])
    with torch.no_grad():
        vectors = model.character_encoder(ids).double().numpy()
    stacks = [vectors, vectors[::-1]]
    layers = [np.concatenate([vectors, vectors], axis=1)]
    for index in range(config.num_hidden_layers):
        for direction, layer in enumerate(directions(model, index)):
            outputs = plain_lstm(layer, config, stacks[direction])[0]
            skip = stacks[direction] if config.use_skip_connections and index > 0 else 0.0
            stacks[direction] = outputs + skip
        layers.append(np.concatenate([stacks[0], stacks[1][::-1]], axis=1))
    return np.stack(layers)


def assert_close_to_plain(actual: Tensor, expected: np.ndarray):
    torch.testing.assert_close(actual.double(), torch.from_numpy(expected.copy()), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("skip", [True, False], ids=["with skip", "without skip"])
def test_all_layers_equal_a_plain_computation_where_both_clips_act(run: Any, skip: bool):
    model = tiny_model(use_skip_connections=skip, num_hidden_layers=3, keep_sentence_boundaries=True)
    outputs = run(model, input_ids=character_ids(), output_hidden_states=True)
    cells, projections = outputs.lstm_states[1], outputs.hidden_states[1]
    for values, bound in ((cells, model.config.cell_clip), (projections, model.config.proj_clip)):
        assert 0.02 < (values.abs() == bound).float().mean() < 0.9, "The clip must act, and not on everything."
    for row, sentence in enumerate(SENTENCES):
        actual = torch.stack(outputs.hidden_states)[:, row, : len(sentence) + 2]
        assert_close_to_plain(actual, plain_layers(model, sentence))


def test_one_clip_acts_without_the_other(run: Any):
    for clips in ({"cell_clip": None, "proj_clip": 0.3}, {"cell_clip": 0.3, "proj_clip": None}):
        model = tiny_model(keep_sentence_boundaries=True, **clips)
        hidden_states = run(model, input_ids=character_ids(SENTENCES[:1]), output_hidden_states=True).hidden_states
        assert_close_to_plain(torch.stack(hidden_states)[:, 0], plain_layers(model, SENTENCES[0]))


def test_the_skip_joins_the_output_after_the_clip_from_the_second_layer_on():
    model = tiny_model(keep_sentence_boundaries=True)
    outputs = model(character_ids(), output_hidden_states=True)
    first, second = outputs.hidden_states[1:]
    # (batch, directions, projection_dim) of the last layer; forward ends at </S> and backward at <S>.
    final = outputs.lstm_states[0][:, -1]
    for row, sentence in enumerate(SENTENCES):
        end = len(sentence) + 1
        torch.testing.assert_close(second[row, end, :6] - first[row, end, :6], final[row, 0], rtol=0, atol=1e-6)
        torch.testing.assert_close(second[row, 0, 6:] - first[row, 0, 6:], final[row, 1], rtol=0, atol=1e-6)
    assert first.abs().max() <= torch.tensor(model.config.proj_clip) < second.abs().max()


def test_directions_never_mix_between_layers(run: Any):
    changed = [*SENTENCES[0][:3], "sank", *SENTENCES[0][4:]]
    before, after = run(
        tiny_model(), input_ids=character_ids([SENTENCES[0], changed]), output_hidden_states=True
    ).hidden_states[2]
    # Forward: words before the change cannot know of it; backward: words after it cannot.
    torch.testing.assert_close(before[:3, :6], after[:3, :6], rtol=0, atol=ROUNDING)
    torch.testing.assert_close(before[4:, 6:], after[4:, 6:], rtol=0, atol=ROUNDING)
    assert ((before[3:, :6] - after[3:, :6]).abs().amax(1) > 1e-3).all()
    assert ((before[:4, 6:] - after[:4, 6:]).abs().amax(1) > 1e-3).all()


# ---------------------------------------------------------------------------------------------------------------------
# Sentence boundaries and carried state
# ---------------------------------------------------------------------------------------------------------------------


def test_the_model_adds_the_boundaries_that_the_literal_words_stand_for():
    # The tokenizer maps the literal words <S> and </S> to the same rows.
    literal = torch.tensor([[[259, id, 260, *[261] * 47] for id in (257, 258)]])
    model = tiny_model(keep_sentence_boundaries=True)
    added, words, _ = model(literal, output_hidden_states=True).hidden_states[0][0].split([1, 2, 1])
    end = model(literal, output_hidden_states=True).hidden_states[0][0, -1]
    torch.testing.assert_close(added[0], words[0])
    torch.testing.assert_close(end, words[1])
    assert (words[0] - words[1]).abs().max() > 0.01


def test_kept_boundaries_stand_beside_the_words_and_change_nothing_about_them():
    ids = character_ids([[], ["Yes"], ["The", "bank"]], width=4)
    # Left padding, and a hole between the two words.
    ids[2] = ids[2][[2, 0, 3, 1]]
    plain = tiny_model()(ids)
    kept = tiny_model(keep_sentence_boundaries=True)(ids)
    assert kept.mask.int().tolist() == [[1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [0, 1, 1, 0, 1, 1]]
    torch.testing.assert_close(
        kept.last_hidden_state[:, 1:-1][plain.mask], plain.last_hidden_state[plain.mask], **EXACT
    )
    is_boundary = kept.mask & ~nn.functional.pad(plain.mask, (1, 1))
    assert (kept.last_hidden_state[is_boundary].abs().amax(1) > 0.01).all()
    assert (kept.last_hidden_state[~kept.mask] == 0).all()
    torch.testing.assert_close(kept.lstm_states, plain.lstm_states, **EXACT)


def test_states_continue_each_direction_of_each_layer_where_it_ended(run: Any):
    model = tiny_model(keep_sentence_boundaries=True)
    first, second = SENTENCES[0], SENTENCES[3]
    states = run(model, input_ids=character_ids([first])).lstm_states
    outputs = run(model, input_ids=character_ids([second]), lstm_states=states, output_hidden_states=True)
    streams = [[plain_layers(model, words)[0][:, :6] for words in (first, second)] for _ in range(2)]
    streams[1] = [vectors[::-1] for vectors in streams[1]]
    for index in range(2):
        for direction, layer in enumerate(directions(model, index)):
            hidden = cell = 0.0
            for part, inputs in enumerate(streams[direction]):
                vectors, hidden, cell = plain_lstm(layer, model.config, inputs, hidden, cell)
                streams[direction][part] = vectors + (inputs if index > 0 else 0.0)
            assert_close_to_plain(outputs.lstm_states[0][0, index, direction], hidden)
            assert_close_to_plain(outputs.lstm_states[1][0, index, direction], cell)
        expected = np.concatenate([streams[0][1], streams[1][1][::-1]], axis=1)
        assert_close_to_plain(outputs.hidden_states[index + 1][0], expected)


def test_states_belong_to_their_rows_whatever_the_lengths(run: Any):
    model = tiny_model()
    states = run(model, input_ids=character_ids()).lstm_states
    # The longest sentence of the second batch is in another row than that of the first.
    following = SENTENCES[::-1]
    together = run(model, input_ids=character_ids(following), lstm_states=states)
    for row, sentence in enumerate(following):
        own = run(model, input_ids=character_ids([SENTENCES[row]])).lstm_states
        torch.testing.assert_close([s[row : row + 1] for s in states], list(own), rtol=0, atol=ROUNDING)
        alone = run(model, input_ids=character_ids([sentence]), lstm_states=own)
        actual = together.last_hidden_state[row, : len(sentence)]
        torch.testing.assert_close(actual, alone.last_hidden_state[0], rtol=0, atol=ROUNDING)
        torch.testing.assert_close(
            [s[row : row + 1] for s in together.lstm_states], list(alone.lstm_states), rtol=0, atol=ROUNDING
        )


def test_no_state_stays_between_calls():
    model = tiny_model()
    before = model(character_ids(SENTENCES[:1])).last_hidden_state
    states = model(character_ids()).lstm_states
    carried = model(character_ids(SENTENCES[:1]), lstm_states=tuple(state[:1] for state in states))
    after = model(character_ids(SENTENCES[:1])).last_hidden_state
    torch.testing.assert_close(before, after, **EXACT)
    assert (carried.last_hidden_state - before).abs().max() > 0.01


def test_the_given_states_are_not_written_into(run: Any):
    model = tiny_model()
    states = tuple(state.detach() for state in model(character_ids()).lstm_states)
    copies = tuple(state.clone() for state in states)
    run(model, input_ids=character_ids(), lstm_states=states)
    torch.testing.assert_close(states, copies, **EXACT)


# ---------------------------------------------------------------------------------------------------------------------
# Batches and masks
# ---------------------------------------------------------------------------------------------------------------------


def alone(model: ElmoModel, sentence: Sequence[str]) -> Tensor:
    return model(character_ids([sentence])).last_hidden_state[0]


def test_a_sentence_has_the_same_vectors_alone_in_a_batch_and_beside_its_repetition(run: Any):
    model = tiny_model()
    batch = [*SENTENCES, SENTENCES[0], SENTENCES[2]]
    for order in (range(6), [5, 3, 1, 0, 2, 4], [4, 5, 0, 1, 2, 3]):
        sentences = [batch[index] for index in order]
        vectors = run(model, input_ids=character_ids(sentences)).last_hidden_state
        for row, sentence in enumerate(sentences):
            actual = vectors[row, : len(sentence)]
            torch.testing.assert_close(actual, alone(model, sentence), rtol=0, atol=ROUNDING)
            assert (vectors[row, len(sentence) :] == 0).all()


@pytest.mark.parametrize("columns", [[0, 1, 2, 3, 4, 5], [9, 10, 11, 12, 13, 14], [1, 2, 5, 6, 10, 13]])
def test_padding_on_either_side_and_between_words_changes_nothing(run: Any, columns: list[int]):
    ids = torch.zeros(2, 15, 50, dtype=torch.long)
    ids[0, columns] = character_ids(SENTENCES[:1])[0]
    ids[1] = character_ids(SENTENCES[3:], width=15)[0]
    outputs = run(tiny_model(), input_ids=ids)
    vectors = outputs.last_hidden_state[0]
    torch.testing.assert_close(vectors[columns], alone(tiny_model(), SENTENCES[0]), rtol=0, atol=ROUNDING)
    padding = [column for column in range(15) if column not in columns]
    assert (vectors[padding] == 0).all()
    assert outputs.mask[0].nonzero().flatten().tolist() == columns


def test_attention_mask_may_take_words_away_but_not_add_any(run: Any):
    ids = character_ids([SENTENCES[0], SENTENCES[2]])
    attention_mask = torch.ones(2, 6, dtype=torch.long)
    attention_mask[0, [0, 5]] = 0
    outputs = run(tiny_model(), input_ids=ids, attention_mask=attention_mask)
    assert outputs.mask.int().tolist() == [[0, 1, 1, 1, 1, 0], [1, 0, 0, 0, 0, 0]]
    expected = alone(tiny_model(), SENTENCES[0][1:5])
    torch.testing.assert_close(outputs.last_hidden_state[0, 1:5], expected, rtol=0, atol=ROUNDING)
    assert (outputs.last_hidden_state[~outputs.mask] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float32])
def test_attention_mask_may_have_any_dtype(dtype: torch.dtype):
    ids = character_ids()
    attention_mask = (ids != 0).any(-1)
    attention_mask[:, 1] = False
    expected = tiny_model()(ids, attention_mask=attention_mask.long()).last_hidden_state
    actual = tiny_model()(ids, attention_mask=attention_mask.to(dtype)).last_hidden_state
    torch.testing.assert_close(actual, expected, **EXACT)


def test_a_masked_word_may_hold_any_characters():
    ids = character_ids(SENTENCES[:1])
    attention_mask = torch.tensor([[1, 1, 1, 1, 1, 0]])
    expected = tiny_model()(ids, attention_mask=attention_mask).last_hidden_state
    ids[0, 5] = torch.tensor(word_ids("unread"))
    torch.testing.assert_close(tiny_model()(ids, attention_mask=attention_mask).last_hidden_state, expected, **EXACT)


def test_inputs_embeds_give_what_their_ids_give(run: Any):
    model, ids = tiny_model(), character_ids()
    attention_mask = (ids != 0).any(-1)
    expected = model(ids)
    actual = run(model, inputs_embeds=model.get_input_embeddings()(ids).detach(), attention_mask=attention_mask)
    torch.testing.assert_close(actual.to_tuple(), expected.to_tuple(), rtol=0, atol=ROUNDING)


def test_the_empty_word_is_a_word():
    outputs = tiny_model()(character_ids([["The", "", "bank"]]))
    assert outputs.mask.all()
    without = alone(tiny_model(), ["The", "bank"])
    assert (outputs.last_hidden_state[0, [0, 2]] - without).abs().max() > 1e-3


def test_more_leading_dimensions_are_one_batch(run: Any):
    ids = character_ids()
    expected = run(tiny_model(), input_ids=ids, output_hidden_states=True)
    nested = run(
        tiny_model(),
        input_ids=ids.view(2, 1, 2, *ids.shape[1:]),
        attention_mask=torch.ones(2, 1, 2, ids.shape[1]),
        output_hidden_states=True,
    )
    for name in ("last_hidden_state", "attention_mask"):
        torch.testing.assert_close(nested[name], expected[name].unflatten(0, (2, 1, 2)), **EXACT)
    for nested_layer, layer in zip(nested.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(nested_layer, layer.unflatten(0, (2, 1, 2)), **EXACT)
    torch.testing.assert_close(nested.lstm_states, expected.lstm_states, **EXACT)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0), (3, 2)], ids=str)
def test_a_batch_without_words_is_zeros_of_the_right_shape(run: Any, shape: tuple[int, int], keep: bool):
    model = tiny_model(keep_sentence_boundaries=keep)
    outputs = run(model, input_ids=torch.zeros(*shape, 50, dtype=torch.long), output_hidden_states=True)
    batch, width = shape
    assert outputs.last_hidden_state.shape == (batch, width + 2 * keep, 12)
    assert [layer.shape for layer in outputs.hidden_states] == [(batch, width + 2 * keep, 12)] * 3
    assert [state.shape for state in outputs.lstm_states] == [(batch, 2, 2, 6), (batch, 2, 2, 10)]
    assert (outputs.last_hidden_state[~outputs.mask] == 0).all()
    assert int(outputs.mask.sum()) == 2 * keep * batch
    assert outputs.last_hidden_state.isfinite().all()


def test_an_empty_sentence_does_not_disturb_its_neighbours(run: Any):
    vectors = run(tiny_model(), input_ids=character_ids([[], SENTENCES[0], [], SENTENCES[2]])).last_hidden_state
    torch.testing.assert_close(vectors[1], alone(tiny_model(), SENTENCES[0]), rtol=0, atol=ROUNDING)
    torch.testing.assert_close(vectors[3, :1], alone(tiny_model(), SENTENCES[2]), rtol=0, atol=ROUNDING)
    assert (vectors[[0, 2]] == 0).all()


def test_a_sentence_of_5000_words_is_read_to_its_end_in_both_directions():
    words = [f"word{index % 97}" for index in range(5000)]
    model = tiny_model(num_hidden_layers=1)
    with torch.inference_mode():
        outputs = model(character_ids([words]), output_hidden_states=True)
    assert_close_to_plain(torch.stack(outputs.hidden_states)[:, 0], plain_layers(model, words)[:, 1:-1])


# ---------------------------------------------------------------------------------------------------------------------
# The mixes
# ---------------------------------------------------------------------------------------------------------------------


def test_the_first_mix_is_the_output_and_each_mix_has_weights_of_its_own(run: Any):
    model = tiny_model(num_output_representations=3)
    outputs = run(model, input_ids=character_ids(), output_hidden_states=True)
    assert torch.equal(outputs.last_hidden_state, outputs.elmo_representations[0])
    assert torch.equal(outputs[0], outputs.last_hidden_state)
    assert len(outputs.elmo_representations) == 3
    for mix, actual in zip(model.scalar_mixes, outputs.elmo_representations, strict=True):
        weights = torch.softmax(mix.scalar_parameters, 0).tolist()
        expected = sum(w * layer for w, layer in zip(weights, outputs.hidden_states, strict=True)) * mix.gamma.item()
        torch.testing.assert_close(actual, expected, rtol=0, atol=ROUNDING)
    assert (outputs.elmo_representations[1] - outputs.elmo_representations[2]).abs().max() > 0.01


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fixed_mix_selects_one_layer_bit_by_bit(run: Any, layer: int, dtype: torch.dtype):
    parameters = [-9e10, -9e10, -9e10]
    parameters[layer] = 1.0
    model = tiny_model(scalar_mix_parameters=parameters).to(dtype)
    outputs = run(model, input_ids=character_ids(), output_hidden_states=True)
    assert torch.equal(outputs.last_hidden_state, outputs.hidden_states[layer])


def test_layer_normalisation_is_one_mean_and_variance_over_the_words_and_boundaries_of_the_batch(run: Any):
    model = tiny_model(do_layer_norm=True)
    plain = [plain_layers(model, sentence) for sentence in SENTENCES]
    weights = torch.softmax(model.scalar_mixes[0].scalar_parameters, 0).tolist()
    expected = [np.zeros_like(layers[0]) for layers in plain]
    for index, weight in enumerate(weights):
        values = np.concatenate([layers[index] for layers in plain])
        for row, layers in enumerate(plain):
            expected[row] += weight * (layers[index] - values.mean()) / np.sqrt(values.var() + 1e-13)
    for output_hidden_states in (False, True):
        outputs = run(model, input_ids=character_ids(), output_hidden_states=output_hidden_states)
        for row, sentence in enumerate(SENTENCES):
            actual = outputs.last_hidden_state[row, : len(sentence)] / model.scalar_mixes[0].gamma.item()
            torch.testing.assert_close(
                actual.double(), torch.from_numpy(expected[row][1:-1]), rtol=0, atol=10 * ROUNDING
            )
        assert (outputs.last_hidden_state[~outputs.mask] == 0).all()


def test_layer_normalisation_depends_on_the_neighbours():
    model = tiny_model(do_layer_norm=True)
    together = model(character_ids()).last_hidden_state[2, :1]
    assert (together - alone(model, SENTENCES[2])).abs().max() > 0.01


def test_hidden_states_do_not_depend_on_the_mix():
    expected = tiny_model()(character_ids(), output_hidden_states=True).hidden_states
    for behaviour in ({"do_layer_norm": True}, {"scalar_mix_parameters": [1, 2, 3]}):
        # Weights are drawn in order: the mix comes last.
        actual = tiny_model(**behaviour)(character_ids(), output_hidden_states=True).hidden_states
        torch.testing.assert_close(actual, expected, **EXACT)


# ---------------------------------------------------------------------------------------------------------------------
# Outputs
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["argument", "configuration"])
def test_a_tuple_holds_the_same_values_in_the_same_order(by: str):
    model, ids = tiny_model(num_output_representations=2), character_ids()
    expected = model(ids, output_hidden_states=True)
    names = [
        "last_hidden_state",
        "other_representations",
        "attention_mask",
        "lstm_hidden",
        "lstm_cell",
        "hidden_states",
    ]
    assert list(expected) == names
    if by == "argument":
        actual = model(ids, output_hidden_states=True, return_dict=False)
    else:
        model.config.return_dict, model.config.output_hidden_states = False, True
        actual = model(ids)
    assert type(actual) is tuple
    torch.testing.assert_close(actual, tuple(expected.values()), **EXACT)


def test_hidden_states_are_returned_only_when_asked_for():
    model = tiny_model()
    model.config.output_hidden_states = True
    assert model(character_ids(), output_hidden_states=False).hidden_states is None
    assert len(model(character_ids()).hidden_states) == 3


def test_the_output_is_the_same_with_and_without_hidden_states():
    model = tiny_model()
    expected = model(character_ids()).last_hidden_state
    torch.testing.assert_close(model(character_ids(), output_hidden_states=True)[0], expected, **EXACT)


def test_dropout_acts_in_training_alone_and_spares_the_hidden_states():
    model = tiny_model(dropout=0.25)
    expected = model(character_ids(), output_hidden_states=True)
    model.train()
    torch.manual_seed(0)
    actual = model(character_ids(), output_hidden_states=True)
    torch.testing.assert_close(actual.hidden_states, expected.hidden_states, **EXACT)
    words = expected.mask
    kept = actual.last_hidden_state[words] != 0
    # 23 words of 12 features: three standard deviations of the dropped share are 0.08.
    assert 0.67 < kept.float().mean() < 0.83
    torch.testing.assert_close(actual.last_hidden_state[words][kept], expected.last_hidden_state[words][kept] / 0.75)


def test_the_model_says_the_same_call_after_call(run: Any):
    model = tiny_model()
    first, second, third = (run(model, input_ids=character_ids()).to_tuple() for _ in range(3))
    torch.testing.assert_close(first, second, **EXACT)
    torch.testing.assert_close(first, third, **EXACT)


def test_the_input_is_not_written_into(run: Any):
    ids, attention_mask = character_ids(), torch.ones(4, 11)
    before = ids.clone(), attention_mask.clone()
    run(tiny_model(), input_ids=ids, attention_mask=attention_mask)
    assert torch.equal(ids, before[0])
    assert torch.equal(attention_mask, before[1])


# ---------------------------------------------------------------------------------------------------------------------
# Gradients
# ---------------------------------------------------------------------------------------------------------------------


def loss_of(outputs: ElmoModelOutput) -> Tensor:
    return sum((k + 1) * (r**2).sum() for k, r in enumerate(outputs.elmo_representations))


def gradients_of(model: ElmoModel, ids: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss_of(model(ids)).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_every_parameter_learns_and_row_0_stays_zero():
    model = tiny_model(num_output_representations=2, dropout=0.0).train()
    gradients = gradients_of(model, character_ids())
    assert [name for name, gradient in gradients.items() if not gradient.abs().max() > 1e-4] == []
    torch.optim.AdamW(model.parameters(), lr=0.1).step()
    assert (model.get_input_embeddings().weight[0] == 0).all()


def test_gradients_are_the_numeric_ones():
    # No bound is reached here: a bound has no derivative.
    config = {"cell_clip": 3.0, "proj_clip": 5.0, "char_embedding_dim": 2, "projection_dim": 2, "cell_size": 3}
    model = tiny_model(**config, do_layer_norm=True).double()
    ids = character_ids([["a", "bc", "a"], ["d"]])
    attention_mask = (ids != 0).any(-1)
    embeds = model.get_input_embeddings()(ids).detach().requires_grad_()
    states = [torch.full((2, 2, 2, size), 0.1, dtype=torch.float64, requires_grad=True) for size in (2, 3)]
    parameters = {name: p for name, p in model.named_parameters() if "encoder.forward_layers.1" in name}

    def call(embeds: Tensor, hidden: Tensor, cell: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        kwargs = {"inputs_embeds": embeds, "attention_mask": attention_mask, "lstm_states": (hidden, cell)}
        outputs = torch.func.functional_call(model, dict(zip(parameters, values, strict=True)), kwargs=kwargs)
        return outputs.last_hidden_state, *outputs.lstm_states

    assert len(parameters) == 4
    assert torch.autograd.gradcheck(call, (embeds, *states, *parameters.values()), fast_mode=True)


def test_gradients_equal_those_of_the_traced_model_where_both_clips_act():
    # Tracing computes with torch's own operations, whose derivatives are torch's.
    model, ids = tiny_model(num_output_representations=2), character_ids()
    loss_of(call_as_traced(model, input_ids=ids)).backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    torch.testing.assert_close(gradients_of(model, ids), expected, rtol=1e-4, atol=1e-4)


def test_gradients_reach_through_the_carried_state():
    model = tiny_model()
    states = model(character_ids()).lstm_states
    loss_of(model(character_ids(SENTENCES[::-1]), lstm_states=states)).backward()
    through = model.encoder.forward_layers[0].weight_hh.grad.clone()
    model.zero_grad()
    cut = tuple(state.detach() for state in states)
    loss_of(model(character_ids(SENTENCES[::-1]), lstm_states=cut)).backward()
    assert (through - model.encoder.forward_layers[0].weight_hh.grad).abs().max() > 1e-3


def test_gradients_with_respect_to_hidden_states_are_the_mixing_weights():
    model = tiny_model()
    outputs = model(character_ids(), output_hidden_states=True)
    for layer in outputs.hidden_states:
        layer.retain_grad()
    outputs.last_hidden_state[0, 0, 0].backward()
    weights = model.scalar_mixes[0].gamma * torch.softmax(model.scalar_mixes[0].scalar_parameters, 0)
    for weight, layer in zip(weights, outputs.hidden_states, strict=True):
        assert layer.grad[0, 0, 0].item() == pytest.approx(weight.item(), abs=1e-6)
        assert int((layer.grad != 0).sum()) == 1


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_computes_the_layers_again_and_gives_the_same_gradients(use_reentrant: bool):
    model, calls = tiny_model(dropout=0.0).train(), []
    expected = gradients_of(model, character_ids())
    layer = model.encoder.forward_layers[1]
    weights = layer.weights

    def counted() -> Any:
        calls.append(1)
        return weights()

    layer.weights = counted
    # transformers 5.23 renames it.
    enable, disable = (
        getattr(model, f"activation_checkpointing_{verb}", None) or getattr(model, f"gradient_checkpointing_{verb}")
        for verb in ("enable", "disable")
    )
    enable({"use_reentrant": use_reentrant})
    torch.testing.assert_close(gradients_of(model, character_ids()), expected, rtol=0, atol=ROUNDING)
    assert len(calls) == 2
    disable()
    gradients_of(model, character_ids())
    assert len(calls) == 3


def test_gradients_add_up_over_two_backward_passes():
    model, ids = tiny_model(dropout=0.0).train(), character_ids()
    once = gradients_of(model, ids)
    loss_of(model(ids)).backward()
    twice = {name: parameter.grad / 2 for name, parameter in model.named_parameters()}
    torch.testing.assert_close(twice, once, rtol=1e-5, atol=ROUNDING)


def test_training_and_evaluation_may_alternate_with_changing_weights():
    model, ids = tiny_model(dropout=0.0), character_ids()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        with torch.inference_mode():
            evaluated = model.eval()(ids).last_hidden_state.clone()
        outputs = model.train()(ids)
        # Evaluation must read the weights of now, not those of an earlier call.
        torch.testing.assert_close(evaluated, outputs.last_hidden_state.detach(), rtol=0, atol=ROUNDING)
        optimizer.zero_grad()
        loss_of(outputs).backward()
        optimizer.step()
        losses.append(loss_of(outputs).item())
    assert losses[0] > losses[1] > losses[2]


def changed_by_data(model: ElmoModel, other: ElmoModel):
    for parameter, value in zip(model.parameters(), other.parameters(), strict=True):
        parameter.data = value.data.clone()


def changed_in_place(model: ElmoModel, other: ElmoModel):
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), other.parameters(), strict=True):
            parameter.copy_(value)


def changed_by_state_dict(model: ElmoModel, other: ElmoModel):
    model.load_state_dict(other.state_dict())


def changed_by_assignment(model: ElmoModel, other: ElmoModel):
    model.load_state_dict(copy.deepcopy(other.state_dict()), assign=True)


def changed_by_setattr(model: ElmoModel, other: ElmoModel):
    for name, parameter in other.named_parameters():
        module, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(module), attribute, nn.Parameter(parameter.detach().clone()))


CHANGES = [changed_by_data, changed_in_place, changed_by_state_dict, changed_by_assignment, changed_by_setattr]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_weights_count_from_the_next_call_on(change: Any):
    model, other = tiny_model(seed=1), tiny_model(seed=2)
    with torch.inference_mode():
        expected = other(character_ids()).last_hidden_state
        before = model(character_ids()).last_hidden_state
    change(model, other)
    with torch.inference_mode():
        torch.testing.assert_close(model(character_ids()).last_hidden_state, expected, rtol=0, atol=ROUNDING)
    assert (before - expected).abs().max() > 0.01


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_used_model_has_weights_of_its_own(duplicate: Any):
    model = tiny_model()
    with torch.inference_mode():
        expected = model(character_ids()).last_hidden_state
    twin_model = duplicate(model)
    with torch.inference_mode():
        torch.testing.assert_close(twin_model(character_ids()).last_hidden_state, expected, **EXACT)
    changed_in_place(twin_model, tiny_model(seed=3))
    with torch.inference_mode():
        torch.testing.assert_close(model(character_ids()).last_hidden_state, expected, **EXACT)
        assert (twin_model(character_ids()).last_hidden_state - expected).abs().max() > 0.01


# ---------------------------------------------------------------------------------------------------------------------
# Number formats, devices, tracing, threads
# ---------------------------------------------------------------------------------------------------------------------

# A few units of the last place of values around 1: 2 ** -8 and 2 ** -11.
HALF_PRECISION = {torch.bfloat16: 0.06, torch.float16: 0.008}


@pytest.mark.parametrize("dtype", HALF_PRECISION, ids=str)
def test_half_precision_is_close_to_single(run: Any, dtype: torch.dtype):
    expected = tiny_model()(character_ids(), output_hidden_states=True)
    actual = run(tiny_model().to(dtype), input_ids=character_ids(), output_hidden_states=True)
    assert actual.last_hidden_state.dtype == dtype
    assert [state.dtype for state in actual.lstm_states] == [dtype, dtype]
    for half, single in zip(actual.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(half.float(), single, rtol=0, atol=HALF_PRECISION[dtype])


@pytest.mark.parametrize("dtype", HALF_PRECISION, ids=str)
def test_half_precision_trains(dtype: torch.dtype):
    expected = gradients_of(tiny_model(), character_ids())
    for name, gradient in gradients_of(tiny_model().to(dtype), character_ids()).items():
        assert gradient.dtype == dtype
        similarity = torch.cosine_similarity(gradient.float().flatten(), expected[name].flatten(), dim=0)
        assert similarity > 0.99, name


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_autocast_is_close_to_single(training: bool):
    model = tiny_model()
    expected = model(character_ids()).last_hidden_state
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.set_grad_enabled(training):
        actual = model(character_ids()).last_hidden_state
    torch.testing.assert_close(actual.float(), expected.detach(), rtol=0, atol=2 * HALF_PRECISION[torch.bfloat16])


def test_layer_normalisation_survives_half_precision():
    # The sum of squares of 8,000 features around 10 is beyond the largest float16, 65,504.
    mix = ElmoScalarMix(tiny_config(do_layer_norm=True, num_hidden_layers=1)).half()
    layers = list(10 * torch.randn(2, 80, 100, generator=torch.Generator().manual_seed(0)))
    expected = mix.float()(layers)
    actual = mix.half()([layer.half() for layer in layers])
    torch.testing.assert_close(actual.float(), expected, rtol=0, atol=0.01)


def test_a_model_on_meta_tells_its_shapes():
    with torch.device("meta"):
        model = ElmoModel(tiny_config(num_output_representations=2, keep_sentence_boundaries=True)).eval()
    outputs = model(torch.zeros(3, 7, 50, dtype=torch.long, device="meta"), output_hidden_states=True)
    real = tiny_model(num_output_representations=2, keep_sentence_boundaries=True)(
        character_ids(SENTENCES[:3], width=7), output_hidden_states=True
    )
    flat = list(zip(torch.utils._pytree.tree_leaves(outputs), torch.utils._pytree.tree_leaves(real), strict=True))
    assert len(flat) == 8
    for meta, actual in flat:
        assert meta.device.type == "meta"
        assert (meta.shape, meta.dtype) == (actual.shape, actual.dtype)


def test_several_threads_give_what_one_gives():
    model = tiny_model()
    batches = [character_ids(SENTENCES[k % 4 :] + SENTENCES[: k % 3]) for k in range(24)]

    def call(ids: Tensor) -> Tensor:
        with torch.inference_mode():
            return model(ids).last_hidden_state

    expected = list(map(call, batches))
    # A model that has not been called yet: what it prepares at its first call is prepared by all at once.
    model = tiny_model()
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            torch.testing.assert_close(list(pool.map(call, batches)), expected, rtol=0, atol=ROUNDING)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_model(num_output_representations=1).save_pretrained(tmp_path / "elmo-tiny")
    return tmp_path / "elmo-tiny"


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}, {"character_encoder": "cpu", "": "cpu"}], ids=str)
def test_a_device_map_changes_no_value(folder: Path, device_map: Any):
    expected = tiny_model()(character_ids()).last_hidden_state
    model = ElmoModel.from_pretrained(folder, device_map=device_map)
    found = model(character_ids().to(model.device)).last_hidden_state.cpu()
    torch.testing.assert_close(found, expected, **(EXACT if model.device.type == "cpu" else {}))


@pytest.mark.parametrize("to", ["memory", "disk"])
def test_offloaded_weights_change_no_value(tmp_path: Path, to: str):
    model = tiny_model()
    expected = model(character_ids()).last_hidden_state
    device = torch.device("cpu")
    if to == "memory":
        model = accelerate.cpu_offload(model, execution_device=device)
    else:
        model = accelerate.disk_offload(model, tmp_path / "weights", execution_device=device)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    for _ in range(2):
        with torch.inference_mode():
            torch.testing.assert_close(model(character_ids()).last_hidden_state, expected, rtol=0, atol=ROUNDING)


# ---------------------------------------------------------------------------------------------------------------------
# Saved models
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_saved_model_may_be_loaded_with_one_layer_selected(folder: Path, logged: Any, layer: int):
    parameters = [-9e10, -9e10, -9e10]
    parameters[layer] = 1.0
    model = ElmoModel.from_pretrained(folder, scalar_mix_parameters=parameters)
    outputs = model(character_ids(), output_hidden_states=True)
    assert torch.equal(outputs.last_hidden_state, outputs.hidden_states[layer])
    expected = tiny_model()(character_ids(), output_hidden_states=True).hidden_states
    torch.testing.assert_close(outputs.hidden_states, expected, **EXACT)
    assert logged() == []


def test_a_saved_model_may_be_loaded_with_more_mixes_which_start_even(folder: Path, logged: Any):
    model = ElmoModel.from_pretrained(folder, num_output_representations=3)
    outputs = model(character_ids(), output_hidden_states=True)
    torch.testing.assert_close(outputs.last_hidden_state, tiny_model()(character_ids()).last_hidden_state, **EXACT)
    even = sum(outputs.hidden_states) / 3
    torch.testing.assert_close(outputs.elmo_representations[1], even)
    torch.testing.assert_close(outputs.elmo_representations[2], even)
    assert logged() == []


def test_a_saved_model_may_be_loaded_with_fewer_mixes(tmp_path: Path, logged: Any):
    tiny_model(num_output_representations=2).save_pretrained(tmp_path)
    model = ElmoModel.from_pretrained(tmp_path, num_output_representations=1)
    expected = tiny_model(num_output_representations=2)(character_ids()).elmo_representations[0]
    torch.testing.assert_close(model(character_ids()).elmo_representations, (expected,), **EXACT)
    assert logged() == []


def test_a_missing_weight_of_the_language_model_is_told(folder: Path, logged: Any):
    state_dict = tiny_model().state_dict()
    del state_dict["encoder.forward_layers.0.bias"]
    ElmoModel.from_pretrained(None, config=tiny_config(), state_dict=state_dict)
    assert any("encoder.forward_layers.0.bias" in line for line in logged())


def test_new_models_start_as_bilm_tf_starts_them():
    torch.manual_seed(0)
    model = ElmoModel(ElmoConfig(projection_dim=64, cell_size=128))
    encoder, layer = model.character_encoder, model.encoder.backward_layers[1]
    assert (encoder.embeddings.weight[0] == 0).all()
    assert 0.95 < encoder.embeddings.weight.abs().max() <= 1
    assert 0.045 < encoder.convolutions[6].weight.abs().max() <= 0.05
    assert (encoder.convolutions[6].bias == 0).all()
    assert (encoder.highways[1].carry_gate.bias == -2).all()
    assert encoder.highways[1].transform.weight.std().item() == pytest.approx(2048**-0.5, rel=0.01)
    # Xavier: sqrt(6 / (rows + columns))
    assert layer.weight_hh.abs().max().item() == pytest.approx((6 / (512 + 64)) ** 0.5, rel=0.01)
    assert (layer.bias == 0).all()
    assert model.scalar_mixes[0].scalar_parameters.tolist() == [0, 0, 0]
    assert model.scalar_mixes[0].gamma.item() == 1


# ---------------------------------------------------------------------------------------------------------------------
# Wrong inputs
# ---------------------------------------------------------------------------------------------------------------------


def zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.long)


def ids_with(value: int) -> Tensor:
    ids = character_ids()
    ids[1, 2, 3] = value
    return ids


WRONG_INPUTS = [
    ({}, "Exactly one of `input_ids` and `inputs_embeds`"),
    ({"input_ids": zeros(1, 2, 50), "inputs_embeds": torch.zeros(1, 2, 50, 4)}, "Exactly one of"),
    ({"input_ids": zeros(1, 2, 49)}, r"`input_ids` must have shape \(batch, words, 50\), was: \(1, 2, 49\)"),
    ({"input_ids": zeros(2, 50)}, r"`input_ids` must have shape \(batch, words, 50\), was: \(2, 50\)"),
    ({"input_ids": ids_with(262)}, "`input_ids` must be from 0 to 261, was: from 0 to 262"),
    ({"input_ids": ids_with(-1)}, "`input_ids` must be from 0 to 261, was: from -1 to 261"),
    ({"input_ids": zeros(2, 3, 50), "attention_mask": torch.ones(2, 4)}, r"shape \(2, 3\), was: \(2, 4\)"),
    ({"input_ids": zeros(2, 3, 50), "attention_mask": torch.ones(2, 3, 50)}, r"was: \(2, 3, 50\)"),
    ({"inputs_embeds": torch.zeros(1, 2, 50, 5)}, r"\(batch, words, 50, 4\), was: \(1, 2, 50, 5\)"),
    ({"inputs_embeds": torch.zeros(2, 50, 4)}, r"\(batch, words, 50, 4\), was: \(2, 50, 4\)"),
    (
        {"input_ids": zeros(2, 3, 50), "lstm_states": (torch.zeros(1, 2, 2, 6), torch.zeros(2, 2, 2, 10))},
        r"hidden \(2, 2, 2, 6\) and cell \(2, 2, 2, 10\), was: \(1, 2, 2, 6\) and \(2, 2, 2, 10\)",
    ),
]


@pytest.mark.parametrize(("inputs", "message"), WRONG_INPUTS, ids=[message[:40] for _, message in WRONG_INPUTS])
def test_wrong_inputs_raise_one_clear_error(inputs: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        tiny_model()(**inputs)
