"""The three ways to run an LSTM layer agree with each other, with PyTorch's own and with arithmetic by hand."""

import copy
import pickle
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from elmo_hf import ElmoConfig, ElmoModel, engine_elmo, lstm_elmo, products_elmo
from elmo_hf.lstm_elmo import (
    Clips,
    LstmFunction,
    LstmWeights,
    lstm,
    lstm_in_place,
    lstm_reference,
)
from elmo_hf.modeling_elmo import ElmoLstmLayer
from tests.tiny import character_ids, tiny_model

INPUT, CELL = 2, 3
BATCH_SIZES = [4, 4, 2, 1, 1]
# Wide enough bounds to leave some values alone, tight enough to catch others.
TIGHT = Clips(0.5, 0.4)
CLIPS = [Clips(None, None), TIGHT]


def random_layer(directions: tuple[int, ...] = (), dtype=torch.float64, seed: int = 0) -> list[torch.Tensor]:
    """Inputs, initial hidden states and cells, and the four weights."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [
        (sum(BATCH_SIZES), INPUT),
        (BATCH_SIZES[0], INPUT),
        (BATCH_SIZES[0], CELL),
        (4 * CELL, INPUT),
        (4 * CELL, INPUT),
        (4 * CELL,),
        (INPUT, CELL),
    ]
    return [torch.randn(*directions, *shape, dtype=dtype, generator=generator) * 0.9 for shape in shapes]


def traced(tensors: list[torch.Tensor], clips: Clips) -> tuple[torch.Tensor, ...]:
    return lstm_reference(*tensors[:3], BATCH_SIZES, LstmWeights(*tensors[3:]), clips)


@pytest.mark.parametrize("clips", CLIPS)
def test_one_step_is_the_formula(clips):
    inputs, hidden, cell, weight_ih, weight_hh, bias, weight_hr = (t.numpy() for t in random_layer())
    gates = inputs[:4] @ weight_ih.T + hidden @ weight_hh.T + bias
    input_gate, forget_gate, candidate, output_gate = np.split(gates, 4, axis=1)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    memory = sigmoid(forget_gate) * cell + sigmoid(input_gate) * np.tanh(candidate)
    if clips.cell is not None:
        memory = np.clip(memory, -clips.cell, clips.cell)
    output = (sigmoid(output_gate) * np.tanh(memory)) @ weight_hr.T
    if clips.projection is not None:
        assert (np.abs(output) > clips.projection).any()
        output = np.clip(output, -clips.projection, clips.projection)
    np.testing.assert_allclose(traced(random_layer(), clips)[0][:4].numpy(), output, atol=1e-12)


def test_without_clips_it_is_the_lstm_of_pytorch():
    inputs, hidden, cell, *weights = random_layer()
    twin = nn.LSTM(INPUT, CELL, proj_size=INPUT, dtype=torch.float64)
    weight_ih, weight_hh, bias, weight_hr = weights
    twin.load_state_dict(
        {
            "weight_ih_l0": weight_ih,
            "weight_hh_l0": weight_hh,
            "bias_ih_l0": bias,
            "bias_hh_l0": torch.zeros_like(bias),
            "weight_hr_l0": weight_hr,
        }
    )
    packed = nn.utils.rnn.PackedSequence(inputs, torch.tensor(BATCH_SIZES))
    expected, (expected_hidden, expected_cell) = twin(packed, (hidden[None], cell[None]))
    output, final_hidden, final_cell = traced(random_layer(), Clips(None, None))
    torch.testing.assert_close(output, expected.data)
    torch.testing.assert_close(final_hidden, expected_hidden[0])
    torch.testing.assert_close(final_cell, expected_cell[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("clips", CLIPS)
def test_inference_equals_the_traced_layer(clips, dtype):
    tensors = random_layer(dtype=dtype)
    before = [tensor.clone() for tensor in tensors]
    expected = traced(tensors, clips)
    with torch.no_grad():
        result = lstm(*tensors[:3], BATCH_SIZES, LstmWeights(*tensors[3:]), clips)
    for ours, theirs in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    # It works in place, but not on what it was given.
    assert all(map(torch.equal, tensors, before))


@pytest.mark.parametrize("clips", CLIPS)
def test_gradients_equal_those_of_autograd_through_the_traced_layer(clips):
    tensors = [tensor.requires_grad_() for tensor in random_layer()]
    results = LstmFunction.apply(*tensors, BATCH_SIZES, clips), traced(tensors, clips)
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)
    if clips.projection is not None:
        assert (results[0][0].abs() == clips.projection).any()
        assert (results[0][2].abs() == clips.cell).any()
    gradients = []
    for outputs in results:
        directions = [torch.linspace(-1, 1, output.numel(), dtype=output.dtype) for output in outputs]
        loss = sum((output.flatten() * d).sum() for output, d in zip(outputs, directions, strict=True))
        gradients.append(torch.autograd.grad(loss, tensors, retain_graph=True))
        # A second pass through a kept graph finds everything as it was.
        again = torch.autograd.grad(loss, tensors)
        assert all(map(torch.equal, gradients[-1], again))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("clips", CLIPS)
def test_gradients_equal_finite_differences(clips):
    tensors = [tensor.requires_grad_() for tensor in random_layer(seed=1)]
    assert torch.autograd.gradcheck(lambda *t: LstmFunction.apply(*t, BATCH_SIZES, clips), tensors)


def test_both_directions_in_one_product_equal_one_after_the_other():
    both = [tensor.requires_grad_() for tensor in random_layer((2,))]
    layers = [LstmWeights(*(weight[direction] for weight in both[3:])) for direction in range(2)]
    together = lstm(*both[:3], BATCH_SIZES, layers, TIGHT)
    with torch.no_grad():
        in_place = lstm(*both[:3], BATCH_SIZES, layers, TIGHT)
    for direction in range(2):
        alone = traced([tensor[direction] for tensor in both], TIGHT)
        for result in (together, in_place):
            for ours, theirs in zip(result, alone, strict=True):
                torch.testing.assert_close(ours[direction], theirs)


def test_the_model_gives_the_same_with_both_directions_batched(monkeypatch):
    model, ids = tiny_model().double(), character_ids()
    parameters = list(model.parameters())
    outputs, gradients = [], []
    for limits in ((), ((100, 1 << 20),)):
        monkeypatch.setattr(engine_elmo, "TOGETHER_LIMITS", limits)
        outputs.append(model(ids))
        gradients.append(torch.autograd.grad(outputs[-1].last_hidden_state.square().sum(), parameters))
        with torch.no_grad():
            torch.testing.assert_close(model(ids).last_hidden_state, outputs[-1].last_hidden_state)
    torch.testing.assert_close(outputs[0].last_hidden_state, outputs[1].last_hidden_state)
    torch.testing.assert_close(outputs[0].lstm_states, outputs[1].lstm_states)
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two)


@pytest.fixture
def large_layers(monkeypatch):
    """Tiny layers are treated as large ones: directions apart, products prepared."""
    monkeypatch.setattr(engine_elmo, "TOGETHER_LIMITS", ())
    monkeypatch.setattr(products_elmo, "LARGE_WEIGHT", 0)
    monkeypatch.setattr(engine_elmo, "PACKED_STEPS", 0)


@pytest.fixture(params=["small layers", "large layers"])
def either_size(request):
    if request.param == "large layers":
        request.getfixturevalue("large_layers")


def test_directions_of_small_layers_share_the_steps_of_small_batches(monkeypatch):
    model, ids = tiny_model(), character_ids()
    calls = mock.Mock(wraps=lstm_in_place)
    monkeypatch.setattr(lstm_elmo, "lstm_in_place", calls)

    def leading_shapes() -> list[torch.Size]:
        calls.reset_mock()
        with torch.no_grad():
            model(ids)
        return [call.args[0].shape[:-2] for call in calls.call_args_list]

    largest = model.encoder.forward_layers[0].weight_hh.numel()
    monkeypatch.setattr(engine_elmo, "TOGETHER_LIMITS", ((len(ids), largest),))
    assert leading_shapes() == [(2,)] * 2
    for limits in (((len(ids) - 1, largest),), ((len(ids), largest - 1),)):
        monkeypatch.setattr(engine_elmo, "TOGETHER_LIMITS", limits)
        assert leading_shapes() == [()] * 4


def test_hooks_of_layers_are_called_and_pruned_layers_trained():
    model, ids, calls = tiny_model(), character_ids(), []
    for layer in (*model.encoder.forward_layers, *model.encoder.backward_layers):
        layer.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        model(ids)
    assert len(calls) == 4

    pruned = tiny_model()
    prune.l1_unstructured(pruned.encoder.forward_layers[0], "weight_hh", 0.5)
    for _ in range(2):
        optimizer_step(pruned)
    assert (pruned.encoder.forward_layers[0].weight_hh == 0).sum() == 120


@pytest.mark.usefixtures("large_layers")
def test_the_model_gives_the_same_with_the_directions_in_threads(monkeypatch):
    model, ids = tiny_model(), character_ids()
    threads = torch.get_num_threads()
    calls = []

    run_in_threads = engine_elmo.run_in_threads

    def counted(tasks, *threads_each):
        calls.append(len(tasks))
        return run_in_threads(tasks, *threads_each)

    monkeypatch.setattr(engine_elmo, "run_in_threads", counted)
    results = {}
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            for mode in (torch.no_grad, torch.inference_mode):
                with mode():
                    results[number, mode] = model(ids).last_hidden_state.clone()
            assert torch.get_num_threads() == number
    finally:
        torch.set_num_threads(threads)
    # Four layers are packed, two directions run.
    assert set(calls) == {2, 4}
    assert all(torch.equal(result, results[1, torch.no_grad]) for result in results.values())


def optimizer_step(model: ElmoModel):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(character_ids()).last_hidden_state.square().sum().backward()
    optimizer.step()


@torch.no_grad()
def edit_in_place(model: ElmoModel):
    for parameter in model.parameters():
        parameter.mul_(1.5)


@torch.no_grad()
def edit_one_element(model: ElmoModel):
    model.encoder.forward_layers[0].weight_hh[3, 2] += 5.0
    model.character_encoder.projection.bias[1] += 5.0


def edit_data(model: ElmoModel):
    for parameter in model.parameters():
        parameter.data.mul_(1.5)


def replace_data(model: ElmoModel):
    for parameter in model.parameters():
        parameter.data = parameter.data * 1.5


def load_other_weights(model: ElmoModel):
    torch.manual_seed(7)
    other = ElmoModel(model.config)
    model.load_state_dict(other.state_dict())


def convert_twice(model: ElmoModel):
    """Rounds the weights on the way; their storage may come back to the same address."""
    model.to(torch.bfloat16).to(torch.float32)


EDITS = [optimizer_step, edit_in_place, edit_one_element, edit_data, replace_data, load_other_weights, convert_twice]


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.usefixtures("either_size")
def test_a_change_of_the_weights_is_noticed(edit):
    model, ids = tiny_model(), character_ids()
    with torch.no_grad():
        before = model(ids).last_hidden_state
        assert torch.equal(model(ids).last_hidden_state, before)
    edit(model)
    fresh = ElmoModel(model.config).eval()
    fresh.load_state_dict(model.state_dict())
    with torch.no_grad():
        after = model(ids).last_hidden_state
        assert not torch.equal(after, before)
        torch.testing.assert_close(after, fresh(ids).last_hidden_state)


def holds_prepared_weights(model: ElmoModel) -> bool:
    return model.encoder.recurrent_weights._entry is not None


def test_pruning_again_is_noticed():
    model, ids = tiny_model(), character_ids()
    for amount in (0.3, 0.9):
        prune.l1_unstructured(model.character_encoder.projection, "weight", amount)
        prune.l1_unstructured(model.encoder.backward_layers[1], "weight_hr", amount)
        with torch.no_grad():
            found = model(ids).last_hidden_state
            torch.testing.assert_close(copy.deepcopy(model)(ids).last_hidden_state, found)
        model.clear_cache()
        with torch.no_grad():
            torch.testing.assert_close(model(ids).last_hidden_state, found)


def test_weight_normalization_and_checkpointing_go_together():
    model, ids = tiny_model(dropout=0.0).train(), character_ids()
    parametrizations.weight_norm(model.encoder.forward_layers[0], "weight_hh")

    def gradients() -> list[torch.Tensor]:
        return torch.autograd.grad(model(ids).last_hidden_state.square().sum(), list(model.parameters()))

    expected = gradients()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    torch.testing.assert_close(gradients(), expected)


@pytest.mark.usefixtures("either_size")
def test_copies_and_pickles_carry_no_prepared_weights():
    model, ids = tiny_model(), character_ids()
    with torch.no_grad():
        expected = model(ids).last_hidden_state
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert not holds_prepared_weights(twin)
            assert torch.equal(twin(ids).last_hidden_state, expected)


@pytest.mark.skipif(not products_elmo.onednn_works(), reason="needs oneDNN")
def test_few_sentences_between_batches_leave_the_weights_of_batches(large_layers, monkeypatch):
    monkeypatch.setattr(engine_elmo, "TOGETHER_LIMITS", ((2, 1 << 20),))
    model, ids = tiny_model(), character_ids()
    expected = ElmoModel(model.config).eval()
    expected.load_state_dict(model.state_dict())
    forms = []
    for number in (3, 1, 3, 2, 1, 2, 3):
        with torch.no_grad():
            found = model(ids[:number]).last_hidden_state
        torch.testing.assert_close(found, expected(ids[:number]).last_hidden_state)
        forms.append(model.encoder.recurrent_weights._entry[1])
    assert forms == ["packed"] * 4 + ["stacked"] * 2 + ["packed"]
    weights = model.encoder.forward_layers[0]
    with torch.no_grad():
        model(ids[:1]), model(ids[:1])
    stacked = model.encoder.recurrent_weights._entry[2][0]
    for found, weight in zip(stacked, (weights.weight_hh, weights.weight_hr), strict=True):
        assert found.is_contiguous()
        assert torch.equal(found[0].T, weight)


@pytest.mark.usefixtures("either_size")
def test_prepared_weights_are_let_go_when_training_begins():
    model, ids = tiny_model(), character_ids()
    with torch.no_grad():
        model(ids)
    assert holds_prepared_weights(model)
    model(ids)
    assert not holds_prepared_weights(model)
    assert model.character_encoder.word_vectors._entry is None


@pytest.mark.usefixtures("either_size")
def test_without_the_private_operators_the_results_are_the_same(monkeypatch):
    model, ids = tiny_model(), character_ids()
    with torch.no_grad():
        expected = model(ids).last_hidden_state
        for module in (engine_elmo, products_elmo):
            monkeypatch.setattr(module, "onednn_works", lambda: False)
        without = copy.deepcopy(model)(ids).last_hidden_state
    torch.testing.assert_close(without, expected)


@pytest.mark.parametrize("damage", ["missing", "wrong"])
def test_operators_that_are_missing_or_wrong_are_not_used(damage, monkeypatch, caplog):
    broken = mock.Mock(**({"_linear_pointwise.return_value": torch.zeros(3, 7)} if damage == "wrong" else {}))
    if damage == "missing":
        broken._reorder_linear_weight.side_effect = AttributeError("no such operator")
    monkeypatch.setattr(torch.ops, "mkldnn", broken)
    products_elmo.onednn_works.cache_clear()
    try:
        assert not products_elmo.onednn_works()
    finally:
        monkeypatch.undo()
        products_elmo.onednn_works.cache_clear()


@pytest.mark.usefixtures("either_size")
@pytest.mark.parametrize("device_dtype", [torch.bfloat16, torch.float16])
def test_autocast_runs_the_layers_in_its_dtype(device_dtype):
    model, ids = tiny_model(), character_ids()
    expected = model(ids).last_hidden_state
    with torch.autocast("cpu", device_dtype):
        trained = model(ids).last_hidden_state
        with torch.no_grad():
            inferred = model(ids).last_hidden_state
    for result in (trained, inferred):
        # Eight bits of mantissa over a few steps.
        torch.testing.assert_close(result.float(), expected.float(), atol=3e-2, rtol=3e-2)
    trained.float().square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.usefixtures("large_layers")
def test_directions_run_in_threads_wherever_there_are_two_and_no_gradients(monkeypatch):
    model, ids, calls = tiny_model(), character_ids(), []
    workers = engine_elmo._workers
    monkeypatch.setattr(engine_elmo, "_workers", lambda *args: calls.append(1) or workers(*args))
    with torch.no_grad():
        alone = model(ids).last_hidden_state
    assert not calls
    torch.set_num_threads(2)
    try:
        model(ids)
        assert not calls
        with torch.no_grad():
            assert torch.equal(model(ids).last_hidden_state, alone)
        assert calls
        # A hook may not be meant for another thread.
        del calls[:]
        model.encoder.forward_layers[0].register_forward_hook(lambda *_: None)
        with torch.no_grad():
            model(ids)
        assert not calls
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_the_constant_of_the_forget_gate_is_added_at_run_time():
    layer = ElmoLstmLayer(ElmoConfig(projection_dim=2, cell_size=3, char_cnn_filters=[[1, 2]]), 0)
    nn.init.zeros_(layer.bias)
    assert layer.weights().bias.tolist() == [0.0] * 3 + [1.0] * 3 + [0.0] * 6


def test_in_bfloat16_the_memory_cell_of_training_adds_up_in_float32():
    # Each of 400 steps adds 1 / 256 of its place to the cell: sums in bfloat16 would stop at 1 / 2 of it.
    size, steps = 4, 400
    weights = LstmWeights(
        torch.zeros(4 * size, 1),
        torch.zeros(4 * size, 1),
        torch.tensor([20.0, 20.0, 1 / 256, 20.0]).repeat_interleave(size),
        torch.ones(1, size),
    )
    weights = LstmWeights(*(weight.bfloat16().requires_grad_() for weight in weights))
    states = torch.zeros(steps, 1), torch.zeros(1, 1), torch.zeros(1, size)
    inputs, hidden, cell = (state.bfloat16() for state in states)
    _, _, found = lstm(inputs, hidden, cell, [1] * steps, weights, Clips(None, None))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), torch.full((1, size), steps / 256), rtol=2**-8, atol=0)
