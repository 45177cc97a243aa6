"""INT8 embeddings: a table of signed 8-bit codes with a scale for each row.

    ids ─▶ Gather (INT8 rows) ─▶ Cast ─▶ Mul ◀─ Gather (their scales) ◀─ ids

Only the rows that are looked up are converted to FP32. A DequantizeLinear before the Gather would
convert the whole table.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from variants.compression.quantization.layer import QUANTIZED_SUFFIX, QuantizableLayer

MAX_CODE = 127
"""Largest code of a row; codes are symmetric."""

_SCALES_SUFFIX = "_scale"


def quantize_embeddings(
    model: onnx.ModelProto, layers: Collection[QuantizableLayer]
) -> onnx.ModelProto:
    """Return a copy of the model in which the tables of these Gather layers are INT8."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    tables = {layer.weight for layer in layers}
    nodes = {layer.node for layer in layers}
    kept = [tensor for tensor in result.graph.initializer if tensor.name not in tables]
    added = [
        encoded
        for tensor in result.graph.initializer
        if tensor.name in tables
        for encoded in _encode(tensor)
    ]
    rewritten = [
        replacement
        for node in result.graph.node
        for replacement in (_lookup(node) if node.name in nodes else [node])
    ]
    del result.graph.initializer[:], result.graph.node[:]
    result.graph.initializer.extend([*kept, *added])
    result.graph.node.extend(rewritten)
    return result


def _encode(tensor: onnx.TensorProto) -> tuple[onnx.TensorProto, onnx.TensorProto]:
    table = numpy_helper.to_array(tensor)
    scales = np.abs(table).max(axis=1, keepdims=True) / np.float32(MAX_CODE)
    codes = np.rint(table / np.where(scales == 0, np.float32(1), scales)).astype(np.int8)
    return (
        numpy_helper.from_array(codes, tensor.name + QUANTIZED_SUFFIX),
        numpy_helper.from_array(scales, tensor.name + _SCALES_SUFFIX),
    )


def _lookup(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    table, places = node.input
    output, name = node.output[0], node.name
    # The quantizer of a layer that reads the output uses {output}_quantized and {output}_scale.
    rows, scales, floats = f"{output}.codes", f"{output}.scales", f"{output}.floats"
    return [
        helper.make_node("Gather", [table + QUANTIZED_SUFFIX, places], [rows], name=f"{name}_rows"),
        helper.make_node(
            "Gather", [table + _SCALES_SUFFIX, places], [scales], name=f"{name}_scales"
        ),
        helper.make_node("Cast", [rows], [floats], name=f"{name}_cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", [floats, scales], [output], name=f"{name}_scaled"),
    ]
