"""Multiply-accumulate operations (MACs) per sample, counted in the ONNX graph.

    graph with shapes and weights as extra outputs ─▶ one run on a sample ─▶ Macs

Shapes come from the run, so no shape inference is needed. Operands that do not depend on the sample
are weights, however they are stored (quantized, transposed, factored, as a codebook). Products of
constants only are computed once and not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner

from variants.catalog.catalog import Macs
from variants.model.dataset import Samples


class _Operands(NamedTuple):
    """Indices of the multiplied inputs of an operator, and of the zero point of the second."""

    first: int
    second: int
    zero_point: int | None = None


_COUNTED: Final = {
    "MatMul": _Operands(0, 1),
    "Gemm": _Operands(0, 1),
    "Conv": _Operands(0, 1),
    "ConvTranspose": _Operands(0, 1),
    "MatMulInteger": _Operands(0, 1, 3),
    "ConvInteger": _Operands(0, 1, 3),
    "QLinearMatMul": _Operands(0, 3, 5),
    "QLinearConv": _Operands(0, 3, 5),
}
_NOT_COUNTED: Final = frozenset(
    {"Attention", "DeformConv", "Einsum", "GRU", "If", "LSTM", "Loop", "RNN", "Scan"}
)
"""Standard operators whose multiplications are not counted, or that contain subgraphs."""
_STANDARD: Final = ("", "ai.onnx")
_CONVERSIONS: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})
"""Operators of other domains without multiplications."""
_SHAPE, _VALUES = "shape of ", "values of "
"""Name prefixes of the extra graph outputs."""
_ERRORS: Final = 3
"""Log severity. onnxruntime warns that the graph is not optimized."""


@dataclass(frozen=True)
class _Product:
    """A counted node and the names of its tensors."""

    node: onnx.NodeProto
    first: str
    second: str
    zero_point: str
    output: str


def count_macs(model: bytes, sample: Samples) -> Macs | None:
    """Count the operations of a serialized ONNX model for one sample (inputs `[1, ...]` by name).

    Matrix products and convolutions are counted, padding included. Effective operations exclude
    those with zero weights. Returns None if the graph has operators that cannot be counted.
    """
    proto = onnx.load_model_from_string(model)
    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    if any(_is_uncountable(node) for node in proto.graph.node):
        return None
    constant = _constants(proto.graph)
    products = [
        _product(node)
        for node in proto.graph.node
        if node.op_type in _COUNTED and node.output[0] not in constant
    ]
    shapes, values = _run(proto, products, constant, sample)
    dense = effective = 0
    for product in products:
        macs = _macs(product, shapes)
        dense += macs
        for name in {product.first, product.second} & constant:
            weight = values[name]
            zero_point = values.get(product.zero_point) if name == product.second else None
            nonzeros = np.count_nonzero(
                weight != _broadcast(zero_point, weight, product.node.op_type)
            )
            macs = macs * int(nonzeros) // max(weight.size, 1)
        effective += macs
    return Macs(dense=dense, effective=effective)


def _is_uncountable(node: onnx.NodeProto) -> bool:
    if node.domain in _STANDARD:
        return node.op_type in _NOT_COUNTED
    return node.op_type not in _CONVERSIONS


def _constants(graph: onnx.GraphProto) -> set[str]:
    """Return the names of tensors that depend on no input. Nodes must be in topological order."""
    constant = {tensor.name for tensor in graph.initializer} - {i.name for i in graph.input}
    constant.add("")  # an omitted optional input
    for node in graph.node:
        if constant.issuperset(node.input):
            constant.update(node.output)
    return constant


def _product(node: onnx.NodeProto) -> _Product:
    operands = _COUNTED[node.op_type]
    at = operands.zero_point
    return _Product(
        node=node,
        first=node.input[operands.first],
        second=node.input[operands.second],
        zero_point=node.input[at] if at is not None and at < len(node.input) else "",
        output=node.output[0],
    )


def _run(
    proto: onnx.ModelProto, products: Sequence[_Product], constant: set[str], sample: Samples
) -> tuple[dict[str, tuple[int, ...]], dict[str, NDArray[np.float32]]]:
    """Run the graph. Return the shapes of the operands and outputs, and the values of constants.

    Added graph nodes compute both, since numpy does not support every tensor type.
    """
    operands = dict.fromkeys(n for p in products for n in (p.first, p.second, p.output))
    weights = dict.fromkeys(n for p in products for n in (p.first, p.second, p.zero_point) if n)
    graph = proto.graph
    for name in operands:
        graph.node.append(helper.make_node("Shape", [name], [_SHAPE + name]))
        graph.output.append(helper.make_tensor_value_info(_SHAPE + name, TensorProto.INT64, None))
    for name in constant.intersection(weights):
        node = helper.make_node("Cast", [name], [_VALUES + name], to=TensorProto.FLOAT)
        graph.node.append(node)
        graph.output.append(helper.make_tensor_value_info(_VALUES + name, TensorProto.FLOAT, None))

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = _ERRORS
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [o.name for o in session.get_outputs() if o.name.startswith((_SHAPE, _VALUES))]
    outputs = dict(zip(names, session.run(names, dict(sample)), strict=True)) if names else {}
    shapes = {name: tuple(int(size) for size in outputs[_SHAPE + name]) for name in operands}
    return shapes, {n.removeprefix(_VALUES): v for n, v in outputs.items() if n.startswith(_VALUES)}


def _macs(product: _Product, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the MACs of one node: the number of its outputs times the terms of each sum."""
    first, second = shapes[product.first], shapes[product.second]
    output = prod(shapes[product.output])
    match product.node.op_type:
        case "Gemm":
            transposed = any(a.name == "transA" and a.i for a in product.node.attribute)
            return output * first[0 if transposed else 1]
        case "Conv" | "ConvInteger" | "QLinearConv":
            return output * prod(second[1:])
        case "ConvTranspose":
            return prod(first) * prod(second[1:])
        case _:
            return output * first[-1]


def _broadcast(
    zero_point: NDArray[np.float32] | None, weight: NDArray[np.float32], operator: str
) -> NDArray[np.float32]:
    """Return the zero point in a shape that broadcasts to the weight."""
    if zero_point is None:
        return np.zeros((), np.float32)
    if zero_point.size > 1 and "Conv" in operator:  # one per output channel, the first axis
        return zero_point.reshape(-1, *[1] * (weight.ndim - 1))
    return zero_point
