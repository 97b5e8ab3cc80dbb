"""Derivatives of every order and mode are those of the reference layer, whichever way the model runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo import compiled_autograd
from torch.autograd import forward_ad
from torch.autograd import functional as autograd
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, stack_module_state, vjp, vmap
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from elmo_hf import (
    ElmoForMultipleChoice,
    ElmoForPreTraining,
    ElmoForQuestionAnswering,
    ElmoForSequenceClassification,
    ElmoForTokenClassification,
    ElmoModel,
    engine_elmo,
    lstm_elmo,
)
from elmo_hf.lstm_elmo import LstmFunction, lstm
from elmo_hf.lstm_kernels_elmo import Clips, LstmWeights
from tests.tiny import SENTENCES, character_ids, tiny_model

pytestmark = [
    # PyTorch's note that a `vmap` of some operator is a loop.
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
    # Its own forward mode begins with it.
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
]

INPUT, CELL = 2, 3
BATCH_SIZES = [3, 3, 2, 1]
OPEN, TIGHT = Clips(None, None), Clips(0.5, 0.4)
CLIPS = [OPEN, TIGHT, Clips(0.5, None), Clips(None, 0.4)]
SHORT = [["The", "bank", "rose"], ["Yes"]]
# More sentences than run together, see `TOGETHER_LIMITS`.
MANY = [*SENTENCES, *([f"word{number}", "rose"] for number in range(32))]
# One small parameter of each kind, for derivatives that take a pass for each element.
SOME = ("encoder.forward_layers.0.bias", "encoder.backward_layers.1.bias", "scalar_mixes.0.scalar_parameters")

Weights = dict[str, Tensor]


# --- Both ways ------------------------------------------------------------------------------------------------------


@contextmanager
def reference_alone() -> Iterator[None]:
    """Layers run in the reference and nowhere else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lstm_elmo, "runs_plainly", lambda *tensors: False)
        patch.setattr(engine_elmo, "TOGETHER_LIMITS", ())
        yield


def assert_same(found: Any, expected: Any, relative: float = 1e-6):
    """To so much of the largest element of each tensor, in float64."""
    (ours, our_spec), (theirs, their_spec) = map(pytree.tree_flatten, (found, expected))
    assert our_spec == their_spec
    for one, other in zip(ours, theirs, strict=True):
        if other is None:
            assert one is None
            continue
        assert one.dtype == other.dtype == torch.float64
        assert other.isfinite().all()
        scale = float(other.detach().abs().max()) if other.numel() else 0.0
        # Some are 0 but for rounding.
        torch.testing.assert_close(one, other, rtol=0, atol=relative * scale + 1e-13)


def assert_as_the_reference(compute: Callable[[], Any]):
    found = compute()
    with reference_alone():
        expected = compute()
    assert_same(found, expected)
    assert any(tensor is not None and tensor.abs().max() > 1e-6 for tensor in pytree.tree_leaves(expected))


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def either_threads(request) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["both directions together", "directions apart"])
def either_way(request, monkeypatch) -> None:
    if request.param == "directions apart":
        monkeypatch.setattr(engine_elmo, "TOGETHER_LIMITS", ())


@pytest.fixture
def model() -> ElmoModel:
    return tiny_model(dropout=0.0).double()


@pytest.fixture(params=[SHORT, MANY], ids=["few sentences", "many sentences"])
def ids(request) -> Tensor:
    return character_ids(request.param)


def weights_of(model: ElmoModel) -> Weights:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def called(model: ElmoModel, weights: Weights, ids: Tensor) -> Tensor:
    """The mixed vectors of the sentences under these weights."""
    return functional_call(model, weights, (ids,)).last_hidden_state


def loss_of(model: ElmoModel, weights: Weights, ids: Tensor) -> Tensor:
    """Cubic, so that no derivative below the fourth is a constant."""
    outputs = called(model, weights, ids)
    return (outputs + outputs.square() + outputs**3).sum()


def tangents_of(values: Any, seed: int = 7) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return pytree.tree_map(lambda v: torch.randn(v.shape, dtype=v.dtype, generator=generator), values)


def embeds_of(model: ElmoModel, ids: Tensor) -> Tensor:
    return model.get_input_embeddings()(ids).detach()


# --- One layer ------------------------------------------------------------------------------------------------------


def layer_tensors(directions: tuple[int, ...] = (), batch_sizes: list[int] = BATCH_SIZES) -> list[Tensor]:
    """Inputs, initial hidden states and cells, and the four weights."""
    generator = torch.Generator().manual_seed(0)
    batch = batch_sizes[0] if batch_sizes else 0
    shapes = [
        (sum(batch_sizes), INPUT),
        (batch, INPUT),
        (batch, CELL),
        (4 * CELL, INPUT),
        (4 * CELL, INPUT),
        (4 * CELL,),
        (INPUT, CELL),
    ]
    return [torch.randn(*directions, *shape, dtype=torch.float64, generator=generator) * 0.9 for shape in shapes]


def run_layer(*tensors: Tensor, clips: Clips = TIGHT, batch_sizes: list[int] = BATCH_SIZES) -> tuple[Tensor, ...]:
    """[`lstm`] over one layer, or over one for each item of the first dimension."""
    if tensors[0].dim() == 2:
        return lstm(*tensors[:3], batch_sizes, LstmWeights(*tensors[3:]), clips)
    layers = [LstmWeights(*layer) for layer in zip(*tensors[3:], strict=True)]
    return lstm(*tensors[:3], batch_sizes, layers, clips)


def layer_loss(*tensors: Tensor, **kwargs: Any) -> Tensor:
    """A number in which each element of each result counts differently, and not linearly."""
    losses = []
    for result in run_layer(*tensors, **kwargs):
        factors = torch.linspace(0.5, 1.5, max(1, result.numel()), dtype=result.dtype)[: result.numel()]
        losses.append(((result + result**3).flatten() * factors).sum())
    return torch.stack(losses).sum()


@pytest.mark.parametrize("clips", CLIPS)
@pytest.mark.parametrize("directions", [(), (2,)], ids=["one layer", "two layers"])
def test_the_first_three_derivatives_of_a_layer_are_those_of_the_reference(directions, clips):
    def derivatives() -> list[tuple[Tensor, ...]]:
        tensors = [tensor.requires_grad_() for tensor in layer_tensors(directions)]
        value, found = layer_loss(*tensors, clips=clips), []
        for order in range(3):
            gradients = torch.autograd.grad(value, tensors, create_graph=order < 2, allow_unused=True)
            found.append(tuple(gradient.detach() for gradient in gradients))
            value = sum((gradient**2 + gradient).sum() for gradient in gradients)
        return found

    assert_as_the_reference(derivatives)


@pytest.mark.parametrize("clips", CLIPS)
@pytest.mark.parametrize("directions", [(), (2,)], ids=["one layer", "two layers"])
def test_second_derivatives_of_a_layer_are_the_numeric_ones(directions, clips):
    # No value lies within the steps of `gradgradcheck` of a bound, where there is no derivative.
    tensors = [tensor.requires_grad_() for tensor in layer_tensors(directions)]
    outputs, _, _ = LstmFunction.apply(*tensors, BATCH_SIZES, clips)
    for bound in filter(None, clips):
        distances = (outputs.abs() - bound).abs()
        assert ((distances == 0) | (distances > 1e-4)).all()
    assert torch.autograd.gradgradcheck(lambda *t: LstmFunction.apply(*t, BATCH_SIZES, clips), tensors, fast_mode=True)


@pytest.mark.parametrize("batch_sizes", [[3], [2, 1], [1], []], ids=str)
@pytest.mark.parametrize("wanted", range(7))
def test_second_derivatives_by_one_tensor_alone_are_those_of_the_reference(wanted, batch_sizes):
    def derivatives() -> list[Tensor | None]:
        tensors = layer_tensors(batch_sizes=batch_sizes)
        tensors[wanted].requires_grad_()
        loss = layer_loss(*tensors, batch_sizes=batch_sizes)
        if not loss.requires_grad:
            return []
        (first,) = torch.autograd.grad(loss, tensors[wanted], create_graph=True, allow_unused=True)
        if first is None or not first.requires_grad:
            return [None if first is None or not first.any() else first]
        (second,) = torch.autograd.grad(first.square().sum(), tensors[wanted], allow_unused=True)
        return [first, second]

    found = derivatives()
    with reference_alone():
        expected = derivatives()
    if any(derivative is not None for derivative in expected):
        assert_same(found, expected)
    else:
        assert not any(derivative is not None and derivative.any() for derivative in found)


@pytest.mark.parametrize("create_graph", [False, True])
def test_one_tensor_as_inputs_and_as_state_gets_the_sum_of_both_gradients(create_graph):
    def derivatives() -> list[Tensor]:
        shared, _, cell, *weights = layer_tensors(batch_sizes=[3])
        shared.requires_grad_()
        weights[1] = weights[0].requires_grad_()
        loss = layer_loss(shared, shared, cell, *weights, batch_sizes=[3])
        first = torch.autograd.grad(loss, [shared, weights[0]], create_graph=create_graph)
        if not create_graph:
            return list(first)
        return [*first, *torch.autograd.grad(sum(g.square().sum() for g in first), [shared, weights[0]])]

    assert_as_the_reference(derivatives)


def test_the_backward_pass_of_a_layer_may_be_compiled_alone():
    tensors = [tensor.requires_grad_() for tensor in layer_tensors()]
    expected = torch.autograd.grad(layer_loss(*tensors), tensors)
    loss = layer_loss(*tensors)
    with compiled_autograd._enable(torch.compile(backend="eager")):
        assert_same(torch.autograd.grad(loss, tensors), expected)


def test_gradients_of_gradients_of_some_results_alone_are_those_of_the_reference():
    def derivatives() -> list[Tensor]:
        found = []
        for index in range(3):
            tensors = [tensor.requires_grad_() for tensor in layer_tensors()]
            result = run_layer(*tensors)[index]
            first = torch.autograd.grad((result**2).sum(), tensors, create_graph=True, allow_unused=True)
            present = [gradient for gradient in first if gradient is not None]
            found += torch.autograd.grad(
                sum(gradient.square().sum() for gradient in present), tensors, allow_unused=True
            )
        return found

    assert_as_the_reference(derivatives)


@pytest.mark.parametrize("directions", [(), (2,)], ids=["one layer", "two layers"])
def test_transforms_of_a_layer_are_those_of_the_reference(directions):
    tensors = tuple(layer_tensors(directions))
    everything = tuple(range(len(tensors)))
    tangents = tangents_of(tensors)

    def transformed() -> list[Any]:
        results, pull_back = vjp(run_layer, *tensors)
        return [
            grad(layer_loss, everything)(*tensors),
            pull_back(tangents_of(results, seed=8)),
            jvp(run_layer, tensors, tangents),
            jvp(grad(layer_loss, everything), tensors, tangents),
            jacrev(run_layer, everything)(*tensors),
            jacfwd(run_layer, everything)(*tensors),
            hessian(layer_loss, (1, 5))(*tensors),
        ]

    assert_as_the_reference(transformed)


# --- The model, by autograd -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("either_way")
def test_gradients_are_those_of_the_reference(model, ids):
    parameters = list(model.parameters())
    assert_as_the_reference(lambda: torch.autograd.grad(loss_of(model, {}, ids), parameters))


@pytest.mark.usefixtures("either_way")
def test_second_and_third_derivatives_are_those_of_the_reference(model):
    parameters, ids = list(model.parameters()), character_ids(SHORT)

    def derivatives() -> list[Any]:
        first = torch.autograd.grad(loss_of(model, {}, ids), parameters, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), parameters, create_graph=True)
        third = torch.autograd.grad(sum(g.square().sum() for g in second), parameters)
        return [[gradient.detach() for gradient in gradients] for gradients in (first, second, third)]

    assert_as_the_reference(derivatives)


@pytest.mark.usefixtures("either_way")
def test_a_backward_pass_through_gradients_is_that_of_the_reference(model, ids):
    def derivatives() -> list[Tensor]:
        model.zero_grad()
        first = torch.autograd.grad(loss_of(model, {}, ids), list(model.parameters()), create_graph=True)
        sum(gradient.square().sum() for gradient in first).backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    assert_as_the_reference(derivatives)


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_a_gradient_penalty_is_that_of_the_reference(frozen, ids):
    """Of the characters' gradients: by the weights, and by the characters where the biLM is frozen."""
    model = tiny_model(dropout=0.0).double()
    embeds, mask = embeds_of(model, ids).requires_grad_(), (ids != 0).any(-1)
    if frozen:
        model.freeze_bilm()
    wanted = [embeds, *(parameter for parameter in model.parameters() if parameter.requires_grad)]

    def penalized() -> tuple[Tensor, ...]:
        outputs = model(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
        loss = (outputs + outputs**3).sum()
        (gradient,) = torch.autograd.grad(loss, embeds, create_graph=True)
        # The words' table of characters gets no gradient but from the boundaries.
        return torch.autograd.grad(loss + gradient.square().sum(), wanted)

    assert_as_the_reference(penalized)


@pytest.mark.usefixtures("either_threads")
def test_a_frozen_model_gives_gradients_to_characters_and_to_states(model, ids):
    embeds, mask = embeds_of(model, ids).requires_grad_(), (ids != 0).any(-1)
    model.requires_grad_(False)
    states = [
        torch.full((len(ids), 2, 2, size), 0.1, dtype=torch.float64, requires_grad=True)
        for size in (model.config.projection_dim, model.config.cell_size)
    ]

    def gradients() -> tuple[Tensor, ...]:
        outputs = model(inputs_embeds=embeds, attention_mask=mask, lstm_states=states)
        losses = [value.square().sum() for value in (outputs.last_hidden_state, *outputs.lstm_states)]
        return torch.autograd.grad(sum(losses), [embeds, *states])

    assert_as_the_reference(gradients)


@pytest.mark.usefixtures("either_threads")
def test_states_of_a_frozen_model_have_gradients_beside_word_vectors_without(model, ids):
    model.requires_grad_(False)
    states = [
        torch.full((len(ids), 2, 2, size), 0.1, dtype=torch.float64, requires_grad=True)
        for size in (model.config.projection_dim, model.config.cell_size)
    ]
    assert_as_the_reference(
        lambda: torch.autograd.grad(model(ids, lstm_states=states).last_hidden_state.square().sum(), states)
    )


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_gradients_of_the_reference(reentrant, ids):
    model = tiny_model(dropout=0.0).double().train()
    embeds, mask = embeds_of(model, ids).requires_grad_(), (ids != 0).any(-1)
    wanted = [embeds, *model.parameters()]

    def run(embeds: Tensor) -> Tensor:
        return model(inputs_embeds=embeds, attention_mask=mask).last_hidden_state

    def around() -> list[Tensor]:
        model.zero_grad()
        embeds.grad = None
        checkpoint(run, embeds, use_reentrant=reentrant).square().sum().backward()
        return [tensor.grad.clone() for tensor in wanted]

    assert_as_the_reference(around)
    expected = around()
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)(
        {"use_reentrant": reentrant}
    )

    def within() -> list[Tensor]:
        model.zero_grad()
        embeds.grad = None
        run(embeds).square().sum().backward()
        return [tensor.grad.clone() for tensor in wanted]

    assert_as_the_reference(within)
    assert_same(within(), expected)


def test_checkpointing_goes_together_with_second_derivatives(ids):
    model = tiny_model(dropout=0.0).double().train()
    parameters = list(model.parameters())

    def derivatives(loss: Tensor) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(loss, parameters, create_graph=True)
        return torch.autograd.grad(sum(gradient.square().sum() for gradient in first), parameters)

    expected = derivatives(loss_of(model, {}, ids))
    assert_same(derivatives(checkpoint(lambda: loss_of(model, {}, ids), use_reentrant=False)), expected)
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)({"use_reentrant": False})
    assert_same(derivatives(loss_of(model, {}, ids)), expected)


def test_several_gradients_at_once_are_those_one_by_one(model, ids):
    parameters = list(model.parameters())

    def batched() -> tuple[Tensor, ...]:
        outputs = called(model, {}, ids)
        directions = tangents_of(torch.stack([outputs.detach()] * 3))
        return torch.autograd.grad(outputs, parameters, directions, is_grads_batched=True)

    def one_by_one() -> tuple[Tensor, ...]:
        outputs = called(model, {}, ids)
        directions = tangents_of(torch.stack([outputs.detach()] * 3))
        each = [torch.autograd.grad(outputs, parameters, one, retain_graph=True) for one in directions]
        return tuple(map(torch.stack, zip(*each, strict=True)))

    def in_a_vmap() -> tuple[Tensor, ...]:
        outputs = called(model, {}, ids)
        directions = tangents_of(torch.stack([outputs.detach()] * 3))
        return vmap(lambda one: torch.autograd.grad(outputs, parameters, one, retain_graph=True))(directions)

    expected = one_by_one()
    assert_same(batched(), expected)
    assert_same(in_a_vmap(), expected)
    assert_as_the_reference(batched)


class Observed(TorchDispatchMode):
    """Sees every operation, as a counter of operations does."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


def test_a_backward_pass_alone_may_be_observed(model, ids):
    parameters = list(model.parameters())
    expected = torch.autograd.grad(loss_of(model, {}, ids), parameters)

    def through(mode: Any) -> tuple[Tensor, ...]:
        loss = loss_of(model, {}, ids)
        with mode:
            return torch.autograd.grad(loss, parameters)

    assert_same(through(Observed()), expected)
    assert_same(through(forward_ad.dual_level()), expected)


def test_second_derivatives_of_no_sentences_are_zero_and_of_streams_those_of_the_reference():
    model = tiny_model(model_class=ElmoForPreTraining, word_vocab_size=20).double()
    parameters = list(model.elmo.encoder.parameters())
    columns = character_ids(SENTENCES)[:, :1]

    def second(loss: Tensor) -> tuple[Tensor | None, ...]:
        first = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
        total = sum(one.square().sum() for one in first if one is not None)
        return torch.autograd.grad(total, parameters, allow_unused=True)

    def of_streams() -> tuple[Tensor | None, ...]:
        labels = torch.arange(4)[:, None]
        return second(model(columns, backward_input_ids=columns, labels=labels, backward_labels=labels).loss)

    assert_as_the_reference(of_streams)
    # A window of one word, of which one matrix alone is trained.
    model.elmo.requires_grad_(False)
    parameters = [model.elmo.encoder.forward_layers[1].weight_hr.requires_grad_()]
    assert_as_the_reference(of_streams)
    model.requires_grad_(True)
    parameters = list(model.elmo.parameters())
    nothing = model.elmo(character_ids([])[:0]).last_hidden_state.sum()
    assert not any(one is not None and one.any() for one in second(nothing))


# --- `torch.autograd.functional` and forward mode -------------------------------------------------------------------


def by_some(model: ElmoModel, ids: Tensor, names: tuple[str, ...] = SOME) -> tuple[Callable, tuple[Tensor, ...]]:
    """The mixed vectors as a function of some parameters, and those."""
    weights = weights_of(model)

    def outputs(*values: Tensor) -> Tensor:
        return called(model, {**weights, **dict(zip(names, values, strict=True))}, ids)

    return outputs, tuple(weights[name] for name in names)


def scalar(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def loss(*values: Tensor) -> Tensor:
        outputs = function(*values)
        return (outputs + outputs.square() + outputs**3).sum()

    return loss


def test_products_of_autograd_functional_are_those_of_the_reference(model, ids):
    function, values = by_some(model, ids)
    tangents = tangents_of(values)
    assert_as_the_reference(lambda: autograd.jvp(function, values, tangents))
    assert_as_the_reference(lambda: autograd.vjp(function, values, tangents_of(function(*values))))
    assert_as_the_reference(lambda: autograd.hvp(scalar(function), values, tangents))
    assert_as_the_reference(lambda: autograd.vhp(scalar(function), values, tangents))


@pytest.mark.parametrize(
    ("vectorize", "strategy"), [(False, "reverse-mode"), (True, "reverse-mode"), (True, "forward-mode")]
)
def test_jacobians_of_autograd_functional_are_those_of_the_reference(vectorize, strategy, model):
    function, values = by_some(model, character_ids([["Yes"]]))
    assert_as_the_reference(lambda: autograd.jacobian(function, values, vectorize=vectorize, strategy=strategy))


@pytest.mark.parametrize(
    ("vectorize", "strategy"), [(False, "reverse-mode"), (True, "reverse-mode"), (True, "forward-mode")]
)
def test_hessians_of_autograd_functional_are_those_of_the_reference(vectorize, strategy, model):
    function, values = by_some(model, character_ids(SHORT))
    loss = scalar(lambda one: function(one, *values[1:]))
    assert_as_the_reference(
        lambda: autograd.hessian(loss, values[0], vectorize=vectorize, outer_jacobian_strategy=strategy)
    )


@pytest.mark.usefixtures("either_threads")
@pytest.mark.parametrize("no_grad", [False, True])
def test_forward_mode_gives_the_derivatives_of_reverse_mode(no_grad, model, ids):
    weights = weights_of(model)
    tangents = tangents_of(weights)

    def pushed() -> Tensor:
        with forward_ad.dual_level(), torch.set_grad_enabled(not no_grad):
            duals = {name: forward_ad.make_dual(value, tangents[name]) for name, value in weights.items()}
            return forward_ad.unpack_dual(called(model, duals, ids)).tangent.detach()

    assert_as_the_reference(pushed)
    direction = tangents_of(called(model, {}, ids).detach(), seed=8)
    gradients = torch.autograd.grad(called(model, {}, ids), list(model.parameters()), direction)
    expected = sum((g * tangents[n]).sum() for g, n in zip(gradients, weights, strict=True))
    torch.testing.assert_close((pushed() * direction).sum(), expected)


def test_forward_mode_over_a_backward_pass_is_the_product_with_the_hessian(model, ids):
    names, values = SOME, by_some(model, ids)[1]
    tangents = tangents_of(values)
    loss = scalar(by_some(model, ids, names)[0])

    def pushed() -> list[Tensor]:
        with forward_ad.dual_level():
            duals = [
                forward_ad.make_dual(value.clone().requires_grad_(), tangent)
                for value, tangent in zip(values, tangents, strict=True)
            ]
            gradients = torch.autograd.grad(loss(*duals), duals, create_graph=True)
            return [forward_ad.unpack_dual(gradient).tangent.detach() for gradient in gradients]

    assert_as_the_reference(pushed)
    assert_same(pushed(), list(autograd.hvp(loss, values, tangents)[1]))


def test_a_backward_pass_with_dual_gradients_is_that_of_the_reference(model, ids):
    """The graph is older than the level: only what is handed back is dual."""
    parameters = list(model.parameters())

    def pushed() -> list[Tensor]:
        outputs = called(model, {}, ids)
        with forward_ad.dual_level():
            gradient = forward_ad.make_dual(torch.ones_like(outputs), tangents_of(outputs.detach()))
            found = torch.autograd.grad(outputs, parameters, gradient)
            return [forward_ad.unpack_dual(one).tangent for one in found]

    assert_as_the_reference(pushed)


# --- `torch.func` ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("either_threads")
def test_transforms_over_the_parameters_are_those_of_the_reference(model, ids):
    weights = weights_of(model)
    tangents = tangents_of(weights)

    def function(weights: Weights) -> Tensor:
        return called(model, weights, ids)

    def loss(weights: Weights) -> Tensor:
        return loss_of(model, weights, ids)

    def pulled() -> Weights:
        outputs, pull_back = vjp(function, weights)
        return pull_back(tangents_of(outputs))[0]

    assert_as_the_reference(lambda: grad(loss)(weights))
    assert_as_the_reference(pulled)
    assert_as_the_reference(lambda: jvp(function, (weights,), (tangents,)))
    assert_as_the_reference(lambda: jvp(grad(loss), (weights,), (tangents,)))


@pytest.mark.parametrize("transform", [jacrev, jacfwd])
def test_jacobians_over_parameters_are_those_of_the_reference(transform, model):
    function, values = by_some(model, character_ids(SHORT))
    assert_as_the_reference(lambda: transform(function, (0, 1, 2))(*values))


@pytest.mark.parametrize("transform", [hessian, lambda f: jacrev(jacrev(f)), lambda f: jacfwd(jacfwd(f))])
def test_hessians_over_parameters_are_those_of_the_reference(transform, model):
    function, values = by_some(model, character_ids(SHORT))
    loss = scalar(lambda one: function(one, *values[1:]))
    assert_as_the_reference(lambda: transform(loss)(values[0]))


def test_jacobians_over_characters_are_those_of_the_reference(model):
    ids = character_ids([["Yes", "no"]])
    embeds = embeds_of(model, ids)

    def function(some: Tensor) -> Tensor:
        all_embeds = torch.cat([some, embeds[:, :, 3:]], dim=2)
        return model(inputs_embeds=all_embeds).last_hidden_state

    assert_as_the_reference(lambda: [transform(function)(embeds[:, :, :3]) for transform in (jacrev, jacfwd)])


@pytest.mark.usefixtures("either_threads")
@pytest.mark.parametrize("grad_enabled", [True, False])
def test_an_ensemble_in_a_vmap_gives_what_each_model_gives(grad_enabled, ids):
    members = [tiny_model(seed, dropout=0.0).double() for seed in range(3)]
    weights, buffers = stack_module_state(members)
    with torch.set_grad_enabled(grad_enabled):
        found = vmap(lambda weights: functional_call(members[0], (weights, buffers), (ids,)).last_hidden_state)(
            weights
        )
        expected = torch.stack([member(ids).last_hidden_state for member in members])
    assert_same(found.detach(), expected.detach())


def test_gradients_of_an_ensemble_are_those_of_each_model(ids):
    members = [tiny_model(seed, dropout=0.0).double() for seed in range(2)]
    weights, _ = stack_module_state(members)
    weights = {name: weight.detach() for name, weight in weights.items()}
    found = vmap(grad(lambda one: loss_of(members[0], one, ids)))(weights)
    each = [torch.autograd.grad(loss_of(member, {}, ids), list(member.parameters())) for member in members]
    assert_same(list(found.values()), list(map(torch.stack, zip(*each, strict=True))))


@pytest.mark.usefixtures("either_threads")
@pytest.mark.parametrize("grad_enabled", [True, False])
@pytest.mark.parametrize("first", ["sentences of a batch", "batches"])
def test_a_vmap_over_sentences_gives_what_a_loop_gives(first, grad_enabled, model, ids):
    groups = ids.unsqueeze(1) if first == "sentences of a batch" else torch.stack([ids, ids.flip(0)])
    with torch.set_grad_enabled(grad_enabled):
        found = vmap(lambda group: model(group).last_hidden_state)(groups)
        expected = torch.stack([model(group).last_hidden_state for group in groups])
    assert_same(found.detach(), expected.detach())


@pytest.mark.usefixtures("either_threads")
def test_a_vmap_over_characters_and_masks_gives_what_a_loop_gives(model, ids):
    embeds, masks = embeds_of(model, ids).unsqueeze(1), (ids != 0).any(-1).unsqueeze(1)

    def run(embeds: Tensor, mask: Tensor) -> Tensor:
        return model(inputs_embeds=embeds, attention_mask=mask).last_hidden_state

    expected = torch.stack([run(*pair) for pair in zip(embeds, masks, strict=True)]).detach()
    assert_same(vmap(run)(embeds, masks).detach(), expected)


def test_a_vmap_over_words_without_padding_gives_what_a_loop_gives(model):
    embeds = embeds_of(model, character_ids([["The", "bank"], ["rose", "."]])).unsqueeze(1)
    found = vmap(lambda one: model(inputs_embeds=one).last_hidden_state)(embeds)
    expected = torch.stack([model(inputs_embeds=one).last_hidden_state for one in embeds])
    assert_same(found.detach(), expected.detach())


@pytest.mark.usefixtures("either_threads")
@pytest.mark.parametrize("closed_over", [False, True])
def test_gradients_of_each_sentence_in_a_vmap_are_those_of_a_loop(closed_over, model, ids):
    weights, rows = weights_of(model), ids.unsqueeze(1)
    if closed_over:
        found = vmap(lambda row: grad(lambda weights: loss_of(model, weights, row))(weights))(rows)
    else:
        found = vmap(grad(lambda weights, row: loss_of(model, weights, row)), in_dims=(None, 0))(weights, rows)
    parameters = list(model.parameters())
    each = [torch.autograd.grad(loss_of(model, {}, row), parameters) for row in rows]
    assert_same(list(found.values()), list(map(torch.stack, zip(*each, strict=True))))


def test_forward_derivatives_of_each_sentence_in_a_vmap_are_those_of_a_loop(model):
    weights, rows = weights_of(model), character_ids().unsqueeze(1)
    tangents = tangents_of(weights)

    def pushed(row: Tensor) -> Tensor:
        return jvp(lambda weights: called(model, weights, row), (weights,), (tangents,))[1]

    assert_same(vmap(pushed)(rows), torch.stack([pushed(row) for row in rows]))


def test_gradients_of_a_vmap_are_those_of_a_loop(model, ids):
    weights, rows = weights_of(model), ids.unsqueeze(1)
    found = grad(lambda weights: vmap(lambda row: loss_of(model, weights, row))(rows).sum())(weights)
    expected = torch.autograd.grad(sum(loss_of(model, {}, row) for row in rows), list(model.parameters()))
    assert_same(list(found.values()), list(expected))


def test_a_vmap_in_a_vmap_gives_what_loops_give(model):
    groups = torch.stack([character_ids(), character_ids().flip(0)]).unsqueeze(2)
    members = stack_module_state([tiny_model(seed, dropout=0.0).double() for seed in range(2)])[0]
    found = vmap(vmap(lambda row: model(row).last_hidden_state))(groups)
    expected = torch.stack([model(group.flatten(0, 1)).last_hidden_state.unsqueeze(1) for group in groups])
    assert_same(found.detach(), expected.detach())
    each_by_each = vmap(vmap(lambda w, r: called(model, w, r), (None, 0)), (0, None))(members, groups[0])
    expected = torch.stack([called(tiny_model(s, dropout=0.0).double(), {}, groups[0].squeeze(1)) for s in range(2)])
    assert_same(each_by_each.squeeze(2).detach(), expected.detach())


@pytest.mark.usefixtures("either_threads")
def test_other_weights_in_a_functional_call_leave_the_model_as_it_was(model, ids):
    others = [tiny_model(seed, dropout=0.0).double() for seed in (1, 2)]
    with torch.no_grad():
        before = model(ids).last_hidden_state
        for _ in range(2):
            for other in others:
                for weights in (weights_of(other), dict(other.named_parameters())):
                    found = called(model, weights, ids)
                    assert_same(found, other(ids).last_hidden_state)
        torch.testing.assert_close(model(ids).last_hidden_state, before)


# --- Heads ----------------------------------------------------------------------------------------------------------


def head_case(model_class: type, **overrides: Any) -> tuple[Any, Tensor, dict[str, Tensor]]:
    """A head in float64, its inputs and its labels."""
    config = {"num_labels": 3, "classifier_dropout": 0.0, "dropout": 0.0, "cell_clip": None, "proj_clip": None}
    if model_class is ElmoForPreTraining:
        config["word_vocab_size"] = 20
    model = tiny_model(model_class=model_class, **{**config, **overrides}).double()
    ids = character_ids(SHORT)
    if model_class is ElmoForMultipleChoice:
        ids = torch.stack([ids, ids.flip(0)])
    labels: dict[str, Tensor] = {
        ElmoForTokenClassification: {"labels": torch.tensor([[2, 0, 1], [1, -100, -100]])},
        ElmoForSequenceClassification: {"labels": torch.tensor([2, 0])},
        ElmoForQuestionAnswering: {"start_positions": torch.tensor([0, 0]), "end_positions": torch.tensor([2, 0])},
        ElmoForMultipleChoice: {"labels": torch.tensor([1, 0])},
        ElmoForPreTraining: {"labels": torch.tensor([[5, 19, 3], [4, -100, -100]])},
    }[model_class]
    return model, ids, labels


HEADS = [
    (ElmoForTokenClassification, {}),
    (ElmoForTokenClassification, {"head_lstm_size": 2}),
    (ElmoForSequenceClassification, {}),
    (ElmoForSequenceClassification, {"problem_type": "regression", "num_labels": 1}),
    (ElmoForSequenceClassification, {"problem_type": "multi_label_classification", "num_labels": 1}),
    (ElmoForSequenceClassification, {"sentence_pooling": "max"}),
    (ElmoForQuestionAnswering, {}),
    (ElmoForMultipleChoice, {}),
    (ElmoForPreTraining, {}),
    (ElmoForPreTraining, {"num_sampled_words": 5}),
]
HEAD_NAMES = ["-".join([head.__name__, *overrides]) for head, overrides in HEADS]


@pytest.mark.parametrize(("model_class", "overrides"), HEADS, ids=HEAD_NAMES)
def test_losses_of_heads_are_in_float64_and_have_the_numeric_gradients(model_class, overrides):
    model, ids, labels = head_case(model_class, **overrides)
    mask = (ids != 0).any(-1)
    embeds = embeds_of(model, ids).requires_grad_()

    def loss(embeds: Tensor) -> Tensor:
        return model(inputs_embeds=embeds, attention_mask=mask, **labels).loss

    assert loss(embeds).dtype == torch.float64
    assert torch.autograd.gradcheck(loss, embeds, fast_mode=True)
    (gradient,) = torch.autograd.grad(loss(embeds), embeds)
    assert gradient[mask].abs().max() > 1e-6
    assert not gradient[~mask].any()


@pytest.mark.parametrize(("model_class", "overrides"), HEADS, ids=HEAD_NAMES)
def test_second_derivatives_of_losses_are_the_numeric_ones(model_class, overrides):
    model, ids, labels = head_case(model_class, **overrides)
    mask, embeds = (ids != 0).any(-1), embeds_of(model, ids)
    embeds = (embeds + 0.01 * tangents_of(embeds)).requires_grad_()

    def loss(embeds: Tensor) -> Tensor:
        return model(inputs_embeds=embeds, attention_mask=mask, **labels).loss

    assert torch.autograd.gradgradcheck(loss, embeds, fast_mode=True)


@pytest.mark.parametrize(
    ("model_class", "overrides"),
    [case for case in HEADS if "head_lstm_size" not in case[1]],
    ids=[name for name in HEAD_NAMES if "head_lstm_size" not in name],
)
def test_gradients_of_each_example_of_a_head_are_those_of_a_loop(model_class, overrides):
    model, ids, labels = head_case(model_class, **overrides)
    weights = weights_of(model)

    def loss(weights: Weights, ids: Tensor, labels: Weights) -> Tensor:
        one = {name: label[None] for name, label in labels.items()}
        return functional_call(model, weights, (ids[None],), one).loss

    found = vmap(grad(loss), in_dims=(None, 0, 0))(weights, ids, labels)
    rows = [(ids[row], {name: label[row] for name, label in labels.items()}) for row in range(len(ids))]
    each = [torch.autograd.grad(loss({}, *row), list(model.parameters()), allow_unused=True) for row in rows]
    for (name, ours), *theirs in zip(found.items(), *each, strict=True):
        expected = torch.stack([torch.zeros_like(weights[name]) if one is None else one for one in theirs])
        assert_same(ours, expected)


def test_layer_normalization_in_a_vmap_gives_what_a_loop_gives():
    model, rows = tiny_model(dropout=0.0, do_layer_norm=True).double(), character_ids().unsqueeze(1)
    found = vmap(lambda row: model(row).last_hidden_state)(rows)
    assert_same(found.detach(), torch.stack([model(row).last_hidden_state for row in rows]).detach())
