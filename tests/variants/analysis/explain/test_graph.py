"""The layers of an ONNX graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from variants.analysis.explain.graph import Graph


@pytest.mark.parametrize(
    ("kind", "attributes", "stored", "shape"),
    [
        ("MatMul", {}, (64, 96), (96, 64)),
        ("Gemm", {}, (64, 96), (96, 64)),
        ("Gemm", {"transB": 1}, (96, 64), (96, 64)),
        ("MatMul", {}, (64,), (1, 64)),
        ("ConvTranspose", {}, (8, 16, 3, 3), (16, 8, 3, 3)),
        ("FusedConv", {}, (16, 8, 3, 3), (16, 8, 3, 3)),
        ("QLinearConv", {}, (16, 8, 3, 3), (16, 8, 3, 3)),
    ],
)
def test_shapes_have_the_outputs_first(
    kind: str, attributes: dict[str, Any], stored: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    values = np.ones(stored, np.float32)
    values[-1:] = 0
    inputs = ["x", "s", "z", "a.weight"] if kind == "QLinearConv" else ["x", "a.weight"]
    node = helper.make_node(kind, inputs, ["y"], name="n", **attributes)
    tensor = numpy_helper.from_array(values, "a.weight")
    graph = helper.make_graph([node], "g", [], [], [tensor])
    layer = Graph(helper.make_model(graph).SerializeToString()).layers["a"]
    assert (layer.shape, layer.padding) == (shape, 0 if len(stored) == 1 else 1)
    assert layer.zeros == pytest.approx(1 / stored[0])
