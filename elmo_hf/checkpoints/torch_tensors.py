"""What AllenNLP and ELMoForManyLangs share: files of PyTorch, and the layout of an LSTM cell and a highway in them."""

import pickle
from collections.abc import Mapping

import torch
from torch import Tensor

from .errors import plain_errors, shortened
from .sources import Source, on_disk


def load_state(source: Source, name: str) -> dict[str, Tensor]:
    """
    The tensors of a file of PyTorch, of any version; nothing in it is executed.

    Raises:
        ValueError: it is none, or damaged, or holds something else than tensors by name.
    """
    location = source.location(name)
    with on_disk(source, name) as file, plain_errors(location, "file of PyTorch"):
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            # Its message is a page of advice on how to execute it all the same.
            raise ValueError("it is no pickle of tensors alone") from None
    if not isinstance(state, Mapping) or not all(isinstance(key, str) for key in state):
        raise ValueError(f"{location}: must hold tensors by name, did not.")
    size = source.size(name)
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    for key, value in tensors.items():
        if value.numel() > size:
            raise ValueError(f"{location}: `{shortened(key)}` must be in the file, has {value.numel()} numbers.")
    return tensors


class Taken:
    """
    Tensors that are looked up by name, checked, and counted.

    Attributes:
        used: the names that were asked for.
    """

    def __init__(self, location: str, tensors: Mapping[str, Tensor], prefix: str = ""):
        self.location, self._tensors, self._prefix = location, tensors, prefix
        self.used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._tensors

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """
        Raises:
            ValueError: it is missing, or has another number of dimensions.
        """
        tensor = self._tensors.get(self._prefix + name)
        if tensor is None:
            raise ValueError(f"{self.location}: `{self._prefix}{name}` must be there, was missing.")
        if tensor.dim() != dimensions or 0 in tensor.shape:
            raise ValueError(
                f"{self.location}: `{self._prefix}{name}` must have {dimensions} dimensions, had the shape: "
                f"{tuple(tensor.shape)}."
            )
        return tuple(tensor.shape)

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """
        A tensor in float32.

        Raises:
            ValueError: it is missing, has another shape or type, or is not finite.
        """
        found = self.shape(name, len(shape))
        tensor = self._tensors[self._prefix + name]
        where = f"{self.location}: `{self._prefix}{name}`"
        if found != shape:
            raise ValueError(f"{where} must have shape {shape}, was: {found}.")
        if not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise ValueError(f"{where} must hold floats, was: {tensor.dtype}, {tensor.layout}.")
        tensor = tensor.float()
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{where} must be finite, was not.")
        self.used.add(self._prefix + name)
        return tensor


def with_row_above(table: Tensor) -> Tensor:
    """A table with a row of zeros for "no word here"."""
    return torch.cat([table.new_zeros(1, table.shape[1]), table])


def cell(tensors: Taken, theirs: str, ours: str, width: int, size: int) -> dict[str, Tensor]:
    """
    One layer in one direction. Its gates lie in our order already; of the forget gate's bias we take away the 1 that
    TensorFlow adds and these files have added.
    """
    bias = tensors.take(f"{theirs}state_linearity.bias", (4 * size,)).clone()
    bias[size : 2 * size] -= 1.0
    return {
        f"{ours}weight_ih": tensors.take(f"{theirs}input_linearity.weight", (4 * size, width)),
        f"{ours}weight_hh": tensors.take(f"{theirs}state_linearity.weight", (4 * size, width)),
        f"{ours}bias": bias,
        f"{ours}weight_hr": tensors.take(f"{theirs}state_projection.weight", (width, size)),
    }


def highway(tensors: Taken, theirs: str, ours: str, size: int) -> dict[str, Tensor]:
    """What is new and the gate lie below each other; theirs opens what is carried on, ours what is new."""
    weight, bias = tensors.take(f"{theirs}weight", (2 * size, size)), tensors.take(f"{theirs}bias", (2 * size,))
    return {
        f"{ours}transform.weight": weight[:size].clone(),
        f"{ours}transform.bias": bias[:size].clone(),
        f"{ours}carry_gate.weight": -weight[size:],
        f"{ours}carry_gate.bias": -bias[size:],
    }


def count(tensors: Taken, pattern: str) -> int:
    """How many names there are from number 0 on."""
    number = 0
    while pattern.format(number) in tensors:
        number += 1
    return number
