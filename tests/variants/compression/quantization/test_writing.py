from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.small import quiet
from variants.compression.quantization.calibration import calibrate
from variants.compression.quantization.layer import find_layers
from variants.compression.quantization.writing import WeightFormat, write_dynamic, write_static
from variants.runtime.onnx import OnnxRunner

CHANNELS = 16
OPERATORS = {"Gemm": (CHANNELS, 8), "MatMul": (CHANNELS, 8), "Conv": (8, CHANNELS, 3, 3)}
"""Shape of the weight, by operator."""
SAMPLES = {
    "Gemm": np.full((4, CHANNELS), 5, np.float32),
    "MatMul": np.full((4, 3, CHANNELS), 5, np.float32),
    "Conv": np.full((4, CHANNELS, 6, 6), 5, np.float32),
}
"""Inputs that quantize to 255. With weights that quantize to 127 their products saturate."""


def model(operator: str) -> onnx.ModelProto:
    shape = OPERATORS[operator]
    signs = np.where(np.random.default_rng(0).random(shape) < 0.9, 1, -1)
    samples = SAMPLES[operator]
    graph = helper.make_graph(
        [
            helper.make_node(operator, ["x", "layer.weight"], ["product"], name="product"),
            helper.make_node("Relu", ["product"], ["y"], name="relu"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *samples.shape[1:]])],
        [
            helper.make_tensor_value_info(
                "y", TensorProto.FLOAT, ["n"] + [None] * (samples.ndim - 1)
            )
        ],
        [numpy_helper.from_array((0.5 * signs).astype(np.float32), "layer.weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("reduce_range", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize(
    ("operator", "mode"),
    [
        ("Gemm", "static"),
        ("MatMul", "static"),
        ("Conv", "static"),
        ("Gemm", "dynamic"),
        ("MatMul", "dynamic"),
    ],
)
def test_the_runner_computes_what_onnx_defines(
    operator: str, mode: str, per_channel: bool, reduce_range: bool, tmp_path: Path
) -> None:
    exported, samples = model(operator), {"x": SAMPLES[operator]}
    layers, _ = find_layers(exported)
    weight_format = WeightFormat(per_channel, reduce_range)
    if mode == "static":
        ranges = calibrate(exported, samples, "minmax", tmp_path, quiet())
        graph = write_static(exported, layers, weight_format, ranges, "minmax")
    else:
        graph = write_dynamic(exported, layers, weight_format)
    reference = ReferenceEvaluator(onnx.load_model_from_string(graph))
    (expected,) = map(np.asarray, reference.run(None, samples))
    assert np.abs(expected).max() > 20
    np.testing.assert_allclose(OnnxRunner(graph, threads=1)(samples)["y"], expected, rtol=0.01)
