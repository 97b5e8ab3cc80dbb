"""Forks, interrupts, exceptions and threads leave an engine that gives the numbers of a new model."""

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import CodeType, FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

from elmo_hf import ElmoModel, engine_elmo, products_elmo
from elmo_hf.engine_elmo import RecurrentWeights, WordVectors, _Generation, _WordStore, run_in_threads
from tests.tiny import character_ids, tiny_model

NUM_INTERRUPTS = int(os.environ.get("ELMO_HF_INTERRUPTS", "20"))
SECONDS = 30.0
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}


class Interrupt(BaseException):
    """As a `KeyboardInterrupt`, but nobody else's."""


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def treat_layers_as_large(monkeypatch: pytest.MonkeyPatch):
    """Directions apart, products prepared."""
    monkeypatch.setattr(engine_elmo, "TOGETHER_LIMITS", ())
    monkeypatch.setattr(products_elmo, "LARGE_WEIGHT", 0)
    monkeypatch.setattr(engine_elmo, "PACKED_STEPS", 0)


@pytest.fixture(params=["small layers", "large layers", "large layers in two threads"])
def every_way(request, monkeypatch) -> None:
    if request.param != "small layers":
        treat_layers_as_large(monkeypatch)
    if request.param == "large layers in two threads":
        request.getfixturevalue("two_threads")


def random_ids(generator: random.Random, sentences: int = 3, vocabulary: int = 10_000) -> Tensor:
    """Sentences of up to five words, most of which were never seen before."""
    return character_ids(
        [[f"w{generator.randrange(vocabulary)}" for _ in range(generator.randint(1, 5))] for _ in range(sentences)]
    )


@torch.no_grad()
def layers_of(model: ElmoModel, ids: Tensor) -> Tensor:
    """(layers, batch, words, hidden_size), the word vectors first."""
    return torch.stack(model(ids, output_hidden_states=True).hidden_states)


def assert_like_new(model: ElmoModel, *batches: Tensor, **overrides: Any):
    """Twice, because the second call may find what the first one stored."""
    fresh = tiny_model(word_cache_size=0, **overrides)
    for ids in (*batches, *batches):
        torch.testing.assert_close(layers_of(model, ids), layers_of(fresh, ids), **ROUNDING)


# --- Forks ----------------------------------------------------------------------------------------------------------


def exit_code_of_fork(task: Callable[[], bool]) -> int | None:
    """0 if the task gives true in a fork of this process, `None` if it is not done in time."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if task() else 1
        finally:
            os._exit(code)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


# Python 3.12 warns of what is tested here.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("size", ["small layers", "large layers"])
def test_a_fork_while_a_thread_stores_words_gives_the_same_and_does_not_hang(size, monkeypatch):
    # At a fixed moment: PyTorch and oneDNN have locks of their own, and a fork that finds one taken hangs.
    if size == "large layers":
        treat_layers_as_large(monkeypatch)
    model = tiny_model(word_cache_size=64)
    seen, new, stored = (random_ids(random.Random(seed)) for seed in range(3))
    layers_of(model, seen)
    stores, may_go_on, add = threading.Event(), threading.Event(), _WordStore._add

    def add_later(*arguments: Any):
        stores.set()
        may_go_on.wait()
        add(*arguments)

    def embeds_like_new() -> bool:
        assert_like_new(model, seen, new)
        return True

    monkeypatch.setattr(_WordStore, "_add", add_later)
    thread = threading.Thread(target=layers_of, args=(model, stored))
    thread.start()
    try:
        assert stores.wait(SECONDS)
        assert exit_code_of_fork(embeds_like_new) == 0
    finally:
        may_go_on.set()
        thread.join(SECONDS)
    assert_like_new(model, seen, new, stored)


# Python 3.12 warns of what is tested here.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.usefixtures("two_threads")
def test_a_fork_starts_workers_of_its_own():
    parent = os.getpid()
    for _ in range(3):
        assert run_in_threads([os.getpid, os.getpid]) == [parent] * 2
        assert exit_code_of_fork(lambda: run_in_threads([os.getpid, os.getpid]) == [os.getpid()] * 2) == 0


# --- Interrupts -----------------------------------------------------------------------------------------------------


# What Python says when an interrupt strikes where no exception can be raised, as in the end of an object.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("every_way")
def test_interrupts_at_random_moments_leave_every_vector_right():
    model, generator = tiny_model(word_cache_size=64), random.Random(0)
    seen = [random_ids(generator) for _ in range(4)]
    began = time.perf_counter()
    for ids in seen:
        layers_of(model, ids)
    longest = 1.5 * (time.perf_counter() - began) / len(seen)

    def strike(*_: Any):
        raise Interrupt

    interrupted, before = 0, signal.signal(signal.SIGALRM, strike)
    try:
        for number in range(NUM_INTERRUPTS // 3 + 1):
            if number % 10 == 0:
                model.clear_cache()
            seen.append(random_ids(generator, sentences=generator.randint(1, 4)))
            try:
                signal.setitimer(signal.ITIMER_REAL, generator.uniform(1e-5, longest))
                layers_of(model, seen[-1])
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupt:
                interrupted += 1
            if number % 10 == 9:
                assert_like_new(model, *seen[-10::3])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 0
    assert_like_new(model, *seen[-8:])
    entry = model.character_encoder.word_vectors._entry
    assert len(entry[2]) <= 64


# --- An exception at each line --------------------------------------------------------------------------------------


class RaisesAtLine:
    """Raises at the so many-th line that this thread runs in the functions."""

    def __init__(self, functions: tuple[Callable, ...], number: int):
        self.codes: set[CodeType] = {function.__code__ for function in functions}
        self.left = number

    def __enter__(self) -> "RaisesAtLine":
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        sys.settrace(self._before)
        return kind is Interrupt

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        return self._trace_lines if frame.f_code in self.codes else None

    def _trace_lines(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            self.left -= 1
            if self.left == 0:
                raise Interrupt
        return self._trace_lines

    @property
    def has_raised(self) -> bool:
        return self.left <= 0


STORE = (_WordStore.lookup, _WordStore._store, _WordStore._add, _Generation.add)


class Encoder:
    """Gives each word a vector of its number and remembers which it was asked for."""

    def __init__(self):
        self.asked: list[list[int]] = []

    def __call__(self, ids: Tensor) -> Tensor:
        self.asked.append(ids[:, 0].tolist())
        return ids[:, :1].float() * torch.ones(3)


def ids_of(*numbers: int) -> Tensor:
    """(words, 2) ids, one word for each number."""
    return torch.tensor([[number, 300 + number] for number in numbers])


def test_an_exception_at_any_line_of_the_store_leaves_every_word_right():
    for number in itertools.count(1):
        store, encode = _WordStore(6), Encoder()
        # The fourth call moves words to the younger generation, fills it and begins another one.
        calls = [(1, 2), (3, 4), (5,), (1, 2, 6, 5), (7, 1, 7)]
        with RaisesAtLine(STORE, number) as line:
            for words in calls:
                assert store.lookup(ids_of(*words), encode)[:, 0].tolist() == list(words)
        for words in (*calls, range(20), *calls):
            assert store.lookup(ids_of(*words), encode)[:, 0].tolist() == list(words)
        if not line.has_raised:
            break
    # Each of the five calls runs some lines for each word, and more for each that is stored.
    assert number > 150


def test_a_store_goes_on_storing_after_an_exception_while_it_stored():
    """But right after it took the lock, or right before it gave it back."""
    deaf = 0
    for number in itertools.count(1):
        store, encode = _WordStore(6), Encoder()
        with RaisesAtLine(STORE[1:], number) as line:
            store.lookup(ids_of(1, 2), encode)
        for _ in range(3):
            store.lookup(ids_of(3), encode)
        deaf += encode.asked.count([3]) > 1
        if not line.has_raised:
            break
    assert deaf <= 2


# The store's lines, many more, have a test of their own.
ENGINE = (WordVectors.encode, RecurrentWeights.products, RecurrentWeights._prepared)


@pytest.mark.usefixtures("every_way")
def test_an_exception_at_any_line_of_what_is_kept_leaves_every_output_right():
    first, second, third = (character_ids(words) for words in ([["a", "b"], ["c"]], [["a", "d", "e"]], [["f"], ["b"]]))
    fresh = tiny_model(word_cache_size=0)
    batches = [(ids, layers_of(fresh, ids)) for ids in (first, second, third)]
    model = tiny_model(word_cache_size=8)
    bias = model.character_encoder.projection.bias
    for number in itertools.count(1):
        # What was kept is dropped each time, half of the times because the weights seem to have changed.
        if number % 2:
            model.clear_cache()
        with torch.no_grad():
            bias.add_(0.0)
        with RaisesAtLine(ENGINE, number) as line:
            for ids, _ in batches:
                layers_of(model, ids)
        for ids, expected in batches[::-1]:
            torch.testing.assert_close(layers_of(model, ids), expected, **ROUNDING)
        if not line.has_raised:
            break
    assert number > 40


def test_an_interrupt_while_workers_start_hangs_neither_the_next_call_nor_the_end_of_the_process():
    script = """
import torch
from elmo_hf import engine_elmo
from tests.test_engine_threads import RaisesAtLine
from concurrent.futures import Future
torch.set_num_threads(2)
# Not where the executor of Python holds its locks, which it might keep.
functions = (engine_elmo._workers.__wrapped__, engine_elmo.run_in_threads, Future.__init__)
number, raised = 0, True
while raised:
    number += 1
    engine_elmo._workers.cache_clear()
    with RaisesAtLine(functions, number) as line:
        engine_elmo.run_in_threads([int, int])
    raised = line.has_raised
    assert engine_elmo.run_in_threads([lambda: 1, lambda: 2]) == [1, 2]
    assert torch.get_num_threads() == 2
assert number > 10
"""
    paths = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", script], timeout=20, env={**os.environ, "PYTHONPATH": paths}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


# --- Threads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [2, 3, 7, 16])
def test_eight_threads_never_get_the_vector_of_another_word(capacity):
    store, encode = _WordStore(capacity), Encoder()
    generations, most = set(), 0

    def ask(seed: int) -> bool:
        nonlocal most
        generator, right = random.Random(seed), True
        for _ in range(60):
            asked = ids_of(*(generator.randrange(30) for _ in range(generator.randint(1, 9))))
            right &= torch.equal(store.lookup(asked, encode), encode(asked))
            generations.add(store._generations[0])
            most = max(most, len(store))
        return right

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(8)))
    assert 0 < most <= capacity
    assert len(generations) > 10


def test_eight_threads_with_a_model_get_what_a_new_model_gives():
    model, fresh = tiny_model(word_cache_size=8), tiny_model(word_cache_size=0)

    def ask(seed: int):
        generator = random.Random(seed)
        for _ in range(12):
            ids = random_ids(generator, vocabulary=20)
            torch.testing.assert_close(layers_of(model, ids), layers_of(fresh, ids), **ROUNDING)
            assert len(model.character_encoder.word_vectors._entry[2]) <= 8

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(8)))


@pytest.mark.usefixtures("two_threads")
def test_threads_of_the_engine_keep_modes_and_pass_exceptions():
    def state() -> tuple[bool, bool]:
        return torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    for mode, expected in ((torch.inference_mode, True), (torch.no_grad, False), (torch.enable_grad, False)):
        with mode():
            before = state()
            assert run_in_threads([state, state]) == [(expected, False)] * 2
            assert state() == before
            assert torch.get_num_threads() == 2

    def fail():
        raise LookupError("no such word")

    for tasks in ([fail, state], [state, fail], [fail, fail]):
        with pytest.raises(LookupError, match="no such word"):
            run_in_threads(tasks)
    assert run_in_threads([lambda: 1, lambda: 2]) == [1, 2]
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_each_worker_has_its_share_of_the_threads_and_new_threads_get_all():
    found: list[int] = []
    for number in (2, 4, 6, 1, 2):
        torch.set_num_threads(number)
        assert run_in_threads([torch.get_num_threads, torch.get_num_threads]) == [max(1, number // 2)] * 2
        assert torch.get_num_threads() == number
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert found[-1] == number


@pytest.mark.usefixtures("two_threads")
def test_callers_in_several_threads_share_the_workers_and_get_their_own_results():
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(run_in_threads, [lambda n=n: n, lambda n=n: -n]) for n in range(200)]
        assert [call.result(SECONDS) for call in calls] == [[n, -n] for n in range(200)]
