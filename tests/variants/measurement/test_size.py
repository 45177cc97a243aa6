from __future__ import annotations

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from variants.measurement.size import Size, onnx_size, torch_size
from variants.runtime import plan
from variants.runtime.linear24 import mask24


def model(nodes: list[onnx.NodeProto], **tensors: np.ndarray) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(values, name) for name, values in tensors.items()],
    )
    return bytes(helper.make_model(graph).SerializeToString())


def test_weights_and_biases_are_parameters_but_shapes_are_not() -> None:
    counted = onnx_size(
        model(
            [helper.make_node("Gemm", ["x", "w", "b"], ["y"])],
            w=np.array([[1, 0], [2, 3], [0, 0]], dtype=np.float32),
            b=np.array([0, 1], dtype=np.float32),
            shape=np.array([-1, 2], dtype=np.int64),
        )
    )
    assert counted == Size(parameters=8, nonzeros=4, weight_bytes=8 * 4 + 2 * 8)


@pytest.mark.parametrize(
    ("zero_point", "axis", "nonzeros"),
    [
        pytest.param(np.array(128, np.uint8), 1, 4, id="one zero point"),
        pytest.param(np.array([128, 0], np.uint8), 1, 2, id="one per column"),
        pytest.param(np.array([128, 0, 7], np.uint8), 0, 3, id="one per row"),
    ],
)
def test_a_quantized_value_is_zero_where_it_equals_its_zero_point(
    zero_point: np.ndarray, axis: int, nonzeros: int
) -> None:
    scale = np.full(zero_point.shape, 0.5, dtype=np.float32)
    counted = onnx_size(
        model(
            [
                helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=axis),
                helper.make_node("MatMul", ["x", "d"], ["y"]),
            ],
            w=np.array([[128, 0], [128, 0], [7, 9]], dtype=np.uint8),
            s=scale,
            z=zero_point,
        )
    )
    assert counted.parameters == 6
    assert counted.nonzeros == nonzeros
    assert counted.weight_bytes == 6 + scale.nbytes + zero_point.nbytes


@pytest.mark.parametrize(
    ("kind", "kept", "weight_bytes"),
    [
        ("linear-2:4", 48, 4 * 48 + 48 // 4),
        ("linear-2:4-int8", 48, 48 + 48 // 4 + 4 * 6),
        ("linear-sparse", 24, (4 + 2) * 24 + 4 * (6 + 1)),
    ],
)
def test_omitted_weights_of_a_packed_layer_are_parameters(
    kind: str, kept: int, weight_bytes: int
) -> None:
    torch.manual_seed(0)
    first = nn.Linear(16, 6)
    with torch.no_grad():
        first.weight.mul_(mask24(first.weight))
        if kind == "linear-sparse":
            first.weight[:] = torch.eye(6, 16)
            first.weight[:, 12:15] = 1
    network = nn.Sequential(first, nn.ReLU(), nn.Linear(6, 3))
    quantized = {"0"} if kind == "linear-2:4-int8" else {}
    layers, tensors = plan.make_plan(network, {"0"}, quantized=quantized)
    assert layers.layers["0"].kind == kind
    counted = torch_size(layers, safetensors.torch.save(tensors))
    others = 6 + 6 * 3 + 3
    assert counted.parameters == 16 * 6 + others
    assert counted.nonzeros == kept + others
    assert counted.weight_bytes == weight_bytes + 4 * others
