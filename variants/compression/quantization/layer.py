"""Finds and names the layers of an exported graph that can be quantized to 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from variants.compression.quantization.sharing import WEIGHT_INPUT, original, rename
from variants.model.dataset import Samples
from variants.model.forward import outputs, tensors

QUANTIZED_SUFFIX: Final = "_quantized"
"""Suffix that onnxruntime's quantizer appends to the name of an 8-bit weight."""

_CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class QuantizableLayer:
    """An operator of a graph with its own weight."""

    name: str
    """Name of the module in the network, or of the parameter if the module has several matrices."""
    node: str
    """Name of the graph's node."""
    operator: str
    """Conv, Gemm, MatMul, or Gather for an embedding."""
    weight: str
    """Name of the initializer."""


def name_weights(model: onnx.ModelProto, network: nn.Module) -> onnx.ModelProto:
    """Return a copy of an exported graph in which each matrix has its name in the network.

    The exporter transposes the weights of a Linear and gives them numbers as names.
    """
    names: dict[bytes, str] = {}
    for name, parameter in network.named_parameters():
        if parameter.ndim == 2:
            names.setdefault(parameter.detach().numpy().T.tobytes(), name)
    named = onnx.ModelProto()
    named.CopyFrom(model)
    taken = {tensor.name for tensor in named.graph.initializer}
    renamed = {}
    for tensor in named.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2:
            name = names.get(numpy_helper.to_array(tensor).tobytes(), tensor.name)
            if name not in taken:
                renamed[tensor.name] = tensor.name = name
                taken.add(name)
    rename(named.graph, renamed)
    return named


def equal_parameters(network: nn.Module) -> dict[str, list[str]]:
    """Return, by the name of each parameter, those of the parameters with its shape and values."""
    groups: dict[tuple[tuple[int, ...], bytes], list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if parameter.ndim >= 2:
            content = parameter.detach().contiguous().numpy().tobytes()
            groups.setdefault((tuple(parameter.shape), content), []).append(name)
    return {
        name: [other for other in names if other != name]
        for names in groups.values()
        for name in names
    }


def find_layers(model: onnx.ModelProto) -> tuple[list[QuantizableLayer], tuple[str, ...]]:
    """Return the quantizable layers of a graph, and notes on the layers that stay in FP32.

    The graph is from `unshare`, so that each layer has a weight of its own.
    """
    weights = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) >= 2
    }
    layers, notes = [], []
    for node in model.graph.node:
        weight = node.input[WEIGHT_INPUT[node.op_type]] if node.op_type in WEIGHT_INPUT else ""
        if weight not in weights:
            continue
        layer = QuantizableLayer(layer_name(weight), node.name, node.op_type, weight)
        if any(attribute.name == "axis" and attribute.i for attribute in node.attribute):
            notes.append(f"layer {layer.name} stays in FP32: it looks up columns")
        else:
            layers.append(layer)
    return layers, tuple(dict.fromkeys(notes))


def layer_name(weight: str) -> str:
    """Return the name of a weight's module, or the weight's own if the module has several.

    Layers that share a weight have one name.
    """
    return original(weight).removesuffix(".weight")


def is_excluded(layer: QuantizableLayer, patterns: tuple[str, ...]) -> bool:
    """Return whether the layer's name matches a pattern, such as `head` or `blocks.0.*`."""
    return any(fnmatchcase(layer.name, pattern) for pattern in patterns)


def convolution_share(network: nn.Module, sample: Samples) -> float:
    """Return the share of multiplications by weights that convolutions do, 0 to 1.

    Multiplications are counted in the Linear and Conv modules, in one run of the network on
    `sample`, which may have any number of samples.
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
            outputs(network.eval(), tensors(sample))
    finally:
        for hook in hooks:
            hook.remove()
    return macs["conv"] / max(1, sum(macs.values()))
