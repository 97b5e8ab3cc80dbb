"""A model as one ONNX file, which onnxruntime reads without PyTorch and without this package."""

import copy
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import modeling_elmo
from .checkpoints.hub_folder import load_config, load_model
from .configuration_elmo import ElmoConfig
from .files import PathLike, atomic_file, check_new_file
from .modeling_elmo import ElmoPreTrainedModel
from .small_model import find_model

# Rounding in another order; of the layers' scale. Eight bits are no rounding and have no bound.
TOLERANCE = 1e-5
# Protocol buffers end at 2 GB.
LARGEST = 1_900_000_000
# What a file is tried with: batch and words, also those that PyTorch specialises on.
_SHAPES = ((2, 3), (1, 1), (1, 7), (5, 1), (4, 9))


class OnnxExport(NamedTuple):
    """What became of an export."""

    path: Path
    inputs: dict[str, tuple[str | int, ...]]  # shape of each input, names for what may be of any size
    outputs: dict[str, tuple[str | int, ...]]
    difference: float  # the largest to PyTorch, of the scale of each output
    cosine: float | None  # of 8-bit weights: the lowest to the model, of the first output along its last dimension


def load_for_export(name: str | os.PathLike[str] | None, language_model: bool = False) -> ElmoPreTrainedModel:
    """
    A model as its folder says: with its head, if it has one; else the vectors of [`ElmoModel`].

    Args:
        name: as for `find_model`.
        language_model: whether it is to give the probabilities of words ([`ElmoForPreTraining`]).
    """
    folder = find_model(name)
    config = load_config(folder) if Path(folder).is_dir() else ElmoConfig.from_pretrained(folder)
    architecture = (config.architectures or ["ElmoModel"])[0]
    if language_model:
        architecture = "ElmoForPreTraining"
    elif architecture == "ElmoForPreTraining":
        architecture = "ElmoModel"
    if architecture not in modeling_elmo.__all__:
        raise ValueError(f"{folder}: `architectures` must be a model of elmo_hf, was: {architecture}.")
    model_class = getattr(modeling_elmo, architecture)
    return load_model(folder, model_class, config) if Path(folder).is_dir() else model_class.from_pretrained(folder)


def export_onnx(
    model: ElmoPreTrainedModel,
    path: PathLike,
    *,
    carry_states: bool = False,
    int8: bool = False,
    overwrite: bool = False,
) -> OnnxExport:
    """
    Writes a model for onnxruntime, in float32, for any number of sentences and words. The file is tried with
    onnxruntime before it stands under its name.

    Its input is `input_ids` (batch, words, 50), as of [`ElmoModel`]; a row of zeros is padding, wherever it stands.
    Outputs:

    - [`ElmoModel`]: `last_hidden_state`, `representation_1` and so on for further mixes, `layer_0` and so on, each
      (batch, words, hidden_size), and the states `lstm_hidden` and `lstm_cell`.
    - [`ElmoForPreTraining`]: with a second input `labels` (batch, words), what
      [`ElmoForPreTraining.log_probabilities`] gives: `forward`, `backward` (batch, words), `forward_end`,
      `backward_begin` (batch,) and the states.
    - heads: `logits`, or `start_logits` and `end_logits`.

    Args:
        model: of this library, on any device and of any precision; it is left as it is.
        path: the file to make.
        carry_states: whether the states to start from are inputs, too, `lstm_hidden_in` and `lstm_cell_in`.
        int8: whether weights are written in 8 bits: a quarter of the size, and not exact.
        overwrite: whether a file that is there is replaced.

    Raises:
        ImportError: `onnx`, `onnxscript` or `onnxruntime` is missing.
        FileExistsError: `path` is there.
        TypeError: it is no model of this library, or it is quantized.
        ValueError: it is too large for a file, has no states to carry, or the file gives other numbers.
    """
    _check_packages()
    check_new_file(path, overwrite)
    exported = _Exported(_plain_copy(model), carry_states)
    with atomic_file(path, overwrite=overwrite) as temporary:
        written = temporary.with_name(f"{temporary.name}.float32") if int8 else temporary
        try:
            _write(exported, written)
            if int8:
                _write_int8(written, temporary)
        finally:
            if int8:
                written.unlink(missing_ok=True)
        found = _compare(exported, temporary)
        if not int8 and not found.difference <= TOLERANCE:
            raise ValueError(
                f"The file must give the model's numbers to {TOLERANCE}, was off by {found.difference:.1e}."
            )
    return found._replace(path=Path(path), cosine=found.cosine if int8 else None)


def _check_packages():
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            __import__(name)
        except ImportError:
            raise ImportError(f"ONNX needs {name}, which is missing: pip install 'elmo_hf[onnx]'.") from None


def _plain_copy(model: ElmoPreTrainedModel) -> ElmoPreTrainedModel:
    """The model as it is defined: on a CPU, in float32, in evaluation mode."""
    # By its prefix: with `trust_remote_code` the class is another one.
    if getattr(model, "base_model_prefix", None) != "elmo":
        raise TypeError(f"`model` must be a model of elmo_hf, was: {type(model).__name__}.")
    if any(type(module).__name__.startswith("Int8") for module in model.modules()):
        raise TypeError("`model` must not be quantized; export the model that it was made from, with `int8=True`.")
    num_bytes = 4 * model.num_parameters()
    if num_bytes > LARGEST:
        raise ValueError(f"`model` must have less than {LARGEST:,} bytes of float32 for a file, has {num_bytes:,}.")
    return copy.deepcopy(model).cpu().float().eval().requires_grad_(False)


class _Exported(nn.Module):
    """A model from tensors to tensors, with their names."""

    model: Any

    def __init__(self, model: ElmoPreTrainedModel, carry_states: bool):
        super().__init__()
        self.model = model
        kind = type(model).__name__
        self.has_states = kind in ("ElmoModel", "ElmoForPreTraining")
        self.has_labels = kind == "ElmoForPreTraining"
        self.has_choices = kind == "ElmoForMultipleChoice"
        if carry_states and not self.has_states:
            raise ValueError(f"`carry_states` must be False for a model without states, such as {kind}, was: True.")
        self.carry_states = carry_states

    def names_of_inputs(self) -> list[str]:
        return [
            "input_ids",
            *(["labels"] if self.has_labels else []),
            *(["lstm_hidden_in", "lstm_cell_in"] if self.carry_states else []),
        ]

    def names_of_outputs(self) -> list[str]:
        config = self.model.config
        if self.has_labels:
            return ["forward", "backward", "forward_end", "backward_begin", "lstm_hidden", "lstm_cell"]
        if self.has_states:
            mixes = [f"representation_{number}" for number in range(1, max(1, len(self.model.scalar_mixes)))]
            layers = [f"layer_{number}" for number in range(config.num_hidden_layers + 1)]
            return ["last_hidden_state", *mixes, *layers, "lstm_hidden", "lstm_cell"]
        if type(self.model).__name__ == "ElmoForQuestionAnswering":
            return ["start_logits", "end_logits"]
        return ["logits"]

    def forward(self, input_ids: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        states = others[-2:] if self.carry_states else None
        if self.has_labels:
            found = self.model.log_probabilities(input_ids, others[0], lstm_states=states)
            return *found[:4], *found.lstm_states
        if self.has_states:
            outputs = self.model(input_ids, lstm_states=states, output_hidden_states=True, return_dict=True)
            return *outputs.elmo_representations, *outputs.hidden_states, *outputs.lstm_states
        outputs = self.model(input_ids, return_dict=True)
        return tuple(outputs[name] for name in self.names_of_outputs())

    def example(self, batch: int, words: int) -> tuple[Tensor, ...]:
        """Inputs of random words, some of them padding: on either side, between words, and once all of a sentence."""
        config = self.model.config
        generator = torch.Generator().manual_seed(1000 * batch + words)
        leading = (batch, 2) if self.has_choices else (batch,)
        highest = [config.vocab_size] * config.ids_per_word
        if config.word_embedding_dim:
            highest[0] = config.word_lexicon_size
        # Not 0, which is padding.
        columns = [torch.randint(1, high, (*leading, words), generator=generator) for high in highest]
        ids = torch.stack(columns, dim=-1)
        if batch > 1 and words > 1:
            ids[0, ..., 0, :] = 0
            ids[1, ..., -1, :] = 0
        if batch > 2 and words > 2:
            ids[2, ..., 1, :] = 0
            ids[-1] = 0
        inputs = [ids]
        if self.has_labels:
            inputs.append(torch.randint(0, config.word_vocab_size, (batch, words), generator=generator))
        if self.carry_states:
            shapes = [(batch, config.num_hidden_layers, 2, size) for size in (config.projection_dim, config.cell_size)]
            inputs += [torch.rand(shape, generator=generator) - 0.5 for shape in shapes]
        return tuple(inputs)

    def dynamic_shapes(self) -> tuple[Any, ...]:
        ids = {0: "batch", 1: "choices", 2: "words"} if self.has_choices else {0: "batch", 1: "words"}
        others = [{0: "batch", 1: "words"}] * self.has_labels + [{0: "batch"}] * 2 * self.carry_states
        return (ids, tuple(others)) if others else (ids,)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the exporter tells of itself."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def _write(exported: _Exported, path: Path):
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    with _quietly(), torch.no_grad():
        program = torch.onnx.export(
            exported,
            exported.example(*_SHAPES[0]),
            input_names=exported.names_of_inputs(),
            output_names=exported.names_of_outputs(),
            dynamic_shapes=exported.dynamic_shapes(),
            dynamo=True,
            verbose=False,
        )
        assert program is not None  # as it is without `dynamo`
        # onnxruntime would warn of constants that the steps of the loop do not use.
        RemoveUnusedNodesPass()(program.model)
        program.save(os.fspath(path), external_data=False)


def _write_int8(source: Path, path: Path):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quietly():
        quantize_dynamic(
            source,
            path,
            weight_type=QuantType.QInt8,
            per_channel=True,
            # The steps of the LSTMs are a graph within the graph.
            extra_options={"EnableSubgraph": True},
        )


def _compare(exported: _Exported, path: Path) -> OnnxExport:
    """Runs the file and the model with the same inputs."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.log_severity_level = 3
    session = InferenceSession(path, options)
    difference, cosine = 0.0, 1.0
    names = exported.names_of_inputs()
    for shape in _SHAPES:
        example = exported.example(*shape)
        found = session.run(None, {name: value.numpy() for name, value in zip(names, example, strict=True)})
        with torch.no_grad():
            expected = exported(*example)
        for one, other in zip(map(torch.from_numpy, found), expected, strict=True):
            if one.shape != other.shape:
                raise ValueError(f"The file must give {tuple(other.shape)}, gave {tuple(one.shape)}.")
            scale = max(1.0, float(other.abs().max())) if other.numel() else 1.0
            difference = max(difference, float((one - other).abs().max()) / scale if other.numel() else 0.0)
        first = torch.from_numpy(found[0]).flatten(0, -2), expected[0].flatten(0, -2)
        is_word = first[1].abs().sum(-1) > 0
        if is_word.any():
            cosine = min(cosine, float(torch.cosine_similarity(*first)[is_word].min()))
    inputs, outputs = (
        {one.name: tuple(one.shape) for one in ends} for ends in (session.get_inputs(), session.get_outputs())
    )
    return OnnxExport(path, inputs, outputs, difference, cosine)
