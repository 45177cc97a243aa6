"""From an FP32 graph to an INT8 one by onnxruntime's quantiser: U8S8, static (QDQ) or dynamic.

Activations have unsigned 8 bits and weights signed ones, symmetric, so that zeros stay zeros: what
onnxruntime advises for x86. Only layers with a weight are quantised: products of two activations,
as in attention, lose more and gain less.
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
from variants.compression.quiet import quiet

_PRODUCTS: Final = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class WeightFormat:
    """How weights are stored."""

    per_channel: bool
    """A scale for each output channel, or one for the whole weight. Embeddings: for each row."""
    reduce_range: bool
    """7 bits, for processors that add pairs of products in 16 bits. Embeddings have 8 always."""


def write_static(
    model: onnx.ModelProto,
    layers: Sequence[QuantizableLayer],
    weight_format: WeightFormat,
    ranges: Path,
    method: Method,
) -> bytes:
    """Return the graph with these layers in INT8; `calibrate` found the ranges by `method`.

    The model's own outputs stay FP32 up to the last layer's product: 256 different scores would
    be a needless loss. The outputs of a MatMul are left in FP32 too, and those of a Gemm that no
    Relu reads: nothing that follows them takes INT8. Convolutions have no kernel that gives FP32.
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
            extra_options={"OpTypesToExcludeOutputQuantization": _giving_floats(model)},
        )
        made = onnx.load(path)
    _keep_outputs(made, model)
    return _finish(made, layers)


def write_dynamic(
    model: onnx.ModelProto, layers: Sequence[QuantizableLayer], weight_format: WeightFormat
) -> bytes:
    """Return the graph with these layers in INT8; activations get their ranges as they come.

    Without convolutions: `layers` that are Conv stay as they are.
    """
    kept = _float_products(model, layers)
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "model.onnx"
        quantize_dynamic(
            _copy(model),
            path,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=sorted(kept | {f"{node}_MatMul" for node in kept}),  # a Gemm becomes
            weight_type=QuantType.QInt8,
            per_channel=weight_format.per_channel,
            reduce_range=weight_format.reduce_range,
        )
        made = onnx.load(path)
    return _finish(made, layers)


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy for the quantiser to change.

    Without the shapes of what lies inside, which its own turning of weights would make wrong
    (onnxruntime issue 25890).
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    return copy


def _float_products(model: onnx.ModelProto, layers: Collection[QuantizableLayer]) -> set[str]:
    chosen = {layer.node for layer in layers}
    return {n.name for n in model.graph.node if n.op_type in _PRODUCTS and n.name not in chosen}


def _giving_floats(model: onnx.ModelProto) -> list[str]:
    read_by_relu = {node.input[0] for node in model.graph.node if node.op_type == "Relu"}
    gemms = (node.output[0] for node in model.graph.node if node.op_type == "Gemm")
    return ["MatMul"] if read_by_relu.intersection(gemms) else ["MatMul", "Gemm"]


def _keep_outputs(made: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Take away the quantisation of outputs of the model that a product gives directly."""
    products = {n.output[0]: n.name for n in model.graph.node if n.op_type in _PRODUCTS}
    makers = {node.output[0]: node for node in made.graph.node}
    for name in [output.name for output in made.graph.output]:
        dequantize = makers[name]
        if name not in products or dequantize.op_type != "DequantizeLinear":
            continue
        quantize = makers[dequantize.input[0]]
        product = makers[quantize.input[0]]
        if product.name == products[name]:
            product.output[0] = name
            made.graph.node.remove(quantize)
            made.graph.node.remove(dequantize)


def _finish(made: onnx.ModelProto, layers: Sequence[QuantizableLayer]) -> bytes:
    made = quantize_embeddings(made, [layer for layer in layers if layer.operator == "Gather"])
    used = {name for node in made.graph.node for name in node.input}
    initializers = [tensor for tensor in made.graph.initializer if tensor.name in used]
    del made.graph.initializer[:], made.graph.value_info[:]
    made.graph.initializer.extend(initializers)
    onnx.checker.check_model(made)
    serialized: bytes = made.SerializeToString(deterministic=True)
    return serialized
