"""Weights that several layers read: copied before quantization, merged after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.small import quiet
from variants.compression.quantization.calibration import calibrate
from variants.compression.quantization.layer import find_layers
from variants.compression.quantization.sharing import merge_equal, original, read_names, unshare
from variants.compression.quantization.writing import WeightFormat, write_dynamic, write_static
from variants.runtime.onnx import OnnxRunner

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((16, 16)).astype(np.float32)
BIAS = RNG.standard_normal(16).astype(np.float32)
INPUTS = {"x": RNG.standard_normal((64, 16)).astype(np.float32)}
FORMAT = WeightFormat(per_channel=True, reduce_range=False)


def _model(nodes: list[onnx.NodeProto], **tensors: NDArray[np.generic]) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", 16])],
        [value("y", TensorProto.FLOAT, ["n", 16])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _gemm(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Gemm", [source, "w", "b"], [target], name=f"to {target}", transB=1)


def twice() -> onnx.ModelProto:
    """Return a network that calls one layer twice, with inputs of different ranges."""
    nodes = [_gemm("x", "h"), helper.make_node("Relu", ["h"], ["r"], name="relu"), _gemm("r", "y")]
    return _model(nodes, w=WEIGHT, b=BIAS)


def branching() -> onnx.ModelProto:
    """Return a network whose branches read a weight that no other node, or a layer, reads."""
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("MatMul", ["h", weight], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16])],
        )
        for name, weight in (("then", "w"), ("else", "only"))
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="layer"),
        helper.make_node("ReduceSum", ["x"], ["sum"], name="sum", keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["is positive"], name="greater"),
        helper.make_node("If", ["is positive"], ["y"], name="if", **branches),
    ]
    zero = np.array(0, np.float32)
    return _model(nodes, w=WEIGHT, only=WEIGHT[::-1].copy(), zero=zero)


def _quantized(model: onnx.ModelProto, mode: str, folder: Path) -> bytes:
    own = unshare(model, {})
    layers, notes = find_layers(own)
    assert notes == ()
    if mode == "dynamic":
        return write_dynamic(own, layers, FORMAT)
    ranges = calibrate(own, INPUTS, "minmax", folder, quiet())
    return write_static(own, layers, FORMAT, ranges, "minmax")


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("make", [twice, branching])
def test_quantized_graphs_compute_what_their_graphs_do(
    make: Callable[[], onnx.ModelProto], mode: str, tmp_path: Path
) -> None:
    model = make()
    expected = OnnxRunner(model.SerializeToString(), threads=1)(INPUTS)["y"]
    actual = OnnxRunner(_quantized(model, mode, tmp_path), threads=1)(INPUTS)["y"]
    assert 0 < np.abs(actual - expected).mean() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_shared_weight_is_stored_once(mode: str, tmp_path: Path) -> None:
    graph = onnx.load_model_from_string(_quantized(twice(), mode, tmp_path)).graph
    matrices = [tensor for tensor in graph.initializer if len(tensor.dims) == 2]
    assert [(tensor.name, tensor.data_type) for tensor in matrices] == [
        ("w_quantized", TensorProto.INT8)
    ]
    products = [node for node in graph.node if node.op_type in ("Gemm", "MatMulInteger")]
    assert len(products) == 2


def test_each_layer_gets_its_own_weight_and_bias() -> None:
    graph = unshare(twice(), {}).graph
    inputs = [tuple(node.input[1:]) for node in graph.node if node.op_type == "Gemm"]
    assert inputs == [("w", "b"), ("w@2", "b@2")]
    assert (original("w@2"), original("w")) == ("w", "w")
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert np.array_equal(tensors["w@2"], WEIGHT)


def test_copies_take_the_names_of_equal_parameters_first() -> None:
    nodes = [_gemm("x", "h"), _gemm("h", "i"), _gemm("i", "y")]
    graph = unshare(_model(nodes, w=WEIGHT, b=BIAS), {"w": ["v"]}).graph
    assert [node.input[1] for node in graph.node] == ["w", "v", "w@2"]


def test_a_weight_that_a_branch_reads_keeps_its_name_for_it() -> None:
    graph = unshare(branching(), {}).graph
    assert graph.node[0].input[1] == "w@2"
    assert read_names(graph)["w"] == 1


def test_equal_matrices_are_merged_and_vectors_are_not() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["h"]),
        helper.make_node("MatMul", ["h", "second"], ["i"]),
        helper.make_node("MatMul", ["i", "other"], ["j"]),
        helper.make_node("Add", ["j", "b"], ["k"]),
        helper.make_node("Add", ["k", "c"], ["y"]),
    ]
    model = _model(nodes, first=WEIGHT, second=WEIGHT, other=WEIGHT.T.copy(), b=BIAS, c=BIAS)
    merge_equal(model)
    assert [tensor.name for tensor in model.graph.initializer] == ["first", "other", "b", "c"]
    assert [node.input[1] for node in model.graph.node] == ["first", "first", "other", "b", "c"]
