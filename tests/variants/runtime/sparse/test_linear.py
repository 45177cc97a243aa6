from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.variants.runtime.sparse.layers import chosen, sparse_linear, weights_of
from variants.catalog.kernels import DENSE, PACKED_DENSE, LayerKernels
from variants.runtime.kernels.bound import BoundOperator
from variants.runtime.sparse.forms import SparseKind
from variants.runtime.sparse.linear import SparseLinear

pytestmark = pytest.mark.usefixtures("each_library")

KERNELS: list[tuple[SparseKind, str]] = [
    ("linear-2:4", "rows"),
    ("linear-2:4", "panel"),
    ("linear-2:4", DENSE),
    ("linear-2:4", PACKED_DENSE),
    ("linear-sparse", "rows"),
    ("linear-sparse", "panel"),
]


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.buffers())


@pytest.mark.parametrize(("kind", "kernel"), KERNELS)
@pytest.mark.parametrize("bias", [True, False])
def test_every_kernel_is_equivalent_to_the_linear_layer(
    kind: SparseKind, kernel: str, bias: bool
) -> None:
    linear = sparse_linear(kind, bias=bias)
    weights = weights_of(linear, kind)
    layer = SparseLinear(weights, chosen(weights, (1, kernel)))
    for shape in ((1, 40), (7, 40), (2, 3, 40), (40,), (0, 40)):
        features = torch.randn(shape)
        with torch.inference_mode():
            torch.testing.assert_close(layer(features), linear(features), atol=1e-5, rtol=1e-5)


def test_features_need_not_be_contiguous() -> None:
    linear = sparse_linear("linear-2:4")
    weights = weights_of(linear, "linear-2:4")
    layer = SparseLinear(weights, chosen(weights, (1, "rows")))
    features = torch.randn(40, 6).T
    with torch.inference_mode():
        torch.testing.assert_close(layer(features), linear(features), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "kernel"), KERNELS)
def test_a_fused_relu_is_computed(kind: SparseKind, kernel: str) -> None:
    linear = sparse_linear(kind)
    weights = weights_of(linear, kind, "relu")
    layer, features = SparseLinear(weights, chosen(weights, (1, kernel))), torch.randn(9, 40)
    with torch.inference_mode():
        expected = linear(features).relu()
        torch.testing.assert_close(layer(features), expected, atol=1e-5, rtol=1e-5)
    assert (expected == 0).any()


def test_int8_weights_and_activations_are_rounded_to_127_steps() -> None:
    linear = sparse_linear("linear-2:4-int8")
    weights = weights_of(linear, "linear-2:4-int8")
    layer, features = SparseLinear(weights, chosen(weights, (1, "rows"))), torch.randn(64, 40)
    with torch.inference_mode():
        expected, actual = linear(features), layer(features)
    noise = (actual - expected).square().mean() / expected.square().mean()
    assert 1e-6 < noise < 1e-3


@pytest.mark.parametrize("kind", ["linear-2:4", "linear-2:4-int8", "linear-sparse"])
def test_only_the_packed_weight_is_in_memory(kind: SparseKind) -> None:
    linear = sparse_linear(kind, inputs=256, out=64)
    weights = weights_of(linear, kind)
    dense = 4 * 256 * 64
    packed = SparseLinear(weights, chosen(weights, (1, "rows")))
    shares = {"linear-2:4": 17 / 32, "linear-2:4-int8": 5 / 32, "linear-sparse": 0.2 * 6 / 4}
    assert _bytes(packed) == pytest.approx(shares[kind] * dense, rel=0.15)
    if kind != "linear-2:4-int8":
        both = SparseLinear(weights, chosen(weights, (1, "rows"), (64, DENSE)))
        assert _bytes(both) == _bytes(packed) + dense
        only_dense = SparseLinear(weights, chosen(weights, (1, DENSE)))
        assert _bytes(only_dense) == pytest.approx(dense, abs=4 * 64)


def test_the_kernel_depends_on_the_number_of_rows() -> None:
    weights = weights_of(sparse_linear("linear-2:4"), "linear-2:4")
    layer = SparseLinear(weights, chosen(weights, (1, "rows"), (4, DENSE), (32, "panel")))
    used = [layer._kernels.index(layer.kernel(rows)) for rows in (1, 2, 4, 5, 32, 33, 1000)]
    assert used == [0, 1, 1, 2, 2, 2, 2]


def test_the_static_rule_selects_the_kernel_of_more_rows_than_were_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[str] = []
    original = BoundOperator.__call__

    def spy(kernel: BoundOperator, *arguments: Any) -> torch.Tensor:
        used.append(kernel.algorithm)
        return original(kernel, *arguments)

    monkeypatch.setattr(BoundOperator, "__call__", spy)
    weights = weights_of(sparse_linear("linear-sparse"), "linear-sparse")
    for last, rows in ((8, 8), (8, 9), (32, 33)):
        SparseLinear(weights, chosen(weights, (last, "rows")))(torch.randn(rows, 40))
    assert used == ["rows", "auto", "rows"]
    dense = SparseLinear(weights, chosen(weights, (1, "rows"), (8, DENSE)))
    assert len(dense._kernels) == 2  # a dense product is fast for many rows


@pytest.mark.parametrize("kind", ["linear-2:4", "linear-2:4-int8", "linear-sparse"])
def test_the_dense_weight_can_be_read(kind: SparseKind) -> None:
    weights = weights_of(sparse_linear(kind), kind, "relu")
    layer = SparseLinear(weights, chosen(weights, (1, "rows")))
    torch.testing.assert_close(layer.weight, weights.weight, atol=1e-6, rtol=1e-6)


def test_unknown_kernels_are_rejected() -> None:
    weights = weights_of(sparse_linear("linear-2:4"), "linear-2:4")
    with pytest.raises(ValueError, match="unknown kernel magic of a linear-2:4 layer; there are"):
        SparseLinear(weights, chosen(weights, (1, "magic")))
    with pytest.raises(ValueError, match="needs a kernel, the table has none"):
        SparseLinear(weights, LayerKernels(kind="linear-2:4", shape=(33, 40), zeros=0.5))
    weights = weights_of(sparse_linear("linear-2:4-int8"), "linear-2:4-int8")
    with pytest.raises(ValueError, match="unknown kernel dense of a linear-2:4-int8 layer"):
        SparseLinear(weights, chosen(weights, (1, DENSE)))
