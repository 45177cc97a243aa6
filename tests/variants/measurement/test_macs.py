from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from variants.catalog.catalog import Macs
from variants.compression.export import export
from variants.measurement.macs import count_macs
from variants.model.dataset import Samples, rows
from variants.model.loading import describe_interface

FLOAT = TensorProto.FLOAT


def exported(network: nn.Module, samples: Samples) -> bytes:
    model = export(network.eval(), samples, describe_interface(network, samples, {}))
    serialized: bytes = model.SerializeToString()
    return serialized


def of_graph(
    nodes: Sequence[onnx.NodeProto], weights: dict[str, NDArray[Any]], *shape: int | str
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


class Attention(nn.Module):
    """Self-attention with two heads over tokens `[n, tokens, 8]`, then the mean over the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        mixed: Tensor = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return mixed.mean(dim=1)


def test_the_macs_of_linear_layers_are_the_numbers_of_their_weights() -> None:
    network = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))
    with torch.no_grad():
        network[0].weight[:15] = 0  # type: ignore[operator]
    samples = {"input": normal(4, 20)}
    macs = count_macs(exported(network, samples), rows(samples, slice(0, 1)))
    assert macs == Macs(dense=20 * 30 + 30 * 5, effective=20 * 15 + 30 * 5)


def test_a_convolution_applies_its_weights_at_every_output_position() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, groups=4),
        nn.Flatten(),
        nn.Linear(8 * 16, 2),
    )
    samples = {"input": normal(2, 3, 8, 8)}
    macs = count_macs(exported(network, samples), rows(samples, slice(0, 1)))
    assert macs == Macs(dense=16 * 8 * 27 + 16 * 8 * 18 + 256, effective=16 * 8 * 45 + 256)


def test_products_of_activations_in_attention_are_counted() -> None:
    samples = {"tokens": normal(2, 6, 8)}
    macs = count_macs(exported(Attention(), samples), rows(samples, slice(0, 1)))
    projections, products = 6 * 8 * 8 * 4, 2 * (6 * 6 * 4) * 2
    assert macs == Macs(dense=projections + products, effective=projections + products)


def test_constant_operands_in_any_storage_format_are_weights() -> None:
    codes = np.array([[0, 1, 2, 0], [3, 0, 0, 1], [1, 1, 0, 0]], dtype=np.int64)
    weights: dict[str, NDArray[Any]] = {"codebook": normal(4), "codes": codes}
    weights["codebook"][0] = 0
    nodes = [
        helper.make_node("Gather", ["codebook", "codes"], ["table"]),
        helper.make_node("Transpose", ["table"], ["weight"]),
        helper.make_node("MatMul", ["x", "weight"], ["y"]),
    ]
    sample = {"x": normal(1, 4)}
    macs = count_macs(of_graph(nodes, weights, "n", 4), sample)
    assert macs == Macs(dense=12, effective=6)


def test_a_quantized_weight_is_zero_where_it_equals_its_zero_point() -> None:
    weights = {
        "weight": np.array([[3, 3], [5, 7], [3, 9]], dtype=np.uint8),
        "zero": np.array([3, 9], dtype=np.uint8),
    }
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "scale", "x_zero"]),
        helper.make_node("MatMulInteger", ["q", "weight", "x_zero", "zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["y"], to=FLOAT),
    ]
    macs = count_macs(of_graph(nodes, weights, "n", 3), {"x": normal(1, 3)})
    assert macs == Macs(dense=6, effective=3)


def test_a_transposed_convolution_applies_its_weights_at_every_input_position() -> None:
    nodes = [helper.make_node("ConvTranspose", ["x", "weight"], ["y"], strides=[2, 2])]
    macs = count_macs(
        of_graph(nodes, {"weight": normal(3, 4, 2, 2)}, 1, 3, 5, 5), {"x": normal(1, 3, 5, 5)}
    )
    assert macs == Macs(dense=75 * 16, effective=75 * 16)


def test_products_of_constants_are_not_counted() -> None:
    nodes = [
        helper.make_node("MatMul", ["left", "right"], ["weight"]),
        helper.make_node("Gemm", ["x", "weight"], ["y"], transB=1),
    ]
    weights = {"left": normal(6, 2), "right": normal(2, 5)}
    macs = count_macs(of_graph(nodes, weights, "n", 5), {"x": normal(1, 5)})
    assert macs == Macs(dense=30, effective=30)


def test_a_graph_without_products_has_no_macs() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    assert count_macs(of_graph(nodes, {}, "n", 5), {"x": normal(1, 5)}) == Macs(
        dense=0, effective=0
    )


@pytest.mark.parametrize("domain", ["", "com.microsoft"])
def test_operators_that_cannot_be_counted_give_none(domain: str) -> None:
    node = helper.make_node("Attention" if domain else "Einsum", ["x", "w"], ["y"], domain=domain)
    if not domain:
        node.attribute.append(helper.make_attribute("equation", "ni,io->no"))
    assert count_macs(of_graph([node], {"w": normal(5, 2)}, "n", 5), {"x": normal(1, 5)}) is None
