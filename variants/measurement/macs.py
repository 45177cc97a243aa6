"""How many multiplications with addition (MACs) a sample takes, counted from the ONNX graph.

    graph + shapes and weights to give out ─▶ one run on a sample ─▶ Macs

The shapes are those of a real run, so nothing needs to be inferred. A weight is whatever does not
depend on the sample, however it is stored (quantised, transposed, in factors, as a codebook); what
depends on no sample at all is computed once, and not counted.
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
    """Which inputs of an operator are multiplied, and which is the second one's zero point."""

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
"""Standard operators that multiply, or hold others that may, in ways that are not looked into."""
_STANDARD: Final = ("", "ai.onnx")
_CONVERSIONS: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})
"""The operators of other domains that multiply nothing with nothing."""
_SHAPE, _VALUES = "shape of ", "values of "
_ERRORS: Final = 3
"""onnxruntime's severity: a warning that a graph is not optimised would be no news."""


@dataclass(frozen=True)
class _Product:
    """A node that is counted, with the names of its tensors."""

    node: onnx.NodeProto
    first: str
    second: str
    zero_point: str
    output: str


def count_macs(model: bytes, sample: Samples) -> Macs | None:
    """Count what a serialised ONNX model multiplies for `sample`: inputs by name, each `[1, ...]`.

    Counted are matrix products and convolutions, padding included; effective ones leave out those
    by a weight that is zero. None if the graph has an operator that multiplies in another way.
    """
    proto = onnx.load_model_from_string(model)
    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    if any(_is_unknown(node) for node in proto.graph.node):
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
            kept = np.count_nonzero(weight != _broadcast(zero_point, weight, product.node.op_type))
            macs = macs * int(kept) // max(weight.size, 1)
        effective += macs
    return Macs(dense=dense, effective=effective)


def _is_unknown(node: onnx.NodeProto) -> bool:
    if node.domain in _STANDARD:
        return node.op_type in _NOT_COUNTED
    return node.op_type not in _CONVERSIONS


def _constants(graph: onnx.GraphProto) -> set[str]:
    """Return the names of all tensors that depend on no input; nodes are in order of use."""
    constant = {tensor.name for tensor in graph.initializer} - {i.name for i in graph.input}
    constant.add("")  # an optional input that is left out
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
    """Run the graph; return the shape of each product's tensors, and those of them that are fixed.

    Both are computed by nodes added to the graph, for numpy cannot hold every type of tensor.
    """
    shaped = dict.fromkeys(n for p in products for n in (p.first, p.second, p.output))
    fixed = dict.fromkeys(n for p in products for n in (p.first, p.second, p.zero_point) if n)
    graph = proto.graph
    for name in shaped:
        graph.node.append(helper.make_node("Shape", [name], [_SHAPE + name]))
        graph.output.append(helper.make_tensor_value_info(_SHAPE + name, TensorProto.INT64, None))
    for name in constant.intersection(fixed):
        node = helper.make_node("Cast", [name], [_VALUES + name], to=TensorProto.FLOAT)
        graph.node.append(node)
        graph.output.append(helper.make_tensor_value_info(_VALUES + name, TensorProto.FLOAT, None))

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = _ERRORS
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    asked = [o.name for o in session.get_outputs() if o.name.startswith((_SHAPE, _VALUES))]
    found = dict(zip(asked, session.run(asked, dict(sample)), strict=True)) if asked else {}
    shapes = {name: tuple(int(size) for size in found[_SHAPE + name]) for name in shaped}
    return shapes, {n.removeprefix(_VALUES): v for n, v in found.items() if n.startswith(_VALUES)}


def _macs(product: _Product, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the multiplications of one node: for each number it gives, what it adds up."""
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
    """Return the zero point, shaped to compare with the weight."""
    if zero_point is None:
        return np.zeros((), np.float32)
    if zero_point.size > 1 and "Conv" in operator:  # one for each output channel, the first axis
        return zero_point.reshape(-1, *[1] * (weight.ndim - 1))
    return zero_point
