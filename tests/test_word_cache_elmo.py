"""`WordVectorStore`: each word once, the last used ones, from any number of threads."""

from concurrent.futures import ThreadPoolExecutor

import torch

from elmo_hf.word_cache_elmo import WordVectorStore
from tests.tiny import character_ids, tiny_model


def words(*numbers: int) -> torch.Tensor:
    """(words, 2) ids, one word a number."""
    return torch.tensor([[number, 300 + number] for number in numbers])


class Encoder:
    """Gives each word a vector of its number and remembers which it was asked for."""

    def __init__(self):
        self.asked: list[list[int]] = []

    def __call__(self, character_ids: torch.Tensor) -> torch.Tensor:
        self.asked.append(character_ids[:, 0].tolist())
        return character_ids[:, :1].float() * torch.ones(3)


def test_a_word_is_computed_once():
    store, encode = WordVectorStore(8), Encoder()
    for asked in (words(1, 2), words(2, 3, 1), words(3, 1)):
        assert store.lookup(asked, encode)[:, 0].tolist() == asked[:, 0].tolist()
    assert encode.asked == [[1, 2], [3]]


def test_the_longest_unused_word_makes_room():
    store, encode = WordVectorStore(2), Encoder()
    for asked in (words(1, 2), words(1), words(3), words(1), words(2)):
        assert store.lookup(asked, encode)[:, 0].tolist() == asked[:, 0].tolist()
    assert encode.asked == [[1, 2], [3], [2]]
    assert len(store) == 2


def test_more_words_at_once_than_there_is_room_for_are_right():
    store, encode = WordVectorStore(3), Encoder()
    for _ in range(2):
        assert store.lookup(words(*range(1, 8)), encode)[:, 0].tolist() == list(range(1, 8))
    assert len(store) == 3


def test_words_that_differ_in_one_character_are_two_words():
    store, encode = WordVectorStore(8), Encoder()
    store.lookup(torch.tensor([[1, 2]]), encode)
    store.lookup(torch.tensor([[1, 65538]]), encode)
    assert len(encode.asked) == 2


def test_what_it_gives_is_a_copy():
    store, encode = WordVectorStore(8), Encoder()
    store.lookup(words(1), encode).zero_()
    store.lookup(words(1), encode).zero_()
    assert store.lookup(words(1), encode)[0, 0] == 1


def test_words_that_were_stored_in_inference_mode_can_be_replaced_outside_of_it():
    store, encode = WordVectorStore(1), Encoder()
    with torch.inference_mode():
        store.lookup(words(1), encode)
    store.lookup(words(2), encode)
    assert store.lookup(words(2), encode)[0, 0] == 2


def test_threads_do_not_mix_up_words():
    store, encode = WordVectorStore(5), Encoder()

    def ask(seed: int) -> bool:
        generator = torch.Generator().manual_seed(seed)
        asked = words(*torch.randperm(20, generator=generator)[:6].tolist())
        return torch.equal(store.lookup(asked, encode)[:, 0], asked[:, 0].float())

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(400)))


def test_hooks_see_every_word_every_time():
    model, ids, seen = tiny_model(), character_ids(), []
    with torch.no_grad():
        model(ids)
        model.character_encoder.projection.register_forward_hook(
            lambda module, inputs, output: seen.append(len(output))
        )
        model(ids)
        model(ids)
    assert seen[0] > 0
    assert seen == [seen[0]] * 2


def test_a_model_without_a_cache_gives_the_same():
    ids = character_ids()
    with torch.no_grad():
        with_cache, without = tiny_model(), tiny_model(word_cache_size=0)
        assert torch.equal(with_cache(ids).last_hidden_state, without(ids).last_hidden_state)
        assert with_cache.character_encoder._word_vectors._entry is not None
        assert without.character_encoder._word_vectors._entry is None
