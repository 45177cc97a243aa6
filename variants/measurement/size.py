"""Size of a variant by its files: number of parameters and nonzeros, and bytes of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import safetensors.numpy
from onnx import numpy_helper

from variants.catalog import artifact
from variants.catalog.catalog import Variant
from variants.compression.quantization.layer import QUANTIZED_SUFFIX
from variants.compression.quantization.shared_weights import find_codebooks
from variants.runtime.onnx import FILE
from variants.runtime.plan import PLAN, WEIGHTS, Plan

_NOT_WEIGHTS = ("indices", "offsets", "starts", "scales")
"""Suffixes of the tensors of packed layers that are neither weights nor biases."""
_SCALED = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Size:
    """Counts over all weights and biases that the runner of a variant loads.

    `parameters` follows the shapes of the layers, so omitted weights of packed layers count too.
    `nonzeros` counts stored values that do not represent 0. `weight_bytes` covers values, indices,
    codes, scales and zero points.
    """

    parameters: int
    nonzeros: int
    weight_bytes: int


def measure_size(catalog: Path, variant: Variant) -> Size:
    """Count the weights of a variant of the catalog in this folder. Verifies the hashes."""
    files = artifact.read_all(catalog / variant.name, variant)
    match variant.runner:
        case "onnx":
            return onnx_size(files[FILE])
        case "torch":
            return torch_size(Plan.model_validate_json(files[PLAN]), files[WEIGHTS])


def onnx_size(model: bytes) -> Size:
    """Count the initializers of an ONNX model.

    Scales, zero points and INT64 initializers (shapes and axes) count as bytes but not as
    parameters. A quantized value represents 0 if it equals its zero point, a code if its shared
    value is 0.
    """
    graph = onnx.load_model_from_string(model).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scaling = {name for node in graph.node if node.op_type in _SCALED for name in node.input[1:]}
    quantized = {
        name.removesuffix(QUANTIZED_SUFFIX) for name in tensors if name.endswith(QUANTIZED_SUFFIX)
    }
    scaling |= {name + part for name in quantized for part in ("_scale", "_zero_point")}
    zero_points = _zero_points(graph, tensors)
    shared = find_codebooks(graph).values()
    in_codes = {name for weight in shared for name in weight.initializers}

    parameters = sum(weight.codebook.codes.size for weight in shared)
    nonzeros = sum(int(np.count_nonzero(weight.codebook.decode())) for weight in shared)
    for name, values in tensors.items():
        if name in scaling or name in in_codes or values.dtype == np.int64:
            continue
        parameters += values.size
        nonzeros += int(np.count_nonzero(values != zero_points.get(name, 0)))
    return Size(parameters, nonzeros, sum(values.nbytes for values in tensors.values()))


def torch_size(plan: Plan, weights: bytes) -> Size:
    """Count the tensors of a safetensors file. The plan lists the packed layers."""
    tensors = safetensors.numpy.load(weights)
    packed = plan.packed
    extra = {f"{name}.{part}" for name in packed for part in _NOT_WEIGHTS}
    stored = {name: values for name, values in tensors.items() if name not in extra}
    omitted = sum(
        layer.in_features * layer.out_features - tensors[f"{name}.values"].size
        for name, layer in packed.items()
    )
    return Size(
        parameters=sum(values.size for values in stored.values()) + omitted,
        nonzeros=sum(int(np.count_nonzero(values)) for values in stored.values()),
        weight_bytes=sum(values.nbytes for values in tensors.values()),
    )


def _zero_points(
    graph: onnx.GraphProto, tensors: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the zero point of each stored quantized tensor, in a shape that broadcasts to it."""
    zero_points = {}
    for node in graph.node:
        if node.op_type != "DequantizeLinear" or len(node.input) < 3:
            continue
        values, zero_point = tensors.get(node.input[0]), tensors.get(node.input[2])
        if values is None or zero_point is None:
            continue
        if zero_point.size > 1:  # one per slice along `axis`, by default 1
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            shape = [1] * values.ndim
            shape[axis] = -1
            zero_point = zero_point.reshape(shape)
        zero_points[node.input[0]] = zero_point
    return zero_points
