"""Gives each layer of a graph its own weight before quantization, and shares them again after it.

    one weight, several layers ─▶ a copy for each ─▶ quantized ─▶ equal weights merged

onnxruntime's quantizer assumes that a weight has one reader: it transposes the weight of each Gemm
in place, once for each reader, and rounds a bias by the scale of its first reader.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import onnx
from onnx import AttributeProto, TensorProto

WEIGHT_INPUT: Final[Mapping[str, int]] = {"Conv": 1, "Gemm": 1, "MatMul": 1, "Gather": 0}
"""Index of an operator's input that is its weight, if it is a constant."""

_BIAS_INPUT: Final[Mapping[str, int]] = {"Conv": 2, "Gemm": 2}
_COPY: Final = re.compile(r"@\d+$")
"""Ends the name of a copy."""


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph, and those of the bodies of its loops and branches."""
    for node in graph.node:
        yield node
        for body in _bodies(node):
            yield from all_nodes(body)


def read_names(graph: onnx.GraphProto) -> Counter[str]:
    """Return how often each name is read, in bodies and as an output too."""
    reads = Counter(name for node in all_nodes(graph) for name in node.input)
    reads.update(output.name for output in graph.output)
    for node in all_nodes(graph):
        for body in _bodies(node):
            reads.update(output.name for output in body.output)
    return reads


def rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Replace names where they are read, in bodies too. Outputs keep their names."""
    for node in all_nodes(graph):
        for number, name in enumerate(node.input):
            node.input[number] = names.get(name, name)
        for body in _bodies(node):
            for output in body.output:
                output.name = names.get(output.name, output.name)


def unshare(model: onnx.ModelProto, equal: Mapping[str, Sequence[str]]) -> onnx.ModelProto:
    """Return a copy of the model in which each layer reads a weight and a bias of its own.

    The weight of the first layer keeps its name, unless something that is no layer reads it too.
    `equal` has, by the name of a weight, those of the other parameters with its values, which the
    exporter stores once. The copies take these names first, and then names for `original`.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    tensors = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT}
    layers = [(node, number) for node in graph.node for number in _own_inputs(node, tensors)]
    reads = read_names(graph)
    of_layers = Counter(node.input[number] for node, number in layers)
    taken = {tensor.name for tensor in graph.initializer}
    free = {name for name, count in of_layers.items() if count == reads[name]}
    for node, number in layers:
        name = node.input[number]
        if name in free:
            free.remove(name)
            continue
        copy = onnx.TensorProto()
        copy.CopyFrom(tensors[name])
        copy.name = _free_name(name, equal.get(name, ()), taken)
        taken.add(copy.name)
        graph.initializer.append(copy)
        node.input[number] = copy.name
    return result


def merge_equal(model: onnx.ModelProto) -> None:
    """Keep one of equal tensors of two and more dimensions, in place."""
    kept: dict[bytes, onnx.TensorProto] = {}
    names = {}
    for tensor in model.graph.initializer:
        if len(tensor.dims) < 2:
            continue
        unnamed = onnx.TensorProto()
        unnamed.CopyFrom(tensor)
        unnamed.ClearField("name")
        first = kept.setdefault(unnamed.SerializeToString(deterministic=True), tensor)
        if first is not tensor:
            names[tensor.name] = first.name
    rename(model.graph, names)
    remaining = [tensor for tensor in model.graph.initializer if tensor.name not in names]
    del model.graph.initializer[:]
    model.graph.initializer.extend(remaining)


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Order nodes, in place, so that each follows those whose outputs it or its bodies read.

    onnxruntime's quantizer orders nodes without regard to bodies.
    """
    waiting = [(node, _reads(node)) for node in graph.node]
    missing = {name for node in graph.node for name in node.output}
    ordered = []
    while waiting:
        later = []
        for node, reads in waiting:
            if reads & missing:
                later.append((node, reads))
            else:
                missing.difference_update(node.output)
                ordered.append(onnx.NodeProto.FromString(node.SerializeToString()))
        if len(later) == len(waiting):
            raise ValueError("the nodes of the graph form a cycle")
        waiting = later
    del graph.node[:]
    graph.node.extend(ordered)


def original(name: str) -> str:
    """Return the name of the weight that a copy was made of."""
    return _COPY.sub("", name)


def _own_inputs(node: onnx.NodeProto, tensors: Mapping[str, TensorProto]) -> list[int]:
    """Return the numbers of the inputs of a node that are the weight and the bias of a layer."""
    weight, bias = WEIGHT_INPUT.get(node.op_type, -1), _BIAS_INPUT.get(node.op_type, -1)
    if weight < 0 or node.input[weight] not in tensors or len(tensors[node.input[weight]].dims) < 2:
        return []
    has_bias = 0 <= bias < len(node.input) and node.input[bias] in tensors
    return [weight, bias] if has_bias else [weight]


def _free_name(name: str, equal: Sequence[str], taken: set[str]) -> str:
    numbered = (f"{name}@{number}" for number in itertools.count(2))
    return next(each for each in itertools.chain(equal, numbered) if each not in taken)


def _reads(node: onnx.NodeProto) -> set[str]:
    """Return the names that a node and its bodies read."""
    names = set(node.input)
    for body in _bodies(node):
        names.update(read_names(body))
    return names


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs
