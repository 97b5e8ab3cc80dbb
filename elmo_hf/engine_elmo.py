# SPDX-License-Identifier: Apache-2.0
"""
How the biLM computes: the only file that knows about speed.

What the model computes is told in `modeling_elmo.py` and `lstm_elmo.py`; every fast way here gives the same numbers up
to float rounding. Two things are kept between calls on a CPU, the vectors of words ([`WordVectors`]) and the recurrent
weights in an order that is read faster ([`RecurrentWeights`]). Each belongs to the parameter objects that it was made
from and is used only while these hold the same bits, see [`WeightRecord`].
"""

import copy
import os
import platform
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.modules import module as global_hooks
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers.utils import logging

from .configuration_elmo import INVARIANT_MULTIPLE
from .packing_elmo import PackedWords, unique_words
from .products_elmo import (
    MOST_ROWS,
    Bfloat16Product,
    InvariantProduct,
    PackedProduct,
    Product,
    bfloat16_products_work,
    is_emulated,
    is_large,
    multiply,
    onednn_works,
    transposed_product,
)

logger = logging.get_logger(__name__)

# Rows up to which oneDNN is faster than MKL, however many inputs a weight has.
FEW_ROWS = 256

# Both directions run together on a CPU up to so many sentences and elements of a weight.
TOGETHER_LIMITS = ((32, 1 << 18), (8, 1 << 20))

# The first layer's products are computed for all words at once, and not for a slice of positions, up to so many words.
TABLE_ROWS = 1024

# A call of fewer steps is over before packed weights have been checked.
PACKED_STEPS = 6

# A model in bfloat16 without a larger weight in its layers reads fewer sentences in float32: there the calls take the
# time, not the products.
BFLOAT16_WEIGHT, BFLOAT16_SENTENCES = 1 << 20, 24

# Weights of more bytes are not compared bit for bit for fewer sentences, see `WeightRecord.holds`.
LARGE_RECORD, CHECKED_SENTENCES = 1 << 24, 8
# Contents of fewer bytes are compared with a copy, of more with sums.
SMALL_CONTENT = 1 << 16

# Words whose characters are convolved at once: bounds the memory, and longer words do not lengthen shorter ones.
WORDS_PER_CHUNK = 128


# --- Which way is allowed -------------------------------------------------------------------------------------------


def runs_plainly(*tensors: Tensor) -> bool:
    """
    Whether operations on these tensors just run and may work in place: no compiler, exporter, function transform,
    forward-mode derivative, dispatch mode or subclass of tensor looks at them.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.jit.is_scripting():
        return False
    if _is_transformed() or forward_ad._current_level >= 0:
        return False
    return all(
        type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided and not tensor.is_meta
        for tensor in tensors
    )


def _is_transformed() -> bool:
    """Whether a transform of `torch.func` or a dispatch mode is active; yes, where PyTorch cannot be asked."""
    try:
        return torch._C._functorch.peek_interpreter_stack() is not None or torch._C._len_torch_dispatch_stack() > 0
    except AttributeError:
        return True


def is_batch_of_gradients(tensor: Tensor) -> bool:
    """Whether a gradient stands for several at once (`is_grads_batched=True`), which no transform tells of."""
    if torch.compiler.is_compiling():
        return False
    functorch = torch._C._functorch
    return functorch.is_legacy_batchedtensor(tensor) or functorch.is_functorch_wrapped_tensor(tensor)


def keeps_shapes(mask: Tensor) -> bool:
    """Whether no shape may depend on the values of a tensor: they are not known yet, or differ within a `vmap`."""
    if mask.is_meta or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    while _is_transformed() and torch._C._functorch.is_functorch_wrapped_tensor(mask):
        if torch._C._functorch.is_batchedtensor(mask):
            return True
        mask = torch._C._functorch.get_unwrapped(mask)
    return False


def needs_gradient(*tensors: Tensor) -> bool:
    """Whether a result of these tensors must remember how it came about."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


# Classes whose calls the engine knows, each with its `forward`.
_KNOWN_FORWARDS: dict[type, Any] = {cls: cls.forward for cls in (nn.Linear, nn.Embedding, nn.ModuleList)}
_ACTIVATIONS = (torch.tanh, F.relu)
_BASE_ATTRIBUTES = frozenset(vars(nn.Module()))
_PARAMETER_TYPES = frozenset((nn.Parameter, type(None)))
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def known(cls: Any) -> Any:
    """Decorator of a module class whose results depend on its parameters, plain attributes and `forward` alone."""
    _KNOWN_FORWARDS[cls] = cls.forward
    return cls


def is_undisturbed(module: nn.Module) -> bool:
    """Whether calls of the module and of its parts are those of their classes: no hook (own or global), no patch."""
    return not global_hooks._has_any_global_hook() and not any(map(_is_patched, module.modules()))


def _is_patched(part: nn.Module) -> bool:
    values = vars(part)
    return "forward" in values or "_hf_hook" in values or any(values.get(name) for name in _HOOKS)


def _describe(module: nn.Module) -> list | None:
    """
    All that decides what a module computes, besides the values of its parameters; `None` if that cannot be told,
    because of hooks, patches, parametrizations, adapters, buffers or classes that are not known.
    """
    if global_hooks._has_any_global_hook():
        return None
    description = []
    for part in module.modules():
        cls, values = type(part), vars(part)
        attributes = {name: values[name] for name in values.keys() - _BASE_ATTRIBUTES}
        if (
            _KNOWN_FORWARDS.get(cls) is not cls.forward
            or _is_patched(part)
            or part._buffers
            or not _PARAMETER_TYPES.issuperset(map(type, part._parameters.values()))
            or not all(map(_is_plain, attributes.values()))
        ):
            return None
        description.append((cls, list(part._modules), attributes))
    return description


def _is_plain(value: Any) -> bool:
    """Whether an attribute cannot change without becoming another one."""
    if type(value) is tuple:
        return all(map(_is_plain, value))
    return type(value) in _PLAIN_TYPES or value in _ACTIVATIONS


# --- Whether weights are still the same -----------------------------------------------------------------------------

# Words of 8 bytes that are summed along rows, and along columns: a prime, so that no order of a weight's own rows and
# columns falls in with it, and more than a row, so that two words never share both sums.
_ROW, _COLUMNS = 256, 2039


class WeightRecord:
    """
    The state of some parameters when something was computed from them.

    It holds the parameter objects and their memory, so that neither's place is given to others, what PyTorch counts
    about them, and what shows a change of any bit: small contents as they were, of others the 64-bit sums of every
    2 kB and those of every 2,039th word, which differ when words change places. A change of one word always shows, as
    does a swap of two; what stays unseen must keep all sums of both kinds.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], are_private: bool = False):
        """`are_private`: whether nothing else can write to their memory, so that no bits need to be looked at."""
        self.parameters = tuple(parameters)
        self.num_bytes = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
        self._counts = list(map(_counts, parameters))
        views = [] if are_private else [view for parameter in parameters for view in _views(parameter)]
        # What is looked at, the dimension of which it is summed up (`None` for none), and what was seen
        self._watched = [(view, dim, view.clone() if dim is None else view.sum(dim)) for view, dim in views]

    def holds(self, parameters: Sequence[nn.Parameter], num_sentences: int) -> bool:
        """
        Whether these are the same parameters in the same state.

        Every change that goes through PyTorch shows: it counts in-place operations and swaps of storage, and the steps
        of optimizers are counted here, because fused ones do not count theirs on a CPU. What is written through an
        alias of the storage (`weight.data`, NumPy, DLPack, another process) counts nowhere; the checksum shows it.
        Reading large weights takes as long as a word of a single sentence does, 5 to 10 % of a short one, so that they
        are read for a batch of eight and more only. `ElmoPreTrainedModel.clear_cache` declares such a change.
        """
        if len(parameters) != len(self.parameters) or any(map(_is_not, parameters, self.parameters)):
            return False
        if list(map(_counts, parameters)) != self._counts:
            return False
        # Of weights that were made in inference mode, PyTorch counts nothing.
        is_counted = not any(parameter.is_inference() for parameter in parameters)
        if num_sentences < CHECKED_SENTENCES and self.num_bytes > LARGE_RECORD and is_counted:
            return True
        return all(torch.equal(view if dim is None else view.sum(dim), seen) for view, dim, seen in self._watched)


def _is_not(one: Any, other: Any) -> bool:
    return one is not other


def _counts(parameter: nn.Parameter) -> tuple:
    version = None if parameter.is_inference() else parameter._version
    return version, parameter.data_ptr(), parameter.shape, parameter.dtype


def _can_be_recorded(parameters: Iterable[Tensor]) -> bool:
    return all(
        type(parameter) is nn.Parameter and parameter.device.type == "cpu" and parameter.is_contiguous()
        for parameter in parameters
    )


def _views(parameter: nn.Parameter) -> list[tuple[Tensor, int | None]]:
    """Views of all bits, each with the dimension of which its sum tells enough; `None` for all of it."""
    # (bytes,)
    content = parameter.detach().reshape(-1).view(torch.uint8)
    if len(content) < SMALL_CONTENT:
        is_aligned = len(content) % 8 == 0 and content.storage_offset() % 8 == 0
        return [(content.view(torch.int64) if is_aligned else content, None)]
    # One byte on: the sign of a float must not be the highest bit of a word, which an even number of changes hides.
    num_words = (len(content) - 1) // 8
    words = torch.frombuffer(content.numpy(), dtype=torch.int64, offset=1, count=num_words)
    rows, columns = num_words // _ROW, num_words // _COLUMNS
    return [
        (words[: rows * _ROW].view(rows, _ROW), 1),
        (words[: columns * _COLUMNS].view(columns, _COLUMNS), 0),
        (content[:1], None),
        (content[1 + 8 * columns * _COLUMNS :], None),
    ]


_RECORD_KEEPERS: "weakref.WeakSet[Any]" = weakref.WeakSet()


def _forget_what_was_trained(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any):
    trained = {
        id(parameter)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.requires_grad or parameter.grad is not None
    }
    for keeper in list(_RECORD_KEEPERS):
        keeper.forget(trained)


register_optimizer_step_post_hook(_forget_what_was_trained)


class _RecordKeeper:
    """Something computed from weights, with their record. Copies and pickles of it are empty."""

    # Whether the weights are those of a copy that nobody else has.
    are_private = False

    def __init__(self):
        # Replaced as a whole, so that an exception or another thread never meets one half of it.
        self._entry: tuple[WeightRecord, Any, Any] | None = None
        _RECORD_KEEPERS.add(self)

    def clear(self):
        self._entry = None

    def is_empty(self) -> bool:
        return self._entry is None

    def forget(self, identities: set[int]):
        """Clears what was computed from one of these parameters."""
        entry = self._entry
        if entry is not None and any(id(parameter) in identities for parameter in entry[0].parameters):
            self._entry = None

    def __deepcopy__(self, memo: dict) -> Any:
        return type(self)()

    def __reduce__(self) -> tuple:
        return type(self), ()


# --- Vectors of words -----------------------------------------------------------------------------------------------


def encode_words(encoder: Any, character_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """
    Encodes each word of a batch once.

    Args:
        encoder: the character encoder.
        character_ids: (batch * words, characters).
        mask: (batch, words) which of them are words.

    Returns:
        The (rows, projection_dim) table of word vectors, boundaries first, and the (batch, words) row of each word.

    Raises:
        ValueError: an id is outside of the table of characters.
    """
    # On the device of the input: offloaded weights are on meta until their module is called.
    boundary_ids = encoder.boundary_ids(mask.device)
    if keeps_shapes(mask):
        check_may_vary(encoder)
        rows = torch.arange(2, mask.numel() + 2, device=mask.device)
        return encoder(torch.cat([boundary_ids, character_ids])), rows.view_as(mask)
    encoder.check_ids(character_ids)
    is_word = mask.flatten()
    table, unique_rows = unique_words(character_ids[is_word])
    rows = torch.zeros_like(is_word, dtype=torch.long).masked_scatter_(is_word, unique_rows + 2)
    return encoder.word_vectors.encode(encoder, torch.cat([boundary_ids, table]), len(mask)), rows.view_as(mask)


def check_range(name: str, values: Tensor, low: int, end: int):
    """Raises a `ValueError` if a value is less than `low` or not less than `end`, where values can be looked at."""
    if values.numel() == 0 or keeps_shapes(values):
        return
    least, greatest = (bound.item() for bound in torch.aminmax(values))
    if least < low or greatest >= end:
        raise ValueError(f"`{name}` must be from {low} to {end - 1}, was: from {least} to {greatest}.")


def encode_by_length(encoder: Any, character_ids: Tensor, in_threads: bool = False) -> Tensor:
    """(words, characters) -> (words, projection_dim), words of similar length together, without shared padding."""
    if len(character_ids) == 0 or not encoder.filter_widths:
        return encoder(character_ids)
    widths = [getattr(filters, "kernel_size", None) for filters in encoder.convolutions]
    if widths != [(width,) for width in encoder.filter_widths]:
        # Something else stands in the place of the filters, and may see more than they do.
        return torch.cat([encoder(chunk) for chunk in character_ids.split(WORDS_PER_CHUNK)])
    positions = torch.arange(1, character_ids.shape[1] + 1, device=character_ids.device)
    lengths = ((character_ids != encoder.fill_character) * positions).amax(1)
    lengths, order = torch.sort(lengths)
    # The maximum stays the same as long as one window of each width sees padding alone.
    tasks = [
        partial(encoder, chunk[:, : int(longest[-1]) + max(encoder.filter_widths)])
        for chunk, longest in zip(
            character_ids[order].split(WORDS_PER_CHUNK), lengths.split(WORDS_PER_CHUNK), strict=True
        )
    ]
    chunks = run_in_threads(tasks, MOST_INVARIANT_THREADS) if in_threads else [task() for task in tasks]
    return torch.cat(chunks)[torch.argsort(order)]


class WordVectors(_RecordKeeper):
    """
    Vectors of the words that a character encoder on a CPU saw last: they do not depend on the context, so that a word
    has the same vector in every sentence. The key of a word is all its character ids.
    """

    def encode(self, encoder: Any, character_ids: Tensor, num_sentences: int) -> Tensor:
        """(words, characters) words, most of them different -> (words, projection_dim)."""
        parameters = list(encoder.parameters())
        capacity = encoder.word_cache_size
        if (
            not (capacity or encoder.batch_invariant)
            or character_ids.device.type != "cpu"
            or not _can_be_recorded(parameters)
            or not runs_plainly(character_ids, *parameters)
            or torch.is_autocast_enabled("cpu")
            or needs_gradient(*parameters)
            or (description := _describe(encoder)) is None
        ):
            self._entry = None
            check_may_vary(encoder)
            return encode_by_length(encoder, character_ids)
        entry = self._entry
        if entry is None or entry[1] != description or not entry[0].holds(parameters, num_sentences):
            record = WeightRecord(parameters, self.are_private)
            entry = self._entry = record, description, (_WordStore(capacity), _invariant(encoder))
        store, invariant = entry[2]
        if encoder.batch_invariant and not has_word_vectors_of_same_bits(encoder):
            check_may_vary(encoder)
        return store.lookup(character_ids, partial(_encode_invariant, invariant))

    def forget_words(self):
        """Drops the vectors, and keeps what they are computed with."""
        entry = self._entry
        if entry is not None:
            record, description, (store, invariant) = entry
            self._entry = record, description, (_WordStore(store.capacity), invariant)


def _invariant(encoder: Any) -> Any:
    """A copy of the encoder that gives a word the same bits in any company, or itself where none is to be had."""
    return encoder.invariant() if onednn_works() and encoder.projection.weight.dtype == torch.float32 else encoder


def _encode_invariant(encoder: Any, character_ids: Tensor) -> Tensor:
    # More than two threads would divide the values of a word among them.
    alone = len(character_ids) <= WORDS_PER_CHUNK and torch.get_num_threads() <= MOST_INVARIANT_THREADS
    return encode_by_length(encoder, character_ids, in_threads=not alone)


_PLAIN_TYPES = frozenset((type(None), bool, int, float, str, WordVectors))


class _Generation:
    """Words in the order in which they came. A word is entered after its vector; neither changes any more."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self.rows: dict[bytes, int] = {}
        # (capacity, features) from the first word on; memory that was not written to takes no room.
        self.vectors: Tensor | None = None
        self.written = 0

    def add(self, keys: Sequence[bytes], vectors: Tensor):
        """Enters as many as there is room for."""
        if self.vectors is None:
            self.vectors = vectors.new_empty(self.capacity, vectors.shape[-1])
        start, end = self.written, min(self.written + len(keys), self.capacity)
        self.vectors[start:end] = vectors[: end - start]
        self.written = end
        self.rows.update(zip(keys, range(start, end), strict=False))


class _WordStore:
    """
    The vectors of at most `capacity` words for one state of the weights: two generations, of which the older one goes
    when the younger one is full. Any number of threads may ask at once, and nothing is ever changed in place, so that
    an exception, wherever it strikes, leaves a store that is right.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._capacity = max(1, capacity // 2) if capacity else 0
        self._generations = _Generation(self._capacity), _Generation(self._capacity)
        # Never waited for: whoever finds it taken goes without storing. A fork or an exception may leave it taken.
        self._writing = threading.Lock()

    def __len__(self) -> int:
        return len(set().union(*(generation.rows for generation in self._generations)))

    def lookup(self, character_ids: Tensor, encode: Callable[[Tensor], Tensor]) -> Tensor:
        """(words, characters) -> (words, features), a copy; `encode` computes the vectors that are not stored."""
        if not self._capacity:
            return encode(character_ids)
        keys = _keys(character_ids)
        generations = self._generations
        # Places of known words by generation, in order of the generations, then those of unknown words.
        places: tuple[list[int], list[int], list[int]] = [], [], []
        rows: tuple[list[int], list[int]] = [], []
        for place, key in enumerate(keys):
            for number, generation in enumerate(generations):
                row = generation.rows.get(key)
                if row is not None:
                    places[number].append(place)
                    rows[number].append(row)
                    break
            else:
                places[2].append(place)
        computed = encode(character_ids[places[2]]) if places[2] else None
        parts = [
            generation.vectors[row]
            for generation, row in zip(generations, rows, strict=True)
            if row and generation.vectors is not None
        ]
        if computed is not None:
            parts.append(computed)
        # What is only in the older generation is used again, and moves to the younger one.
        self._store(
            [keys[place] for place in places[1] + places[2]],
            parts[1 if rows[0] else 0 :],
        )
        if len(parts) == 1:
            return parts[0]
        order = torch.empty(len(keys), dtype=torch.long)
        order[places[0] + places[1] + places[2]] = torch.arange(len(keys))
        return torch.cat(parts)[order]

    def _store(self, keys: list[bytes], vectors: list[Tensor]):
        if not keys or not self._writing.acquire(blocking=False):
            return
        try:
            # What is made in inference mode could not be written to outside of it.
            with torch.inference_mode(False), torch.no_grad():
                self._add(keys, torch.cat(vectors))
        finally:
            self._writing.release()

    def _add(self, keys: list[bytes], vectors: Tensor):
        # A boundary comes twice when it is a word as well, as between two texts.
        new = {key: index for index, key in enumerate(keys)}
        keys, vectors = list(new), vectors[list(new.values())]
        young, _ = self._generations
        room = young.capacity - young.written
        young.add(keys[:room], vectors[:room])
        if len(keys) > room:
            fresh = _Generation(self._capacity)
            fresh.add(keys[room:], vectors[room:])
            self._generations = fresh, young


def _keys(character_ids: Tensor) -> list[bytes]:
    width = 4 * character_ids.shape[1]
    blob = character_ids.to(torch.int32).contiguous().numpy().tobytes()
    return [blob[start : start + width] for start in range(0, len(blob), width)]


# --- Products -------------------------------------------------------------------------------------------------------


def linear(module: nn.Module, inputs: Tensor) -> Tensor:
    """`module(inputs)` of (rows, in_features), as [`multiply`] for few rows if the module is a plain `nn.Linear`."""
    if (
        type(module) is nn.Linear
        and runs_plainly(inputs, module.weight)
        and len(inputs) <= FEW_ROWS
        and is_large(module.weight)
        and inputs.dtype == module.weight.dtype
        and not needs_gradient(inputs, *module.parameters())
        and not torch.is_autocast_enabled("cpu")
        and is_undisturbed(module)
    ):
        return multiply(inputs, module.weight, module.bias)
    return module(inputs)


# A third thread would compute values at the end of its share in another way than those in the middle of one.
MOST_INVARIANT_THREADS = 2


def has_word_vectors_of_same_bits(encoder: Any) -> bool:
    """Whether this processor gives a word the same bits in any company, when nothing asks for gradients."""
    weights = [module.weight for module in encoder.modules() if isinstance(module, nn.Linear)]
    filters = [module.weight for module in encoder.modules() if isinstance(module, nn.Conv1d)]
    return (
        onednn_works()
        and encoder.projection.weight.dtype == torch.float32
        and sum(map(len, filters)) % INVARIANT_MULTIPLE == 0
        and all(rows_are_independent(weight[0].numel(), len(weight), packed=False) for weight in filters)
        and all(rows_are_independent(*weight.shape[::-1], packed=is_large(weight)) for weight in weights)
    )


def _has_states_of_same_bits(encoder: Any, weights: Sequence[Tensor]) -> bool:
    """As [`has_word_vectors_of_same_bits`], of the layers of LSTMs."""
    return (
        onednn_works()
        and all(weight.dtype == torch.float32 for weight in weights)
        and all(layer.cell_size % INVARIANT_MULTIPLE == 0 for layer in encoder.forward_layers)
        and all(rows_are_independent(*weight.shape[::-1], packed=True) for weight in weights)
    )


@lru_cache(maxsize=64)
def rows_are_independent(in_features: int, out_features: int, packed: bool, least: int | None = None) -> bool:
    """
    Whether [`InvariantProduct`] keeps its promise for weights of a size: tried, once per process, for numbers of rows
    that take different ways in the libraries, on one thread and on two.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False), torch.no_grad():
        weight = torch.randn(out_features, in_features, generator=generator)
        inputs = torch.randn(MOST_ROWS if packed else 4 * MOST_ROWS, in_features, generator=generator)
        product = InvariantProduct(weight, packed=packed, least=least)
        expected = product(inputs)

        def agrees(rows: int) -> bool:
            starts = (0, len(inputs) - rows)
            return all(
                torch.equal(product(inputs[start : start + rows]), expected[start : start + rows]) for start in starts
            )

        tasks = [partial(agrees, rows) for rows in (*_TRIED_ROWS, len(inputs))]
        return all(run_in_threads(tasks, MOST_INVARIANT_THREADS)) and all(task() for task in tasks)


_TRIED_ROWS = (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 23, 31, 32, 33, 64, 65, 100, 128, 200, 256, 257)


def check_may_vary(module: Any):
    """
    Called where results may differ in their last bits with what else is in the batch.

    Raises:
        RuntimeError: `batch_invariant` promises that they do not.
    """
    if not module.batch_invariant or module.training:
        return
    if needs_gradient(*module.parameters()):
        logger.warning_once(
            "`batch_invariant` holds where no gradient is asked for: call the model under `torch.no_grad()`."
        )
        return
    raise RuntimeError(
        "A model with `batch_invariant=True` must run in float32 on an x86 CPU with oneDNN, as it was loaded (without "
        "hooks, adapters, autocast, compiler or `inputs_embeds`), and did not. Load it with `batch_invariant=False`."
    )


class PreparedProducts(NamedTuple):
    """The products of one layer with what was prepared for it."""

    recurrent: Product
    projection: Product
    # Of a first layer: the table of word vectors and the (N,) row of each position. Words repeat, products need not.
    words: tuple[Tensor, Tensor] | None = None
    # Without the bias; `None` to multiply with the weight as it is.
    inputs: Product | None = None
    # To so few bits that functions of them need no more.
    are_rounded: bool = False


class StackedWeights(NamedTuple):
    """Recurrent weights of layers that run together, in the order in which few rows multiply fastest."""

    recurrent: Tensor  # (layers, projection_dim, 4 * cell_size)
    projection: Tensor  # (layers, cell_size, projection_dim)


class RecurrentWeights(_RecordKeeper):
    """
    Weights of layers on a CPU, in the order in which they are read fastest: those of large layers packed for a batch
    and transposed for a single sentence, those of directions that run together stacked. Only one of these is held at a
    time. With `batch_invariant`, all weights are packed.
    """

    def __init__(self):
        super().__init__()
        self._last_form: str | None = None

    def products(
        self, encoder: Any, word_vectors: Tensor, packed_words: PackedWords
    ) -> tuple[list[PreparedProducts], list[PreparedProducts]] | None:
        """The products of both directions' layers; `None` if they are to multiply with what they have."""
        if packed_words.lengths is not None:
            return None
        layers = [*encoder.forward_layers, *encoder.backward_layers]
        always = None
        if encoder.batch_invariant:
            always = "invariant"
        elif word_vectors.dtype == torch.float32 and multiplies_in_bfloat16(encoder):
            always = "bfloat16"
        names = _WEIGHT_NAMES if always else _WEIGHT_NAMES[1:]
        flat = _weights_of_layers(encoder, names)
        if not _may_prepare(encoder, word_vectors, flat) or not (always or all(map(is_large, flat[0::2]))):
            self._entry = None
            check_may_vary(encoder)
            return None
        if encoder.batch_invariant and not _has_states_of_same_bits(encoder, flat):
            check_may_vary(encoder)
        num_sentences, num_steps = len(packed_words.sorted_rows), len(packed_words.batch_sizes)
        prepared = self._prepared(layers, num_sentences, num_steps, always)
        if prepared is None:
            return None
        ahead, behind = prepared[: len(layers) // 2], prepared[len(layers) // 2 :]
        if len(packed_words.sorted_rows) > 1 and not (encoder.training and encoder.dropout.p):
            ahead = [ahead[0]._replace(words=(word_vectors, packed_words.forward_words)), *ahead[1:]]
            behind = [behind[0]._replace(words=(word_vectors, packed_words.backward_words)), *behind[1:]]
        return ahead, behind

    def stacked(self, encoder: Any, word_vectors: Tensor, num_sentences: int) -> list[StackedWeights] | None:
        """Those of the first layers of both directions, of the second ones and so on; `None` if none are kept."""
        if not _may_prepare(encoder, word_vectors, _weights_of_layers(encoder, _WEIGHT_NAMES[1:])):
            self._entry = None
            return None
        if self._entry is not None and self._entry[1] != "stacked" and self._last_form != "stacked":
            # A few sentences between batches.
            self._last_form = "stacked"
            return None
        self._last_form = "stacked"
        return self._kept("stacked", encoder.forward_layers, encoder.backward_layers, num_sentences=num_sentences)

    def _kept(self, form: str, *layers: Iterable[nn.Module], num_sentences: int) -> Any:
        """What is made in a form from the first layers, from the second ones and so on."""
        make, names = _FORMS[form]
        groups = list(zip(*layers, strict=True))
        copied: list[nn.Parameter] = [getattr(layer, name) for group in groups for layer in group for name in names]
        entry = self._entry
        if entry is None or entry[1] != form or not entry[0].holds(copied, num_sentences):
            # Let go before the other form is made.
            entry = self._entry = None
            record = WeightRecord(copied, self.are_private)
            entry = self._entry = record, form, run_in_threads([partial(make, *group) for group in groups])
        return entry[2]

    def _prepared(
        self, layers: Sequence[nn.Module], num_sentences: int, num_steps: int, always: str | None
    ) -> list[PreparedProducts] | None:
        entry = self._entry
        form: str | None
        if always is not None:
            form = always if onednn_works() else None
        elif num_sentences > 1:
            form = "packed" if num_steps >= PACKED_STEPS and onednn_works() else None
        else:
            form = "transposed"
        if form is None:
            return None
        wanted = form
        if entry is not None and wanted == "transposed" and self._last_form != wanted and entry[1] != "stacked":
            # A single sentence between batches: packed weights serve it, too.
            form = entry[1]
        self._last_form = wanted
        return self._kept(form, layers, num_sentences=num_sentences)


def _may_prepare(encoder: Any, word_vectors: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether these weights of an encoder may be multiplied in another form than they have."""
    return (
        _can_be_recorded(weights)
        and runs_plainly(word_vectors, *weights)
        and not torch.is_autocast_enabled("cpu")
        and not needs_gradient(word_vectors, *encoder.parameters())
        and _are_known([*encoder.forward_layers, *encoder.backward_layers])
        and is_undisturbed(encoder)
    )


def _packed_products(layer: Any) -> PreparedProducts:
    weight_hr, packed = layer.weight_hr, PackedProduct(layer.weight_hr)

    def projection(inputs: Tensor) -> Tensor:
        # A single row is faster with the weight as it is.
        return F.linear(inputs, weight_hr) if len(inputs) == 1 else packed(inputs)

    return PreparedProducts(PackedProduct(layer.weight_hh), projection)


def _transposed_products(layer: Any) -> PreparedProducts:
    return PreparedProducts(transposed_product(layer.weight_hh), partial(F.linear, weight=layer.weight_hr))


def _invariant_products(layer: Any) -> PreparedProducts:
    inputs, recurrent, projection = (
        # A row by itself need not be filled up where it takes no way of its own.
        InvariantProduct(weight, least=1 if rows_are_independent(*weight.shape[::-1], packed=True, least=1) else 2)
        for weight in (layer.weight_ih, layer.weight_hh, layer.weight_hr)
    )
    return PreparedProducts(recurrent, projection, inputs=inputs)


def _bfloat16_products(layer: Any) -> PreparedProducts:
    inputs, recurrent, projection = map(Bfloat16Product, (layer.weight_ih, layer.weight_hh, layer.weight_hr))
    return PreparedProducts(recurrent, projection, inputs=inputs, are_rounded=True)


def stack_weights(*layers: Any) -> StackedWeights:
    """Of layers, or of [`LstmWeights`]."""
    recurrent, projection = (
        torch.stack([getattr(layer, name).detach().t() for layer in layers]) for name in _WEIGHT_NAMES[1:]
    )
    return StackedWeights(recurrent, projection)


_WEIGHT_NAMES = ("weight_ih", "weight_hh", "weight_hr")
# How each form is made, and what it copies.
_FORMS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "stacked": (stack_weights, _WEIGHT_NAMES[1:]),
    "packed": (_packed_products, ("weight_hh", "weight_hr")),
    "transposed": (_transposed_products, ("weight_hh",)),
    "invariant": (_invariant_products, _WEIGHT_NAMES),
    "bfloat16": (_bfloat16_products, _WEIGHT_NAMES),
}


class InputGates:
    """Gates before the recurrent product, for a slice of the positions at a time."""

    def __init__(self, inputs: Tensor, weight_ih: Tensor, bias: Tensor, prepared: PreparedProducts | None):
        self._multiply: Product = partial(multiply, weight=weight_ih, bias=bias)
        if prepared is not None and prepared.inputs is not None:
            packed = prepared.inputs
            self._multiply = lambda rows: packed(rows).add_(bias)
        self._inputs, self._words = inputs, None if prepared is None else prepared.words
        # (rows of the table, 4 * cell_size)
        self._gates = None
        if self._words is not None and len(self._words[0]) <= min(TABLE_ROWS, len(inputs)):
            self._gates = self._multiply(self._words[0])

    def __call__(self, start: int, end: int) -> Tensor:
        """(end - start, 4 * cell_size), the caller's own."""
        if self._words is None:
            return self._multiply(self._inputs[start:end])
        table, rows = self._words
        if self._gates is not None:
            return self._gates[rows[start:end]]
        unique, places = torch.unique(rows[start:end], return_inverse=True)
        return self._multiply(table[unique])[places]


def _are_known(layers: Iterable[nn.Module]) -> bool:
    return all(_KNOWN_FORWARDS.get(type(layer)) is type(layer).forward for layer in layers)


# --- Sixteen bits ---------------------------------------------------------------------------------------------------


class _Float32Copy(_RecordKeeper):
    """A copy in float32 of a module in 16 bits: every 16-bit float is one of float32, so it has the same weights."""

    def of(self, module: nn.Module, description: Any, num_sentences: int) -> Any:
        """`description`: all that decides what the copy computes and is not set anew for each call."""
        parameters = list(module.parameters())
        entry = self._entry
        if entry is None or entry[1] != description or not entry[0].holds(parameters, num_sentences):
            self._entry = None
            # What is made in inference mode would count no changes.
            with torch.inference_mode(False), torch.no_grad():
                twin = copy.deepcopy(module).float()
            for keeper in vars(twin).values():
                if isinstance(keeper, _RecordKeeper):
                    keeper.are_private = True
            entry = self._entry = WeightRecord(parameters), description, twin
        return entry[2]


class Float32Bilm:
    """
    Copies in float32 of the modules of a biLM in 16 bits, for a CPU: without instructions for these it would emulate
    them, two to four times as slowly, and with them small products are no faster. Word vectors, gates, cells and sums
    are not rounded on their way.

    Layers that are faster in bfloat16 are not copied but multiply with what they have; word vectors, gates, cells and
    sums are in float32 there as well.
    """

    def __init__(self):
        self._character_encoder, self._encoder = _Float32Copy(), _Float32Copy()

    def clear(self):
        self._character_encoder.clear()
        self._encoder.clear()

    def is_empty(self) -> bool:
        return self._character_encoder.is_empty() and self._encoder.is_empty()

    def modules(self, character_encoder: Any, encoder: Any, num_sentences: int) -> tuple[Any, Any]:
        """The copies, or the modules themselves where they are to compute in what they are."""
        if torch.compiler.is_compiling():
            # It would take what is forgotten here for a part of the computation.
            return character_encoder, encoder
        parameters = [*character_encoder.parameters(), *encoder.parameters()]
        layers = [*encoder.forward_layers, *encoder.backward_layers]
        dtypes = {parameter.dtype for parameter in parameters}
        if (
            len(dtypes) != 1
            or parameters[0].dtype not in (torch.bfloat16, torch.float16)
            or platform.machine().lower() not in ("x86_64", "amd64")
            or not _can_be_recorded(parameters)
            or not runs_plainly(*parameters)
            or torch.is_autocast_enabled("cpu")
            or needs_gradient(*parameters)
            or not _are_known(layers)
            or not is_undisturbed(encoder)
            or (description := _describe(character_encoder)) is None
        ):
            self.clear()
            return character_encoder, encoder
        wide_character_encoder = self._character_encoder.of(character_encoder, description, num_sentences)
        # Its large weights are of bfloat16, whatever they are kept in.
        wide_character_encoder.multiplies_in_bfloat16 = in_bfloat16 = multiplies_in_bfloat16(encoder)
        if in_bfloat16 and not _is_faster_in_float32(encoder, num_sentences):
            return wide_character_encoder, encoder
        wide_encoder = self._encoder.of(encoder, None, num_sentences)
        wide_encoder.train(encoder.training)
        wide_encoder.dropout.p = encoder.dropout.p
        wide_layers = [*wide_encoder.forward_layers, *wide_encoder.backward_layers]
        for wide, layer in zip(wide_layers, layers, strict=True):
            wide.clips, wide.add_skip = layer.clips, layer.add_skip
        return wide_character_encoder, wide_encoder


def multiplies_in_bfloat16(encoder: Any) -> bool:
    """Whether the layers of an encoder are large, and products in bfloat16 fast."""
    weights = _weights_of_layers(encoder)
    return (
        all(weight is not None and weight.dtype == torch.bfloat16 for weight in weights)
        and all(is_large(recurrent, torch.bfloat16) for recurrent in weights[1::3])
        and not is_emulated(torch.bfloat16)
        and bfloat16_products_work()
    )


def _is_faster_in_float32(encoder: Any, num_sentences: int) -> bool:
    """Whether so few sentences are read faster in float32, where products in bfloat16 are fast."""
    return num_sentences < BFLOAT16_SENTENCES and all(
        weight.numel() <= BFLOAT16_WEIGHT for weight in _weights_of_layers(encoder)
    )


def _weights_of_layers(encoder: Any, names: Sequence[str] = _WEIGHT_NAMES) -> list[Any]:
    """Those of each layer in turn, `None` where there is none."""
    layers = [*encoder.forward_layers, *encoder.backward_layers]
    return [layer._parameters.get(name) for layer in layers for name in names]


# --- Directions -----------------------------------------------------------------------------------------------------


def multiplies_directions_together(encoder: Any, num_sentences: int) -> bool:
    """
    Whether both directions run as one batch of two: it halves the calls, where calls and not products take the time,
    as on accelerators, and on a CPU for few sentences and small layers.
    """
    if encoder.batch_invariant and not encoder.training and torch.get_num_threads() > MOST_INVARIANT_THREADS:
        return False
    layers = [*encoder.forward_layers, *encoder.backward_layers]
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    devices = {parameter.device.type for parameter in parameters}
    if devices == {"cpu"}:
        if any(parameter.dtype in (torch.bfloat16, torch.float16) for parameter in parameters):
            return False
        largest = max(parameter.numel() for parameter in parameters)
        if not any(num_sentences <= sentences and largest <= weight for sentences, weight in TOGETHER_LIMITS):
            return False
    return (
        len({parameter.device for parameter in parameters}) == 1
        and devices != {"meta"}
        and runs_plainly(*parameters)
        and _are_known(layers)
        and not any(layer.gradient_checkpointing for layer in layers)
        # What somebody has set for one direction alone.
        and all(
            (ahead.clips, ahead.add_skip) == (behind.clips, behind.add_skip)
            for ahead, behind in zip(encoder.forward_layers, encoder.backward_layers, strict=True)
        )
        and is_undisturbed(encoder)
    )


def run_directions(encoder: nn.Module, inputs: Sequence[Tensor], tasks: Sequence[Callable[[], Any]]) -> list[Any]:
    """Runs the tasks of both directions, each on half the threads of a CPU where that may be: faster than in turn."""
    if (
        all(tensor.device.type == "cpu" for tensor in inputs)
        and not torch.compiler.is_compiling()
        and torch.get_num_threads() > 1
        and runs_plainly(*inputs)
        and not needs_gradient(*inputs, *encoder.parameters())
        and not torch.is_autocast_enabled("cpu")
        and is_undisturbed(encoder)
    ):
        return run_in_threads(tasks, MOST_INVARIANT_THREADS if encoder.batch_invariant else None)
    return [task() for task in tasks]


def run_in_threads(tasks: Sequence[Callable[[], Any]], threads_each: int | None = None) -> list[Any]:
    """
    Runs tasks that need no gradient at the same time, each on half of PyTorch's threads or on at most `threads_each`;
    in turn where there is one.
    """
    threads = torch.get_num_threads()
    inference_mode = torch.is_inference_mode_enabled()

    def run(task: Callable[[], Any]) -> Any:
        # Both modes belong to a thread.
        with torch.inference_mode(inference_mode), torch.no_grad():
            return task()

    if threads == 1:
        return [run(task) for task in tasks]
    workers = _workers(os.getpid(), max(2, threads // (threads_each or threads)), threads)
    return list(workers.map(run, tasks))


@lru_cache(maxsize=2)
def _workers(process: int, number: int, threads: int) -> ThreadPoolExecutor:
    """Workers of this process (a fork has the object, but not its threads), each with its share of `threads`."""
    started = threading.Barrier(number)

    def start(_: int):
        # PyTorch gives a thread its number when it first asks, and would give it that of all then.
        torch.get_num_threads()
        torch.set_num_threads(max(1, threads // number))
        started.wait()

    workers = ThreadPoolExecutor(number, thread_name_prefix="elmo")
    try:
        list(workers.map(start, range(number)))
    except BaseException:
        # Else a worker would wait for the others for ever.
        started.abort()
        raise
    finally:
        # The call holds for its own thread, but also sets what threads to come will start with.
        torch.set_num_threads(threads)
    return workers
