"""Writes INT8 graphs from FP32 graphs with onnxruntime's quantizer, static (QDQ) or dynamic.

Activations have unsigned 8 bits. Weights have signed 8 bits and are symmetric, so that zeros stay
zero. This is U8S8, which onnxruntime recommends for x86. Only layers with a weight are quantized:
a product of two activations, as in attention, would lose more accuracy and gain less time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

from variants.compression.quantization.calibration import METHODS, OPERATORS, Method
from variants.compression.quantization.embedding import quantize_embeddings
from variants.compression.quantization.layer import QuantizableLayer
from variants.compression.quantization.sharing import (
    merge_equal,
    read_names,
    sort_nodes,
)
from variants.compression.quiet import quiet

_PRODUCTS: Final = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class WeightFormat:
    """How weights are stored in INT8."""

    per_channel: bool
    """Whether each output channel has its own scale. Embeddings have a scale for each row."""
    reduce_range: bool
    """Whether weights have 7 bits, for processors whose products saturate. Embeddings have 8."""


def write_static(
    model: onnx.ModelProto,
    layers: Sequence[QuantizableLayer],
    weight_format: WeightFormat,
    ranges: Path,
    method: Method,
) -> bytes:
    """Return the model with these layers in INT8; `ranges` is from `calibrate` with `method`.

    The model's outputs stay in FP32, because rounding scores to 256 values costs accuracy and
    saves little time.
    The output of a MatMul stays in FP32 too, and so does that of a Gemm if no Gemm is followed by a
    Relu, because the next operators take FP32. Convolutions have no kernel with FP32 output.
    """
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "model.onnx"
        quantize_static(
            _copy(model),
            path,
            calibration_cache_path=ranges,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            nodes_to_exclude=sorted(_float_products(model, layers)),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=weight_format.per_channel,
            reduce_range=weight_format.reduce_range,
            calibrate_method=METHODS[method][0],
            extra_options={"OpTypesToExcludeOutputQuantization": _float_output_operators(model)},
        )
        quantized = onnx.load(path)
    _unquantize_outputs(quantized, model)
    return _finish(quantized, layers)


def write_dynamic(
    model: onnx.ModelProto, layers: Sequence[QuantizableLayer], weight_format: WeightFormat
) -> bytes:
    """Return the model with these layers in INT8, which computes activation ranges in each run.

    Convolutions in `layers` are not quantized.
    """
    kept = _float_products(model, layers)  # the quantizer renames a Gemm to `{node}_MatMul`
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "model.onnx"
        quantize_dynamic(
            _copy(model),
            path,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=sorted(kept | {f"{node}_MatMul" for node in kept}),
            weight_type=QuantType.QInt8,
            per_channel=weight_format.per_channel,
            reduce_range=weight_format.reduce_range,
        )
        quantized = onnx.load(path)
    return _finish(quantized, layers)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of the model, which the quantizer may change, without intermediate shapes.

    The quantizer transposes weights, which would make those shapes wrong (onnxruntime issue 25890).
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    return copy


def _float_products(model: onnx.ModelProto, layers: Collection[QuantizableLayer]) -> set[str]:
    chosen = {layer.node for layer in layers}
    return {n.name for n in model.graph.node if n.op_type in _PRODUCTS and n.name not in chosen}


def _float_output_operators(model: onnx.ModelProto) -> list[str]:
    read_by_relu = {node.input[0] for node in model.graph.node if node.op_type == "Relu"}
    gemms = (node.output[0] for node in model.graph.node if node.op_type == "Gemm")
    return ["MatMul"] if read_by_relu.intersection(gemms) else ["MatMul", "Gemm"]


def _unquantize_outputs(quantized: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Remove the quantization of model outputs that a product computes directly."""
    products = {n.output[0]: n.name for n in model.graph.node if n.op_type in _PRODUCTS}
    producers = {node.output[0]: node for node in quantized.graph.node}
    for name in [output.name for output in quantized.graph.output]:
        dequantize = producers[name]
        if name not in products or dequantize.op_type != "DequantizeLinear":
            continue
        quantize = producers[dequantize.input[0]]
        product = producers[quantize.input[0]]
        if product.name == products[name]:
            product.output[0] = name
            quantized.graph.node.remove(quantize)
            quantized.graph.node.remove(dequantize)


def _finish(quantized: onnx.ModelProto, layers: Sequence[QuantizableLayer]) -> bytes:
    quantized = quantize_embeddings(
        quantized, [layer for layer in layers if layer.operator == "Gather"]
    )
    merge_equal(quantized)
    used = read_names(quantized.graph)
    initializers = [tensor for tensor in quantized.graph.initializer if tensor.name in used]
    del quantized.graph.initializer[:], quantized.graph.value_info[:]
    quantized.graph.initializer.extend(initializers)
    sort_nodes(quantized.graph)
    onnx.checker.check_model(quantized)
    serialized: bytes = quantized.SerializeToString(deterministic=True)
    return serialized
