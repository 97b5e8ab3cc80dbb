"""AllenNLP's interface: TensorFlow's outputs first, then each parameter by itself, then what a module must survive."""

import copy
import inspect
import json
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from elmo_hf import ElmoConfig, engine_elmo
from elmo_hf.allennlp import Elmo, batch_to_ids
from elmo_hf.checkpoints.bilm_hdf5 import read_model
from tests.tiny import SENTENCES

# float32 against TensorFlow's float32 on values up to 4, through 50 words and two layers.
GOLDEN = 2e-6

# Same sums in another order: float32 with values around 1.
ROUNDING = 1e-5

EXACT = {"rtol": 0.0, "atol": 0.0}

TOP_LAYER = [-9e10, -9e10, 1]

# Index 0 is padding whatever stands there; "bank" occurs twice.
VOCABULARY = ["@@PADDING@@", "@@UNKNOWN@@", "bank", "The", "river", "bank", "."]


@pytest.fixture
def make_elmo(reference_dir: Path) -> Callable[..., Elmo]:
    """Makes an `Elmo` of the reference files, in evaluation mode and with one mix unless told otherwise."""

    def make(num_output_representations: int = 1, *, train: bool = False, **arguments: Any) -> Elmo:
        files = reference_dir / "options.json", reference_dir / "lm_weights.hdf5"
        return Elmo(*files, num_output_representations, **arguments).train(train)

    return make


@pytest.fixture
def layers(reference_dir: Path) -> list[Tensor]:
    """The three layers of `SENTENCES`, (4, 13, 32) each, with the sentence boundaries."""
    model = read_model(
        reference_dir / "options.json", reference_dir / "lm_weights.hdf5", keep_sentence_boundaries=True
    )
    with torch.no_grad():
        return list(model(batch_to_ids(SENTENCES), output_hidden_states=True).hidden_states)


def vectors(elmo: Elmo, sentences: list[list[str]] = SENTENCES) -> Tensor:
    """The first mix."""
    with torch.no_grad():
        return elmo(batch_to_ids(sentences))["elmo_representations"][0]


def word_inputs(sentences: list[list[str]] = SENTENCES, unknown: int = -1) -> Tensor:
    """(sentences, words) where the words stand in `VOCABULARY`, 0 at padding, `unknown` at others."""
    indices = torch.zeros(len(sentences), max(map(len, sentences)), dtype=torch.long)
    for row, sentence in enumerate(sentences):
        for column, word in enumerate(sentence):
            indices[row, column] = VOCABULARY.index(word) if word in VOCABULARY else unknown
    return indices


def num_convolved(elmo: Elmo, call: Callable[[], Any]) -> int:
    """How many words pass the character convolutions during `call`."""
    # Not by a hook or a patch of the encoder: words are not remembered past one.
    with mock.patch.object(engine_elmo, "encode_by_length", wraps=engine_elmo.encode_by_length) as encode:
        call()
    return sum(len(words) for (_, words), _ in encode.call_args_list)


# ---------------------------------------------------------------------------------------------------------------------
# Golden
# ---------------------------------------------------------------------------------------------------------------------


class Reference:
    """The 30 reference sentences in the ten batches of three that TensorFlow got, and the top layer that it gave."""

    def __init__(self, folder: Path):
        rows = json.loads((folder / "sentences.json").read_text(encoding="utf-8"))
        self.batches = [[row[index].split() for row in rows] for index in range(10)]
        self.outputs: list[list[Tensor]] = [[] for _ in self.batches]
        for row in range(3):
            with h5py.File(folder / f"lm_embeddings_{row}.hdf5") as file:
                for index, outputs in enumerate(self.outputs):
                    # (2 directions, words, 16) to (words, 32)
                    outputs.append(torch.from_numpy(np.concatenate(file[str(index)][...], axis=-1)))

    def differences(self, run: Callable[[list[list[str]]], Tensor]) -> list[float]:
        """The largest difference in each batch."""
        largest = []
        for sentences, outputs in zip(self.batches, self.outputs, strict=True):
            given = run(sentences)
            gaps = [given[row, : len(output)] - output for row, output in enumerate(outputs)]
            largest.append(torch.cat(gaps).abs().max().item())
        return largest


@pytest.fixture(scope="session")
def reference(reference_dir: Path) -> Reference:
    return Reference(reference_dir)


def test_the_reference_sentences_agree_with_tensorflow_when_stateful(
    reference: Reference, make_elmo: Callable[..., Elmo]
):
    elmo = make_elmo(stateful=True, scalar_mix_parameters=TOP_LAYER)
    differences = reference.differences(lambda sentences: vectors(elmo, sentences))
    assert len(differences) == 10
    assert max(differences) <= GOLDEN


def test_the_reference_sentences_agree_with_tensorflow_when_the_model_is_handed_the_state(
    reference: Reference, reference_dir: Path
):
    model = read_model(reference_dir / "options.json", reference_dir / "lm_weights.hdf5")
    lstm_states = None

    def run(sentences: list[list[str]]) -> Tensor:
        nonlocal lstm_states
        outputs = model(batch_to_ids(sentences), lstm_states=lstm_states, output_hidden_states=True)
        lstm_states = outputs.lstm_states
        return outputs.hidden_states[-1]

    with torch.no_grad():
        assert max(reference.differences(run)) <= GOLDEN


def test_without_the_state_only_the_first_reference_batch_agrees(reference: Reference, make_elmo: Callable[..., Elmo]):
    elmo = make_elmo(scalar_mix_parameters=TOP_LAYER)
    first, *others = reference.differences(lambda sentences: vectors(elmo, sentences))
    assert first <= GOLDEN
    assert min(others) > 1e-3


def test_the_reference_word_vectors_agree_with_tensorflow(reference_dir: Path, make_elmo: Callable[..., Elmo]):
    words = (reference_dir / "vocab_test.txt").read_text(encoding="utf-8").splitlines()
    with h5py.File(reference_dir / "elmo_token_embeddings.hdf5") as file:
        expected = torch.from_numpy(file["embedding"][...])
    assert len(words) == len(expected) == 458
    given = vectors(make_elmo(scalar_mix_parameters=[1, -9e10, -9e10]), [[word] for word in words])[:, 0]
    assert (given - torch.cat([expected, expected], dim=1)).abs().max() <= GOLDEN


# ---------------------------------------------------------------------------------------------------------------------
# The signature, parameter by parameter
# ---------------------------------------------------------------------------------------------------------------------


def test_parameters_have_allennlps_names_order_and_defaults():
    parameters = inspect.signature(Elmo).parameters
    required = ["options_file", "weight_file", "num_output_representations"]
    defaults = {
        "requires_grad": False,
        "do_layer_norm": False,
        "dropout": 0.5,
        "vocab_to_cache": None,
        "keep_sentence_boundaries": False,
        "scalar_mix_parameters": None,
        "module": None,
        "stateful": False,
    }
    assert list(parameters) == [*required, *defaults]
    assert {name: parameters[name].default for name in defaults} == defaults
    assert [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY] == ["stateful"]
    assert list(inspect.signature(Elmo.forward).parameters) == ["self", "inputs", "word_inputs"]


def test_files_may_be_named_by_strings_or_paths(reference_dir: Path):
    options, weights = reference_dir / "options.json", reference_dir / "lm_weights.hdf5"
    by_path, by_string = Elmo(options, weights, 1).eval(), Elmo(str(options), str(weights), 1).eval()
    torch.testing.assert_close(vectors(by_path), vectors(by_string), **EXACT)


@pytest.mark.parametrize("missing", ["options.json", "lm_weights.hdf5"])
def test_a_missing_file_is_named(reference_dir: Path, tmp_path: Path, missing: str):
    options, weights = (
        (tmp_path if name == missing else reference_dir) / name for name in ("options.json", "lm_weights.hdf5")
    )
    with pytest.raises(FileNotFoundError, match=missing):
        Elmo(options, weights, 1)


@pytest.mark.parametrize("given", [(None, None), ("options.json", None), (None, "lm_weights.hdf5")])
def test_without_a_module_both_files_must_be_given(given: tuple[str | None, str | None]):
    with pytest.raises(ValueError, match="must be given without `module`"):
        Elmo(*given, 1)


@pytest.mark.parametrize("given", [("options.json", "lm_weights.hdf5"), ("options.json", None), (None, "x.hdf5")])
def test_with_a_module_no_file_may_be_given(given: tuple[str | None, str | None]):
    with pytest.raises(ValueError, match="must be None with `module`"):
        Elmo(*given, 1, module=ForeignBiLm())


def test_each_mix_has_weights_of_its_own_and_the_bilm_runs_once(make_elmo: Callable[..., Elmo], layers: list[Tensor]):
    elmo = make_elmo(num_output_representations=3)
    with torch.no_grad():
        elmo.model.scalar_mixes[1].scalar_parameters.copy_(torch.tensor([1.0, 2.0, -1.0]))
        elmo.model.scalar_mixes[2].gamma.fill_(2.0)
    runs: list[int] = []
    with elmo.model.encoder.register_forward_hook(lambda *_: runs.append(1)), torch.no_grad():
        first, second, third = elmo(batch_to_ids(SENTENCES))["elmo_representations"]
    assert len(runs) == 1
    stacked = torch.stack(layers)[:, 0, 1:7]
    torch.testing.assert_close(first[0, :6], stacked.mean(0), rtol=0, atol=ROUNDING)
    weights = torch.softmax(torch.tensor([1.0, 2.0, -1.0]), 0)
    torch.testing.assert_close(second[0, :6], torch.einsum("k,kwf->wf", weights, stacked), rtol=0, atol=ROUNDING)
    torch.testing.assert_close(third, 2 * first, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_requires_grad_trains_the_bilm_and_the_mixes_always_train(make_elmo: Callable[..., Elmo], requires_grad: bool):
    elmo = make_elmo(requires_grad=requires_grad)
    elmo(batch_to_ids(SENTENCES))["elmo_representations"][0].square().sum().backward()
    mixes = dict(elmo.model.scalar_mixes.named_parameters(prefix="model.scalar_mixes"))
    trained = {name for name, parameter in elmo.named_parameters() if parameter.grad is not None}
    expected = {name for name, _ in elmo.named_parameters()} if requires_grad else set(mixes)
    assert trained == expected
    assert all(parameter.grad.abs().max() > 0 for parameter in elmo.parameters() if parameter.grad is not None)


def test_do_layer_norm_normalises_over_the_batch_with_its_boundaries(
    make_elmo: Callable[..., Elmo], layers: list[Tensor]
):
    normalised = []
    for layer in layers:
        # Boundaries count, padding does not.
        values = torch.cat([layer[row, : len(sentence) + 2] for row, sentence in enumerate(SENTENCES)]).double()
        normalised.append((layer.double() - values.mean()) / values.std(correction=0))
    expected = (sum(normalised) / 3).float()
    given = vectors(make_elmo(do_layer_norm=True))
    for row, sentence in enumerate(SENTENCES):
        torch.testing.assert_close(
            given[row, : len(sentence)], expected[row, 1 : len(sentence) + 1], rtol=0, atol=ROUNDING
        )
        assert not given[row, len(sentence) :].any()


def test_dropout_falls_on_each_mix_anew_in_training_mode_only(make_elmo: Callable[..., Elmo]):
    elmo = make_elmo(num_output_representations=2, dropout=0.25, train=True)
    clean = vectors(elmo.eval())
    torch.testing.assert_close(clean, vectors(make_elmo(dropout=0.0, train=True)), rtol=0, atol=ROUNDING)
    torch.manual_seed(0)
    first, second = (mix.detach() for mix in elmo.train()(batch_to_ids(SENTENCES))["elmo_representations"])
    assert not torch.equal(first, second)
    for mix in (first, second):
        kept = mix != 0
        torch.testing.assert_close(mix[kept], clean[kept] / 0.75, rtol=1e-5, atol=ROUNDING)
        # 25 words of 32 values: five standard deviations around a quarter.
        dropped = (~kept & (clean != 0)).sum() / (clean != 0).sum()
        assert abs(dropped - 0.25) < 0.08


def test_a_new_elmo_is_in_training_mode_as_any_module(reference_dir: Path):
    elmo = Elmo(reference_dir / "options.json", reference_dir / "lm_weights.hdf5", 1)
    assert all(module.training for module in elmo.modules())
    assert elmo.model.dropout.p == 0.5


def test_keep_sentence_boundaries_adds_two_positions_to_vectors_and_mask(make_elmo: Callable[..., Elmo]):
    ids = batch_to_ids(SENTENCES)
    with torch.no_grad():
        bare, kept = make_elmo()(ids), make_elmo(keep_sentence_boundaries=True)(ids)
    assert kept["mask"].sum(1).tolist() == [len(sentence) + 2 for sentence in SENTENCES]
    for row, sentence in enumerate(SENTENCES):
        words = kept["elmo_representations"][0][row, 1 : len(sentence) + 1]
        torch.testing.assert_close(words, bare["elmo_representations"][0][row, : len(sentence)], rtol=0, atol=ROUNDING)
        begin_and_end = kept["elmo_representations"][0][row, [0, len(sentence) + 1]]
        assert (begin_and_end.abs().amax(1) > 0.01).all()


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_scalar_mix_parameters_select_one_layer_exactly(
    make_elmo: Callable[..., Elmo], layers: list[Tensor], layer: int
):
    parameters = [-9e10, -9e10, -9e10]
    parameters[layer] = 1
    given = vectors(make_elmo(scalar_mix_parameters=parameters))
    for row, sentence in enumerate(SENTENCES):
        words = layers[layer][row, 1 : len(sentence) + 1]
        torch.testing.assert_close(given[row, : len(sentence)], words, **EXACT)


def test_scalar_mix_parameters_are_fixed_together_with_gamma(make_elmo: Callable[..., Elmo], layers: list[Tensor]):
    elmo = make_elmo(num_output_representations=2, scalar_mix_parameters=[1.0, 0.0, -2.0])
    assert not any(parameter.requires_grad for parameter in elmo.parameters())
    mixed = torch.einsum("k,kwf->wf", torch.tensor([1.0, 0.0, -2.0]).softmax(0), torch.stack(layers)[:, 0, 1:7])
    torch.testing.assert_close(vectors(elmo)[0, :6], mixed, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("parameters", [[1.0], [1.0, 2.0], [1.0] * 4])
def test_scalar_mix_parameters_of_another_length_are_refused(make_elmo: Callable[..., Elmo], parameters: list[float]):
    with pytest.raises(ValueError, match="`scalar_mix_parameters` must be a list of 3 numbers"):
        make_elmo(scalar_mix_parameters=parameters)


def test_the_output_is_as_wide_as_promised(make_elmo: Callable[..., Elmo]):
    elmo = make_elmo()
    assert elmo.get_output_dim() == vectors(elmo).shape[-1] == 32


# ---------------------------------------------------------------------------------------------------------------------
# forward
# ---------------------------------------------------------------------------------------------------------------------


def test_more_leading_dimensions_are_one_batch(make_elmo: Callable[..., Elmo]):
    elmo, ids = make_elmo(num_output_representations=2, keep_sentence_boundaries=True), batch_to_ids(SENTENCES)
    with torch.no_grad():
        flat, deep = elmo(ids), elmo(ids.unflatten(0, (2, 1, 2)))
    assert deep["mask"].shape == (2, 1, 2, 13)
    assert torch.equal(deep["mask"].flatten(0, 2), flat["mask"])
    for given, expected in zip(deep["elmo_representations"], flat["elmo_representations"], strict=True):
        torch.testing.assert_close(given, expected.unflatten(0, (2, 1, 2)), **EXACT)


def test_the_mask_is_true_at_words_and_vectors_are_zero_elsewhere(make_elmo: Callable[..., Elmo]):
    # The empty word is a word; an empty sentence is none.
    output = make_elmo()(batch_to_ids([["a", "", "b"], [], ["c"]]))
    assert output["mask"].tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    is_zero = (output["elmo_representations"][0] == 0).all(-1)
    assert torch.equal(is_zero, ~output["mask"])


def test_an_empty_batch_has_empty_vectors(make_elmo: Callable[..., Elmo]):
    output = make_elmo(stateful=True)(torch.zeros(0, 3, 50, dtype=torch.long))
    assert output["elmo_representations"][0].shape == (0, 3, 32)
    assert output["mask"].shape == (0, 3)


def test_ids_of_another_width_are_refused(make_elmo: Callable[..., Elmo]):
    with pytest.raises(ValueError, match=r"\(batch, words, 50\)"):
        make_elmo()(torch.ones(1, 2, 49, dtype=torch.long))


# ---------------------------------------------------------------------------------------------------------------------
# vocab_to_cache and word_inputs
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unknown", [-1, len(VOCABULARY), 10**9, -(10**9)])
def test_words_outside_the_vocabulary_are_read_from_their_characters(make_elmo: Callable[..., Elmo], unknown: int):
    elmo = make_elmo(vocab_to_cache=VOCABULARY)
    with torch.no_grad():
        output = elmo(batch_to_ids(SENTENCES), word_inputs(unknown=unknown))
    torch.testing.assert_close(output["elmo_representations"][0], vectors(make_elmo()), rtol=0, atol=ROUNDING)
    assert output["mask"].sum(1).tolist() == [6, 7, 1, 11]


def test_an_index_names_the_word_whatever_the_characters_say(make_elmo: Callable[..., Elmo]):
    elmo = make_elmo(vocab_to_cache=VOCABULARY)
    with torch.no_grad():
        output = elmo(torch.zeros(1, 3, 50, dtype=torch.long), torch.tensor([[3, 4, 5]]))
    expected = vectors(make_elmo(), [["The", "river", "bank"]])
    torch.testing.assert_close(output["elmo_representations"][0], expected, rtol=0, atol=ROUNDING)


def test_index_0_is_padding(make_elmo: Callable[..., Elmo]):
    elmo = make_elmo(vocab_to_cache=["The", "river", "bank"])
    with torch.no_grad():
        output = elmo(batch_to_ids([["river", "bank", "The"]]), torch.tensor([[1, 2, 0]]))
    assert output["mask"].tolist() == [[True, True, False]]
    expected = vectors(make_elmo(), [["river", "bank"]])
    torch.testing.assert_close(output["elmo_representations"][0][:, :2], expected, rtol=0, atol=ROUNDING)


def test_padding_stays_padding_under_an_index_outside_the_vocabulary(make_elmo: Callable[..., Elmo]):
    elmo = make_elmo(vocab_to_cache=VOCABULARY)
    output = elmo(batch_to_ids([["The", "bank"], ["Yes"]]), torch.tensor([[3, 2], [-1, -1]]))
    assert output["mask"].tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize("vocabulary", [[], ["@@PADDING@@"], dict.fromkeys(VOCABULARY).keys()])
def test_a_vocabulary_may_be_empty_or_any_collection(make_elmo: Callable[..., Elmo], vocabulary: Any):
    elmo = make_elmo(vocab_to_cache=vocabulary)
    indices = torch.tensor([[2, 3]]) if len(vocabulary) > 1 else torch.tensor([[2, 1]])
    with torch.no_grad():
        output = elmo(batch_to_ids([["bank", "The"]]), indices)
    expected = vectors(make_elmo(), [["bank", "The"]])
    torch.testing.assert_close(output["elmo_representations"][0], expected, rtol=0, atol=ROUNDING)


def test_cached_words_are_convolved_once(make_elmo: Callable[..., Elmo]):
    elmo, ids = make_elmo(vocab_to_cache=VOCABULARY), batch_to_ids(SENTENCES)
    assert num_convolved(elmo, lambda: elmo(ids, word_inputs())) > 0
    assert num_convolved(elmo, lambda: elmo(ids, word_inputs())) == 0
    assert num_convolved(elmo, lambda: elmo(batch_to_ids([["bank", "newword"]]), torch.tensor([[2, -1]]))) == 1


def test_a_vocabulary_of_any_size_has_room_in_the_cache(
    make_elmo: Callable[..., Elmo], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ElmoConfig.__init__, "__defaults__", _with_default("word_cache_size", 3))
    elmo = make_elmo(vocab_to_cache=["", *map(str, range(40))])
    ids, indices = batch_to_ids([list(map(str, range(40)))]), torch.arange(1, 41)[None]
    assert num_convolved(elmo, lambda: elmo(ids, indices)) > 40
    assert num_convolved(elmo, lambda: elmo(ids, indices)) == 0


def _with_default(name: str, value: Any) -> tuple:
    """The defaults of `ElmoConfig` with one of them replaced."""
    parameters = inspect.signature(ElmoConfig.__init__).parameters.values()
    return tuple(value if p.name == name else p.default for p in parameters if p.default is not p.empty)


def test_cached_words_follow_the_weights(make_elmo: Callable[..., Elmo]):
    elmo, ids = make_elmo(vocab_to_cache=VOCABULARY, requires_grad=True), batch_to_ids(SENTENCES)
    before = vectors(elmo)
    optimizer = torch.optim.SGD(elmo.parameters(), lr=1e-3)
    elmo(ids, word_inputs())["elmo_representations"][0].sum().backward()
    optimizer.step()
    with torch.no_grad():
        after = elmo(ids, word_inputs())["elmo_representations"][0]
    uncached = make_elmo(requires_grad=True)
    uncached.load_state_dict(elmo.state_dict())
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(after, vectors(uncached), rtol=0, atol=ROUNDING)


def test_gradients_reach_the_characters_of_cached_words(make_elmo: Callable[..., Elmo]):
    gradients = []
    for vocabulary in (VOCABULARY, None):
        elmo = make_elmo(vocab_to_cache=vocabulary, requires_grad=True)
        indices = None if vocabulary is None else word_inputs()
        # What was remembered before must not stand in for what is to be trained.
        with torch.no_grad():
            elmo(batch_to_ids(SENTENCES), indices)
        elmo(batch_to_ids(SENTENCES), indices)["elmo_representations"][0].square().sum().backward()
        gradients.append(elmo.model.get_input_embeddings().weight.grad)
    assert gradients[1].abs().max() > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-4)


def test_word_inputs_may_have_more_leading_dimensions(make_elmo: Callable[..., Elmo]):
    elmo, ids = make_elmo(vocab_to_cache=VOCABULARY), batch_to_ids(SENTENCES)
    expected = vectors(elmo).unflatten(0, (2, 2))
    for inputs in (ids, ids.unflatten(0, (2, 2))):
        with torch.no_grad():
            output = elmo(inputs, word_inputs().unflatten(0, (2, 2)))
        assert output["mask"].shape == (2, 2, 11)
        torch.testing.assert_close(output["elmo_representations"][0], expected, rtol=0, atol=ROUNDING)


def test_word_inputs_that_do_not_fit_are_refused_with_both_shapes(make_elmo: Callable[..., Elmo]):
    with pytest.raises(ValueError, match=r"were: \(4, 11, 50\) and \(4, 10\)"):
        make_elmo(vocab_to_cache=VOCABULARY)(batch_to_ids(SENTENCES), word_inputs()[:, 1:])


def test_word_inputs_without_a_vocabulary_are_ignored_with_one_warning(
    make_elmo: Callable[..., Elmo], caplog: pytest.LogCaptureFixture
):
    # It keeps what it warned of for the whole process.
    logging.Logger.warning_once.cache_clear()  # type: ignore[attr-defined]
    elmo, ids = make_elmo(), batch_to_ids(SENTENCES)
    with caplog.at_level(logging.WARNING, logger="elmo_hf"), torch.no_grad():
        output = elmo(ids, word_inputs())
        elmo(ids, word_inputs())
    torch.testing.assert_close(output["elmo_representations"][0], vectors(elmo), **EXACT)
    assert ["vocab_to_cache" in record.getMessage() for record in caplog.records] == [True]


def test_a_string_is_no_vocabulary(make_elmo: Callable[..., Elmo]):
    with pytest.raises(TypeError, match="`vocab_to_cache` must be a list of words, was: 'bank'"):
        make_elmo(vocab_to_cache="bank")


# ---------------------------------------------------------------------------------------------------------------------
# module
# ---------------------------------------------------------------------------------------------------------------------


class ForeignBiLm(nn.Module):
    """A biLM with nothing in common with ours: layer k of a position is k + 1 times the position's number."""

    def __init__(self, num_layers: int = 4, mask_dtype: torch.dtype = torch.bool):
        super().__init__()
        self.num_layers = num_layers
        self.mask_dtype = mask_dtype
        self.scale = nn.Parameter(torch.ones(()))
        self.given_shapes: list[tuple[int, ...] | None] = []

    def get_output_dim(self) -> int:
        return 2

    def forward(self, inputs: Tensor, word_inputs: Tensor | None) -> dict[str, Any]:
        self.given_shapes = [tuple(inputs.shape), None if word_inputs is None else tuple(word_inputs.shape)]
        lengths = (inputs != 0).any(-1).sum(1) + 2
        positions = torch.arange(inputs.shape[1] + 2)
        # Padding is anything but zero, as it may be.
        values = torch.where(positions < lengths[:, None], positions, 1000).float()
        activations = [self.scale * (k + 1) * values[..., None].expand(-1, -1, 2) for k in range(self.num_layers)]
        return {"activations": activations, "mask": (positions < lengths[:, None]).to(self.mask_dtype)}


@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.long])
def test_a_foreign_bilm_is_mixed_and_loses_its_boundaries(mask_dtype: torch.dtype):
    elmo = Elmo(None, None, 2, dropout=0.0, module=ForeignBiLm(4, mask_dtype))
    output = elmo(batch_to_ids([["a", "b", "c"], ["d"]]))
    assert output["mask"].tolist() == [[True] * 3, [True, False, False]]
    # Four layers of 1, 2, 3 and 4 times the position: 2.5 times on average.
    for mix in output["elmo_representations"]:
        torch.testing.assert_close(mix[..., 0].detach(), 2.5 * torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0]]))
    assert elmo.get_output_dim() == 2


def test_a_foreign_bilm_can_keep_its_boundaries():
    elmo = Elmo(None, None, 1, dropout=0.0, keep_sentence_boundaries=True, module=ForeignBiLm(1))
    output = elmo(batch_to_ids([["a", "b"], ["d"]]))
    assert output["mask"].tolist() == [[True] * 4, [True, True, True, False]]
    torch.testing.assert_close(
        output["elmo_representations"][0][..., 1].detach(), torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 0.0]])
    )


class LeftPaddedBiLm(ForeignBiLm):
    """The same from right to left, padding included."""

    def forward(self, inputs: Tensor, word_inputs: Tensor | None) -> dict[str, Any]:
        outputs = super().forward(inputs, word_inputs)
        return {"activations": [layer.flip(1) for layer in outputs["activations"]], "mask": outputs["mask"].flip(1)}


def test_a_foreign_bilm_may_pad_on_the_left():
    output = Elmo(None, None, 1, dropout=0.0, module=LeftPaddedBiLm(1))(batch_to_ids([["a", "b", "c"], ["d"]]))
    assert output["mask"].tolist() == [[True] * 3, [False, False, True]]
    torch.testing.assert_close(
        output["elmo_representations"][0][..., 0].detach(), torch.tensor([[3.0, 2.0, 1.0], [0.0, 0.0, 1.0]])
    )


def test_layers_of_a_foreign_bilm_are_normalised_under_its_mask():
    elmo = Elmo(None, None, 1, dropout=0.0, do_layer_norm=True, module=ForeignBiLm(3))
    mix = elmo(batch_to_ids([["a", "b"], ["d"]]))["elmo_representations"][0]
    positions = torch.tensor([0.0, 1.0, 2.0, 3.0, 0.0, 1.0, 2.0])
    normal = (torch.arange(3.0) - positions.mean()) / positions.std(correction=0)
    expected = torch.stack([normal[1:], normal[1:]])
    expected[1, 1] = 0.0
    torch.testing.assert_close(mix[..., 0].detach(), expected)


def test_a_foreign_bilm_gets_flat_inputs_and_its_outputs_their_dimensions_back():
    foreign = ForeignBiLm()
    elmo = Elmo(None, None, 1, vocab_to_cache=VOCABULARY, module=foreign)
    ids = batch_to_ids(SENTENCES)
    for inputs, indices in [(ids.unflatten(0, (2, 2)), None), (ids, word_inputs().unflatten(0, (2, 2)))]:
        output = elmo(inputs, indices)
        assert foreign.given_shapes == [(4, 11, 50), None if indices is None else (4, 11)]
        assert output["mask"].shape == (2, 2, 11)
        assert output["elmo_representations"][0].shape == (2, 2, 11, 2)


def test_a_foreign_bilm_gets_no_word_inputs_without_a_vocabulary():
    foreign = ForeignBiLm()
    Elmo(None, None, 1, module=foreign)(batch_to_ids(SENTENCES), word_inputs())
    assert foreign.given_shapes == [(4, 11, 50), None]


def test_a_foreign_bilm_trains_as_it_says_itself():
    elmo = Elmo(None, None, 1, requires_grad=False, scalar_mix_parameters=[0.0] * 4, module=ForeignBiLm())
    assert [name for name, parameter in elmo.named_parameters() if parameter.requires_grad] == ["model.module.scale"]


def test_fixed_weights_must_be_as_many_as_a_foreign_bilm_has_layers():
    with pytest.raises(ValueError, match="`scalar_mix_parameters` must be a list of 4 numbers"):
        Elmo(None, None, 1, scalar_mix_parameters=[1.0, 2.0, 3.0], module=ForeignBiLm(4))


def test_a_foreign_bilm_keeps_its_own_state():
    with pytest.raises(ValueError, match="`stateful` must be False with `module`"):
        Elmo(None, None, 1, module=ForeignBiLm(), stateful=True)


# ---------------------------------------------------------------------------------------------------------------------
# stateful
# ---------------------------------------------------------------------------------------------------------------------


def test_same_input_gives_same_output_unless_stateful(make_elmo: Callable[..., Elmo]):
    stateless, stateful = make_elmo(), make_elmo(stateful=True)
    expected = vectors(stateless)
    torch.testing.assert_close(vectors(stateless), expected, **EXACT)
    torch.testing.assert_close(vectors(stateful), expected, rtol=0, atol=ROUNDING)
    assert (vectors(stateful) - expected).abs().max() > 1e-3
    stateful.reset_states()
    torch.testing.assert_close(vectors(stateful), expected, rtol=0, atol=ROUNDING)


def test_each_row_carries_its_own_state_through_growing_and_shrinking_batches(make_elmo: Callable[..., Elmo]):
    batches = [SENTENCES[:2], SENTENCES[1:], SENTENCES[3:], SENTENCES[:1], SENTENCES, SENTENCES[2:]]
    together = make_elmo(stateful=True)
    # Row k by itself sees only the batches that have a row k.
    alone = [make_elmo(stateful=True) for _ in range(4)]
    for batch in batches:
        given = vectors(together, batch)
        for row, sentence in enumerate(batch):
            expected = vectors(alone[row], [sentence])[0]
            torch.testing.assert_close(given[row, : len(sentence)], expected, rtol=0, atol=ROUNDING)


def test_state_runs_through_flattened_leading_dimensions(make_elmo: Callable[..., Elmo]):
    flat, deep, ids = make_elmo(stateful=True), make_elmo(stateful=True), batch_to_ids(SENTENCES)
    vectors(flat)
    with torch.no_grad():
        deep(ids.unflatten(0, (2, 2)))
        given = deep(ids.unflatten(0, (2, 2)))["elmo_representations"][0]
    torch.testing.assert_close(given.flatten(0, 1), vectors(flat), **EXACT)


def test_gradients_stop_at_the_state(make_elmo: Callable[..., Elmo]):
    elmo = make_elmo(stateful=True, requires_grad=True)
    for _ in range(2):
        # A graph through the first call would be gone by the second.
        elmo(batch_to_ids(SENTENCES))["elmo_representations"][0].sum().backward()
    assert not any(state.requires_grad for state in elmo._states)


def test_state_of_inference_mode_serves_training(make_elmo: Callable[..., Elmo]):
    elmo, plain = (make_elmo(stateful=True, requires_grad=True, vocab_to_cache=VOCABULARY) for _ in range(2))
    with torch.inference_mode():
        elmo(batch_to_ids(SENTENCES), word_inputs())
    plain(batch_to_ids(SENTENCES))
    given, expected = (e(batch_to_ids(SENTENCES))["elmo_representations"][0] for e in (elmo, plain))
    given.sum().backward()
    torch.testing.assert_close(given, expected, rtol=0, atol=ROUNDING)


# ---------------------------------------------------------------------------------------------------------------------
# What a module must survive
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda elmo: pickle.loads(pickle.dumps(elmo))])
def test_a_copy_goes_on_where_the_original_stands(make_elmo: Callable[..., Elmo], duplicate: Callable[[Elmo], Elmo]):
    elmo = make_elmo(num_output_representations=2, vocab_to_cache=VOCABULARY, stateful=True)
    elmo(batch_to_ids(SENTENCES), word_inputs())
    copied = duplicate(elmo)
    torch.testing.assert_close(vectors(copied), vectors(elmo), **EXACT)
    # And they have nothing in common any more.
    elmo.reset_states()
    assert (vectors(copied) - vectors(elmo)).abs().max() > 1e-3


def test_a_state_dict_holds_the_bilm_and_the_mixes_and_nothing_else(make_elmo: Callable[..., Elmo]):
    elmo = make_elmo(num_output_representations=2, vocab_to_cache=VOCABULARY, stateful=True)
    with torch.no_grad():
        for parameter in elmo.parameters():
            parameter.mul_(0.5)
        elmo.model.scalar_mixes[0].gamma.fill_(3.0)
    expected = vectors(elmo)
    assert set(elmo.state_dict()) == {name for name, _ in elmo.named_parameters()}
    fresh = make_elmo(num_output_representations=2)
    fresh.load_state_dict(elmo.state_dict())
    torch.testing.assert_close(vectors(fresh), expected, rtol=0, atol=ROUNDING)


def test_it_moves_to_another_type_with_its_state_and_cached_words(make_elmo: Callable[..., Elmo]):
    elmo, ids = make_elmo(vocab_to_cache=VOCABULARY, stateful=True), batch_to_ids(SENTENCES)
    expected = make_elmo(stateful=True)
    vectors(elmo), vectors(expected)
    with torch.no_grad():
        given = elmo.to(torch.float64)(ids, word_inputs())["elmo_representations"][0]
    assert given.dtype == torch.float64
    torch.testing.assert_close(given.float(), vectors(expected), rtol=0, atol=ROUNDING)


def test_shapes_are_known_on_the_meta_device(make_elmo: Callable[..., Elmo]):
    elmo = make_elmo(vocab_to_cache=VOCABULARY).to("meta")
    output = elmo(torch.zeros(2, 3, 50, dtype=torch.long, device="meta"))
    assert output["elmo_representations"][0].shape == (2, 3, 32)
