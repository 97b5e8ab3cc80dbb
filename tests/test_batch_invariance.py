"""`batch_invariant`: a sentence has the same bits in any batch, or the model says why not."""

import logging
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from elmo_hf import ElmoConfig, ElmoForPreTraining, ElmoModel, engine_elmo, load_default, products_elmo, quantize
from tests.tiny import character_ids, tiny_model

SIZES = {"char_cnn_filters": [[1, 16], [3, 48]], "cell_size": 64}
WORDS = [f"{stem}{end}" for stem in ("river", "bank", "Élodie", "a", "東京", "x" * 60) for end in range(20)]
PROMISE = "`batch_invariant=True` must run in float32"


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sentences() -> list[list[str]]:
    draw = random.Random(0)
    return [draw.choices(WORDS, k=draw.randrange(0, 25)) for _ in range(60)]


def invariant_model(**overrides: Any) -> ElmoModel:
    model: ElmoModel = tiny_model(**{**SIZES, "batch_invariant": True, **overrides})
    return model


def in_batches(model: ElmoModel, sentences: list[list[str]], batches: list[list[int]]) -> dict[int, list[Tensor]]:
    """Everything that the model tells of each sentence."""
    found = {}
    width = 2 * model.config.keep_sentence_boundaries
    for batch in batches:
        with torch.inference_mode():
            outputs = model(character_ids([sentences[index] for index in batch]), output_hidden_states=True)
        for row, index in enumerate(batch):
            end = len(sentences[index]) + width
            layers = (*outputs.hidden_states, outputs.last_hidden_state)
            found[index] = [*(layer[row, :end] for layer in layers), *(state[row] for state in outputs.lstm_states)]
    return found


def batchings(number: int, of: int) -> Iterator[list[list[int]]]:
    draw = random.Random(1)
    for _ in range(number):
        left = draw.sample(range(of), of)
        batches = []
        while left:
            size = draw.choice((1, 2, 3, 5, 17, of))
            batches.append(left[:size])
            left = left[size:]
        yield batches


def assert_same_bits(model: ElmoModel, sentences: list[list[str]], numbers_of_threads: tuple[int, ...] = (1, 2, 3, 6)):
    alone = in_batches(model, sentences, [[index] for index in range(len(sentences))])
    for number, batches in enumerate(batchings(8, len(sentences))):
        torch.set_num_threads(numbers_of_threads[number % len(numbers_of_threads)])
        if number % 3 == 0:
            model.clear_cache()
        for index, tensors in in_batches(model, sentences, batches).items():
            assert all(map(torch.equal, tensors, alone[index])), index


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"word_cache_size": 0},
        {"word_cache_size": 5, "keep_sentence_boundaries": True},
        {"use_skip_connections": False, "cell_clip": None, "proj_clip": None, "char_cnn_activation": "tanh"},
        {"projection_dim": 7, "scalar_mix_parameters": [0.0, 1.0, 0.5], "num_hidden_layers": 2},
        {"num_highway_layers": 0, "num_hidden_layers": 1},
    ],
    ids=lambda options: ",".join(options) or "defaults",
)
def test_a_sentence_has_the_same_bits_in_any_batch(sentences: list[list[str]], options: dict[str, Any]):
    assert_same_bits(invariant_model(**options), sentences)


@pytest.mark.usefixtures("threads")
def test_so_it_has_with_layers_that_are_large(sentences: list[list[str]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(products_elmo, "LARGE_WEIGHT", 0)
    monkeypatch.setattr(products_elmo, "MOST_ROWS", 300)
    assert_same_bits(invariant_model(), sentences)


@pytest.mark.usefixtures("threads")
def test_so_has_the_model_of_the_package(sentences: list[list[str]]):
    folder = load_default()[0].name_or_path
    model = ElmoModel.from_pretrained(folder, batch_invariant=True)
    assert_same_bits(model, sentences)
    exact = ElmoModel.from_pretrained(folder)
    for index, tensors in in_batches(model, sentences, [list(range(60))]).items():
        for tensor, expected in zip(tensors, in_batches(exact, sentences, [[index]])[index], strict=True):
            torch.testing.assert_close(tensor, expected, rtol=0, atol=3e-5)


def test_padding_on_the_left_and_a_mask_are_no_neighbours(sentences: list[list[str]]):
    model = invariant_model()
    few = [words for words in sentences if words][:9]
    alone = in_batches(model, few, [[index] for index in range(9)])
    ids = character_ids(few)
    width = ids.shape[1]
    left = torch.stack([row.roll(width - len(words), 0) for row, words in zip(ids, few, strict=True)])
    with torch.no_grad():
        outputs = model(left, output_hidden_states=True)
    for index, words in enumerate(few):
        assert torch.equal(outputs.last_hidden_state[index, width - len(words) :], alone[index][3])


def test_a_weight_that_changed_is_seen(sentences: list[list[str]]):
    model = invariant_model(word_cache_size=0)
    before = in_batches(model, sentences, [list(range(60))])
    with torch.no_grad():
        model.encoder.forward_layers[0].weight_ih.mul_(0.5)
        model.character_encoder.convolutions[0].weight.mul_(2.0)
    after = in_batches(model, sentences, [list(range(60))])
    fresh = invariant_model(word_cache_size=0)
    fresh.load_state_dict(model.state_dict())
    expected = in_batches(fresh, sentences, [[index] for index in range(60)])
    assert all(all(map(torch.equal, after[index], expected[index])) for index in after)
    assert not torch.equal(before[1][-1], after[1][-1])


def hooked(model: ElmoModel) -> None:
    model.character_encoder.projection.register_forward_hook(lambda *_: None)


def hooked_layer(model: ElmoModel) -> None:
    model.encoder.forward_layers[0].register_forward_hook(lambda *_: None)


def in_float64(model: ElmoModel) -> None:
    model.double()


def replaced(model: ElmoModel) -> None:
    class Other(nn.Linear):
        pass

    model.character_encoder.projection = Other(64, 6).requires_grad_(False)


@pytest.mark.parametrize("change", [hooked, hooked_layer, in_float64, replaced])
def test_a_model_that_cannot_keep_the_promise_says_so(change: Any):
    model = invariant_model()
    change(model)
    with pytest.raises(RuntimeError, match=PROMISE), torch.no_grad():
        model(character_ids())


@pytest.mark.filterwarnings("ignore")
def test_nor_can_it_under_autocast_with_embeddings_or_a_compiler():
    model = invariant_model()
    ids = character_ids()
    with torch.no_grad():
        with pytest.raises(RuntimeError, match=PROMISE), torch.autocast("cpu", torch.bfloat16):
            model(ids)
        with pytest.raises(RuntimeError, match=PROMISE):
            model(inputs_embeds=model.get_input_embeddings()(ids))
        with pytest.raises(RuntimeError, match=PROMISE):
            torch.jit.trace(model, (ids,), strict=False)
    with pytest.raises(ValueError, match="`batch_invariant`"):
        quantize(model)


def test_nor_on_a_processor_that_gives_other_bits(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine_elmo, "rows_are_independent", lambda *_, **__: False)
    with pytest.raises(RuntimeError, match=PROMISE), torch.no_grad():
        invariant_model()(character_ids())


def test_a_processor_is_tried_and_not_trusted(monkeypatch: pytest.MonkeyPatch):
    engine_elmo.rows_are_independent.cache_clear()
    assert engine_elmo.rows_are_independent(48, 64, packed=True)
    multiply = products_elmo.PackedProduct.__call__

    def varying(self: products_elmo.PackedProduct, inputs: Tensor) -> Tensor:
        return multiply(self, inputs) * (1 + 1e-6 * (len(inputs) == 33))

    engine_elmo.rows_are_independent.cache_clear()
    monkeypatch.setattr(products_elmo.PackedProduct, "__call__", varying)
    assert not engine_elmo.rows_are_independent(48, 64, packed=True)
    engine_elmo.rows_are_independent.cache_clear()


def test_with_gradients_it_warns_and_in_training_it_trains(caplog: pytest.LogCaptureFixture):
    model = invariant_model()
    logging.Logger.warning_once.cache_clear()  # type: ignore[attr-defined]
    with caplog.at_level(logging.WARNING, logger="elmo_hf"):
        expected = model(character_ids()).last_hidden_state
    assert "where no gradient is asked for" in caplog.text
    with torch.no_grad():
        torch.testing.assert_close(model(character_ids()).last_hidden_state, expected)
    model.train()(character_ids()).last_hidden_state.sum().backward()
    assert model.encoder.forward_layers[0].weight_hh.grad is not None


def test_the_language_model_reads_in_the_same_way(sentences: list[list[str]]):
    model = tiny_model(model_class=ElmoForPreTraining, batch_invariant=True, word_vocab_size=20, **SIZES)
    some = [words for words in sentences if words][:7]
    vectors = in_batches(model.elmo, some, [[0], [1, 2, 3, 4, 5, 6]])
    again = in_batches(model.elmo, some, [[0, 1, 2, 3, 4, 5, 6]])
    assert all(all(map(torch.equal, vectors[index], again[index])) for index in vectors)


def test_it_is_saved_with_the_model(tmp_path: Any):
    invariant_model().save_pretrained(tmp_path)
    assert ElmoModel.from_pretrained(tmp_path).encoder.batch_invariant
    assert not ElmoModel.from_pretrained(tmp_path, batch_invariant=False).encoder.batch_invariant


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"do_layer_norm": True}, "`batch_invariant` must be false with `do_layer_norm`, whose statistics"),
        ({"cell_size": 96}, "`cell_size` must be a multiple of 64 with `batch_invariant`, was: 96."),
        ({"char_cnn_filters": [[1, 65]]}, "`num_filters` must be a multiple of 64 with `batch_invariant`, was: 65."),
    ],
)
def test_a_configuration_that_cannot_be_invariant_is_refused(values: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        ElmoConfig(batch_invariant=True, **values)


def test_forgotten_words_are_computed_again_to_the_same_bits(sentences: list[list[str]]):
    model: ElmoModel = tiny_model(**SIZES)
    expected = in_batches(model, sentences, [list(range(60))])
    vectors = model.character_encoder.word_vectors
    vectors.forget_words()
    assert vectors._entry is not None
    assert len(vectors._entry[2][0]) == 0
    again = in_batches(model, sentences, [list(range(60))])
    assert all(all(map(torch.equal, expected[index], again[index])) for index in expected)
