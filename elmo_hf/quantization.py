"""Eight-bit weights: a faster, smaller and slightly different model, for those who ask for it."""

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from .lstm_kernels_elmo import LstmProducts, LstmWeights, lstm_in_place
from .modeling_elmo import ElmoPreTrainedModel

# Without VNNI the kernel adds pairs of products in 16 bits; 7-bit activations cannot overflow there. All 8 bits round
# with two thirds of the error.
REDUCE_RANGE = not getattr(torch.cpu, "_is_vnni_supported", bool)()

_NOT_TRACED = "A quantized model can be neither traced nor compiled; use the model it was made from."


class Int8Linear(nn.Module):
    """
    `x @ weight.T + bias` with the weight in 8 bits, one scale per output feature, and `x` rounded at run time with one
    scale for the whole of it.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None):
        super().__init__()
        weight = weight.detach().float()
        # A feature whose weights are all 0 may have any scale.
        scales = (weight.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny).double()
        zero_points = torch.zeros(len(weight), dtype=torch.long)
        with warnings.catch_warnings():
            # PyTorch 2.13 announces the end of quantized tensors; its 8-bit kernels still take nothing else.
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
            quantized = torch.quantize_per_channel(weight, scales, zero_points, 0, torch.qint8)
        # A copy of its own: what is packed shares the bias.
        bias = None if bias is None else bias.detach().float().clone()
        self.packed = torch.ops.quantized.linear_prepack(quantized, bias)

    def forward(self, inputs: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            raise ValueError(_NOT_TRACED)
        if inputs.numel() == 0:
            # The kernel has no scale for nothing.
            return inputs.new_zeros(*inputs.shape[:-1], self.packed.unpack()[0].shape[0])
        return torch.ops.quantized.linear_dynamic(inputs, self.packed, REDUCE_RANGE)


class Int8LstmLayer(nn.Module):
    """An `ElmoLstmLayer` for inference, its three products in 8 bits and its state in float32."""

    gradient_checkpointing = False

    def __init__(self, layer: Any):
        super().__init__()
        weights = LstmWeights(*(weight.float() for weight in layer.weights()))
        self.inputs = Int8Linear(weights.weight_ih, weights.bias)
        self.recurrent = Int8Linear(weights.weight_hh)
        self.projection = Int8Linear(weights.weight_hr)
        self.clips, self.add_skip = layer.clips, layer.add_skip

    @torch.no_grad()
    def forward(
        self, inputs: Tensor, hidden: Tensor, cell: Tensor, batch_sizes: list[int], lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if lengths is not None:
            raise ValueError(_NOT_TRACED)
        products = LstmProducts(
            lambda start, end: self.inputs(inputs[start:end]),
            lambda gates, x: gates.add_(self.recurrent(x)),
            self.projection,
            are_rounded=True,
        )
        outputs, final_hidden, final_cell = lstm_in_place(inputs, hidden, cell, batch_sizes, products, self.clips)
        return (outputs + inputs if self.add_skip else outputs), final_hidden, final_cell


def quantize(model: ElmoPreTrainedModel) -> ElmoPreTrainedModel:
    """
    Returns a copy of a model with the weights of its LSTMs, highways and character projection in 8 bits, for inference
    on a CPU. Heads, scalar mixes and convolutions stay as they are; the model itself is left alone.

    The copy computes in float32, whatever the precision of the model. It is not exact (`benchmarks/quantization.py`
    prints the cosine of each layer), and, unlike those of the model, its vectors depend a little on the neighbours in
    the batch, because activations share a scale. It cannot be trained or saved.

    Raises:
        TypeError: it has no LSTM layers to quantize; it may be quantized already.
        ValueError: the model is not on a CPU or batch-invariant, or this PyTorch has no 8-bit kernels.
    """
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        raise ValueError("8-bit products need PyTorch's fbgemm kernels, which this build or processor lacks.")
    if model.device.type != "cpu":
        raise ValueError(
            f"`model` must be on a CPU to be quantized, was on: {model.device}. Call `model.cpu()` first."
        )
    if model.config.batch_invariant:
        raise ValueError("`model` must be without `batch_invariant`: 8-bit activations share a scale.")
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    try:
        quantized = _convert(model, {}).float()
    finally:
        torch.backends.quantized.engine = engine
    quantized.save_pretrained = _refuse_to_save
    return quantized.eval().requires_grad_(False)


def _convert(model: ElmoPreTrainedModel, memo: dict) -> ElmoPreTrainedModel:
    """Copies a model; what becomes 8-bit is put in the place of its copy, which is never made."""
    for name, module in model.named_modules():
        # By name: with `trust_remote_code` the class is another one.
        if type(module).__name__ == "ElmoLstmLayer":
            memo[id(module)] = Int8LstmLayer(module)
        elif isinstance(module, nn.Linear) and "character_encoder." in name:
            memo[id(module)] = Int8Linear(module.weight, module.bias)
    if not any(isinstance(copy_, Int8LstmLayer) for copy_ in memo.values()):
        raise TypeError(f"`model` must be a model of this library that is not quantized yet, was: {type(model)}.")
    return copy.deepcopy(model, memo)


def _refuse_to_save(*args, **kwargs):
    raise ValueError(
        "A quantized model cannot be saved. Save the model it was made from and quantize that on loading."
    )
