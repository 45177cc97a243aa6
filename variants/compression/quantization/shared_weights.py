"""Weights stored as codebooks inside an ONNX graph, and decoded when it is loaded.

    codes (UINT8) ─▶ Gather from the values ─▶ weight
    two codes per byte ─▶ low and high halves, concatenated ─▶ Reshape ─▶ codes

onnxruntime computes these nodes once, when it loads the graph, because they depend on no input. The
graph that it executes is dense.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from variants.compression.quantization.codebook import Codebook

MAX_HALF_BYTE_VALUES: Final = 16
"""Maximum number of values of a codebook whose codes take half a byte."""

_CODES, _VALUES, _SHAPE = ".codes", ".values", ".shape"
_BITWISE_OPSET: Final = 18
"""First ONNX opset with BitwiseAnd."""


@dataclass(frozen=True)
class EncodedWeight:
    """A weight that a graph stores as codes, and the names of its initializers."""

    codebook: Codebook
    initializers: tuple[str, str]


def store_codebooks(model: onnx.ModelProto, codebooks: Mapping[str, Codebook]) -> onnx.ModelProto:
    """Return a copy of the model that stores the initializers named in `codebooks` as codes.

    An initializer that codes would not make smaller is not changed; `find_codebooks` returns the
    changed ones. Raises `ValueError` if the model's opset is below 18, which has no operator to
    split a byte.
    """
    opset = next(used.version for used in model.opset_import if used.domain in ("", "ai.onnx"))
    if opset < _BITWISE_OPSET:
        raise ValueError(f"codes need an ONNX opset of {_BITWISE_OPSET} or more, this is {opset}")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.initializer[:], result.graph.node[:]
    for tensor in model.graph.initializer:
        if tensor.name in codebooks:
            tensors, nodes = _encode(tensor.name, codebooks[tensor.name])
            size = sum(item.ByteSize() for item in tensors) + sum(item.ByteSize() for item in nodes)
            if size < tensor.ByteSize():
                result.graph.initializer.extend(tensors)
                result.graph.node.extend(nodes)
                continue
        result.graph.initializer.append(tensor)
    result.graph.node.extend(model.graph.node)
    return result


def find_codebooks(graph: onnx.GraphProto) -> dict[str, EncodedWeight]:
    """Return the weights that the graph stores as codes, by name."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    constants = {n.output[0]: n.attribute[0].t for n in graph.node if n.op_type == "Constant"}
    encoded = {}
    for node in graph.node:
        if node.op_type != "Gather" or node.input[0] != node.output[0] + _VALUES:
            continue
        name = node.output[0]
        codes = numpy_helper.to_array(tensors[name + _CODES])
        if name + _SHAPE in constants:
            codes = _unpack(codes, numpy_helper.to_array(constants[name + _SHAPE]))
        codebook = Codebook(codes, numpy_helper.to_array(tensors[name + _VALUES]))
        encoded[name] = EncodedWeight(codebook, (name + _CODES, name + _VALUES))
    return encoded


def _encode(name: str, codebook: Codebook) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    """Return the initializers of `codebook`, and the nodes that decode them to `name`."""
    codes: NDArray[np.uint8] = codebook.codes
    nodes: list[onnx.NodeProto] = []
    codes_name = name + _CODES
    if len(codebook.values) <= MAX_HALF_BYTE_VALUES:
        codes, (nodes, codes_name) = _pack(codebook.codes), _unpacking(name, codebook.codes.shape)
    nodes += [  # Gather accepts no indices of type UINT8
        helper.make_node("Cast", [codes_name], [f"{name}.indices"], to=TensorProto.INT32),
        helper.make_node("Gather", [name + _VALUES, f"{name}.indices"], [name]),
    ]
    tensors = [
        numpy_helper.from_array(codes, name + _CODES),
        numpy_helper.from_array(codebook.values, name + _VALUES),
    ]
    return tensors, nodes


def _pack(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return bytes with the first half of the codes in the low bits, the second in the high."""
    flat = np.append(codes, np.zeros(codes.size % 2, np.uint8))
    low, high = flat.reshape(2, -1)
    return np.asarray(low | high << 4, np.uint8)


def _unpack(packed: NDArray[np.uint8], shape: NDArray[np.int64]) -> NDArray[np.uint8]:
    both = np.concatenate([packed & MAX_HALF_BYTE_VALUES - 1, packed >> 4])
    return both[: int(shape.prod())].reshape(shape)


def _unpacking(name: str, shape: tuple[int, ...]) -> tuple[list[onnx.NodeProto], str]:
    """Return nodes that compute `_unpack`, and the name of their output."""
    size = int(np.prod(shape))
    pair, codes_name = f"{name}.both", f"{name}.whole"
    nodes = [
        _constant(f"{name}.half", np.array(MAX_HALF_BYTE_VALUES - 1, np.uint8)),
        _constant(f"{name}.bits", np.array(4, np.uint8)),
        helper.make_node("BitwiseAnd", [name + _CODES, f"{name}.half"], [f"{name}.low"]),
        helper.make_node(
            "BitShift", [name + _CODES, f"{name}.bits"], [f"{name}.high"], direction="RIGHT"
        ),
        helper.make_node("Concat", [f"{name}.low", f"{name}.high"], [pair], axis=0),
    ]
    if size % 2:
        padded, pair = pair, f"{name}.all"
        nodes += [
            _constant(f"{name}.from", np.array([0], np.int64)),
            _constant(f"{name}.to", np.array([size], np.int64)),
            helper.make_node("Slice", [padded, f"{name}.from", f"{name}.to"], [pair]),
        ]
    nodes += [
        _constant(name + _SHAPE, np.array(shape, np.int64)),
        helper.make_node("Reshape", [pair, name + _SHAPE], [codes_name]),
    ]
    return nodes, codes_name


def _constant(name: str, value: NDArray[Any]) -> onnx.NodeProto:
    """Return a Constant node. An initializer would be counted as a weight."""
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
