"""The layers of an ONNX graph: which node computes which layer, and how its weight is stored.

    stored graph ─▶ layers: name, shape, stored type, zeros
    optimized graph, as onnxruntime runs it ─▶ the layer of each node

Layers are identified by the names of their initializers, which the exporter keeps. A matrix that
the exporter transposed has lost its name; it is identified by the bias that is added next, or else
by the name of its node.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from variants.compression.quantization.shared_weights import find_codebooks

PRODUCTS: Final = frozenset(
    {"Conv", "ConvTranspose", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul"}
)
INTEGER_PRODUCTS: Final = frozenset(
    {
        "ConvInteger", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm",
        "QLinearConv", "QLinearMatMul",
    }
)  # fmt: skip
_NAME: Final = re.compile(r"^(?P<layer>.+)\.(?:weight|bias)(?:[._].+)?$")
_MIN_SIZE: Final = 64
"""Number of values of the smallest matrix that counts as one with weights."""
_NCHWC: Final = "_nchwc"


@dataclass(frozen=True)
class StoredWeight:
    """How an artifact stores the weight of a layer."""

    shape: tuple[int, ...]
    """Output features or channels first."""
    form: str
    """`float32`, `float16`, `int8`, `codes`, `2:4` and so on."""
    zeros: float
    """Share of the weights that are zero."""
    padding: int
    """Rows and columns of zeros at the end of the matrix."""

    @property
    def size(self) -> int:
        """Number of weights, including zeros."""
        return int(np.prod(self.shape))


class Graph:
    """The layers of a serialized ONNX model."""

    def __init__(self, model: bytes) -> None:
        graph = onnx.load_model_from_string(model).graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._codes = {
            name for weight in find_codebooks(graph).values() for name in weight.initializers
        }
        self._sources: dict[str, tuple[str, ...]] = {name: (name,) for name in self._tensors}
        self._producers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:  # in order of computation
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
            sources = [self._sources.get(name) for name in node.input if name]
            if sources and all(source is not None for source in sources):
                merged = tuple(name for source in sources if source for name in source)
                self._sources.update(dict.fromkeys(node.output, merged))
        self._layers = dict(self._find(graph))

    @property
    def layers(self) -> dict[str, StoredWeight]:
        """The layers that multiply by a stored weight, in the order of computation."""
        return dict(self._layers.values())

    @property
    def others(self) -> tuple[str, ...]:
        """The matrices that are in none of the layers: operator, shape, and name if it has one."""
        products = set(self._layers)
        return tuple(
            f"{reader.op_type} {list(tensor.dims)}" + (f" ({name})" if "." in name else "")
            for name, tensor in self._tensors.items()
            if len(tensor.dims) > 1 and tensor.data_type == onnx.TensorProto.FLOAT
            for reader in self._readers.get(name, [])[:1]
            if reader.name not in products and np.prod(tensor.dims) >= _MIN_SIZE
        )

    def layer_of(self, node: onnx.NodeProto) -> str | None:
        """Return the layer that a node of the optimized graph belongs to, or None."""
        for name in node.input:
            for source in self._sources.get(name, (name,)):
                if match := _NAME.match(source):
                    return match["layer"]
        if node.op_type not in PRODUCTS | INTEGER_PRODUCTS:
            return None
        tensor = node.output[0]
        if node.name.endswith(_NCHWC):  # its tensors are renamed; the node is named after the last
            tensor = node.name.removesuffix(_NCHWC)
        while tensor in self._producers:
            producer = self._producers[tensor]
            if producer.name in self._layers:
                return self._layers[producer.name][0]
            if producer.op_type in PRODUCTS or not producer.input:
                return None  # a product of two computed tensors, such as attention scores
            tensor = producer.input[0]
        return None

    def _find(self, graph: onnx.GraphProto) -> Iterator[tuple[str, tuple[str, StoredWeight]]]:
        for node in graph.node:
            if node.op_type not in PRODUCTS | INTEGER_PRODUCTS or len(node.input) < 2:
                continue
            place = 3 if node.op_type.startswith("QL") or node.op_type == "QGemm" else 1
            sources = self._sources.get(node.input[place])
            if sources:
                yield node.name, (self._name(node, sources), self._stored(node, sources))

    def _name(self, node: onnx.NodeProto, sources: tuple[str, ...]) -> str:
        biases = [
            source
            for reader in self._readers.get(node.output[0], [])
            if reader.op_type == "Add"
            for name in reader.input
            for source in self._sources.get(name, ())
        ]
        for name in (*sources, *biases):
            if match := _NAME.match(name):
                return match["layer"]
        return node.name

    def _stored(self, node: onnx.NodeProto, sources: tuple[str, ...]) -> StoredWeight:
        name = max(sources, key=lambda source: np.prod(self._tensors[source].dims))
        values = numpy_helper.to_array(self._tensors[name])
        if name in self._codes:
            return StoredWeight(values.shape, "codes", 0.0, 0)
        is_zero = _out_first(node, values == self._zero_point(name, values))
        shape = is_zero.shape if is_zero.ndim > 1 else (1, is_zero.size)
        return StoredWeight(shape, str(values.dtype), float(is_zero.mean()), count_padding(is_zero))

    def _zero_point(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        for reader in self._readers.get(name, []):
            if reader.op_type == "DequantizeLinear" and len(reader.input) > 2:
                point = numpy_helper.to_array(self._tensors[reader.input[2]])
                axis = next((a.i for a in reader.attribute if a.name == "axis"), 1)
                if point.size == 1:
                    return point.reshape(())
                shape = [1] * values.ndim
                shape[axis] = -1
                return point.reshape(shape)
        return np.zeros((), values.dtype)


def count_padding(is_zero: NDArray[np.bool_]) -> int:
    """Count the rows and the columns at the end of `[out, in, ...]` that are True throughout.

    Returns 0 for a vector.
    """
    if is_zero.ndim < 2:
        return 0
    matrix = np.all(is_zero.reshape(*is_zero.shape[:2], -1), axis=2)
    if matrix.all():
        return 0
    return sum(int(np.argmin(np.all(matrix, axis=axis)[::-1])) for axis in (0, 1))


def _out_first(node: onnx.NodeProto, values: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if values.ndim < 2 or _transposes(node):
        return values
    if node.op_type == "ConvTranspose":
        return values.swapaxes(0, 1)
    return values if "Conv" in node.op_type else values.T


def _transposes(node: onnx.NodeProto) -> bool:
    return any(attribute.name == "transB" and attribute.i for attribute in node.attribute)


def optimized_layers(stored: Graph, optimized: bytes) -> Mapping[str, str | None]:
    """Return the layer of each node that onnxruntime runs, by the node's name."""
    nodes = onnx.load_model_from_string(optimized).graph.node
    return {node.name: stored.layer_of(node) for node in nodes}
