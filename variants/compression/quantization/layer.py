"""The layers of an exported graph that can be stored in 8 bits, and what they are called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from variants.model.dataset import Samples
from variants.model.forward import tensors

QUANTIZED_SUFFIX: Final = "_quantized"
"""What onnxruntime's quantiser appends to the name of a weight that it stores in 8 bits."""

_CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_WEIGHT_INPUT: Final[Mapping[str, int]] = {"Conv": 1, "Gemm": 1, "MatMul": 1, "Gather": 0}
"""Which input of an operator is its weight: of the others, activations by activations, none is."""


@dataclass(frozen=True)
class QuantizableLayer:
    """One operator with a weight of its own."""

    name: str
    """Of the module in the network; of the parameter, where the module holds several matrices."""
    node: str
    operator: str
    """Conv, Gemm, MatMul, or Gather for an embedding."""
    weight: str
    """Of the initialiser."""


def name_weights(model: onnx.ModelProto, network: nn.Module) -> onnx.ModelProto:
    """Return a copy of an exported graph in which each matrix is called as in the network.

    The exporter turns the weights of a Linear around, and then numbers them.
    """
    turned = {
        parameter.detach().numpy().T.tobytes(): name
        for name, parameter in network.named_parameters()
        if parameter.ndim == 2
    }
    named = onnx.ModelProto()
    named.CopyFrom(model)
    taken = {tensor.name for tensor in named.graph.initializer}
    new = {}
    for tensor in named.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2:
            name = turned.get(numpy_helper.to_array(tensor).tobytes(), tensor.name)
            if name not in taken:
                new[tensor.name] = tensor.name = name
                taken.add(name)
    for node in named.graph.node:
        for number, name in enumerate(node.input):
            node.input[number] = new.get(name, name)
    return named


def find_layers(model: onnx.ModelProto) -> tuple[list[QuantizableLayer], tuple[str, ...]]:
    """Return the layers of a graph whose weights have their names, and notes on those left out.

    A layer whose weight another one reads too stays as it is: the two may want different scales.
    """
    weights = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) >= 2
    }
    readers = Counter(name for node in model.graph.node for name in node.input)
    layers, notes = [], []
    for node in model.graph.node:
        weight = node.input[_WEIGHT_INPUT[node.op_type]] if node.op_type in _WEIGHT_INPUT else ""
        if weight not in weights:
            continue
        layer = QuantizableLayer(layer_name(weight), node.name, node.op_type, weight)
        if any(attribute.name == "axis" and attribute.i for attribute in node.attribute):
            notes.append(f"layer {layer.name} stays in FP32: it is looked up by columns")
        elif readers[weight] > 1:
            notes.append(f"layer {layer.name} stays in FP32: another layer reads its weight too")
        else:
            layers.append(layer)
    return layers, tuple(dict.fromkeys(notes))


def layer_name(weight: str) -> str:
    """Return the name of the module that a weight belongs to, or its own if that has several."""
    return weight.removesuffix(".weight")


def is_excluded(layer: QuantizableLayer, patterns: tuple[str, ...]) -> bool:
    """Say whether the name of the layer fits one of the patterns, as in `head` or `blocks.0.*`."""
    return any(fnmatchcase(layer.name, pattern) for pattern in patterns)


def convolution_share(network: nn.Module, sample: Samples) -> float:
    """Return which share of the multiplications by weights is in convolutions, 0 to 1.

    Counted over the Linear and Conv modules while the network runs on `sample`, of any size.
    """
    macs = {"linear": 0, "conv": 0}

    def count(module: nn.Module, inputs: object, output: Tensor) -> None:
        if isinstance(module, nn.Linear):
            macs["linear"] += output.numel() * module.in_features
        elif isinstance(module, _CONVOLUTIONS):
            macs["conv"] += output.numel() * module.weight[0].numel()

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    try:
        with torch.inference_mode():
            network.eval()(*tensors(sample))
    finally:
        for hook in hooks:
            hook.remove()
    return macs["conv"] / max(1, sum(macs.values()))
