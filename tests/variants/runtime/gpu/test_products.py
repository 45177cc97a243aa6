"""Dense products run on any device; those of cuSPARSELt need a GPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.variants.runtime.gpu.needs_gpu import NEEDS_GPU
from tests.variants.runtime.sparse.layers import sparse_linear, weights_of
from variants.runtime.gpu import products
from variants.runtime.gpu.layer import TOLERANCE, GpuLayer, relative_error
from variants.runtime.gpu.shapes import Arithmetic
from variants.runtime.sparse.forms import SparseKind, quantize

ROWS = (1, 7, 16, 17, 33)


def features(rows: int, columns: int = 64) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_dense_products_add_the_bias_and_apply_the_activation(rows: int, activation: str) -> None:
    weight, bias, x = features(32), features(1, 32)[0], features(rows)
    expected = F.linear(x, weight, bias)
    expected = expected.relu() if activation == "relu" else expected
    assert torch.equal(products.dense(weight)(x, bias, activation), expected)
    rounded = products.dense_16(weight.to(torch.bfloat16))(x, bias, activation)
    assert rounded.dtype == torch.float32
    assert 0 < relative_error(rounded, expected) < TOLERANCE["bfloat16"]


@pytest.mark.parametrize("rows", ROWS)
def test_the_dense_int8_product_is_exact_for_any_number_of_rows(rows: int) -> None:
    codes, scales = quantize(features(32))
    x = features(rows)
    row_codes, row_scales = products.quantize_rows(x)
    integers = row_codes.long() @ codes.long().T
    expected = integers.double() * row_scales.double() * scales.double()
    actual = products.dense_int8(codes, scales)(x, None, "none")
    assert actual.shape == (rows, 32)
    assert relative_error(actual, expected) < 1e-6


def test_rows_are_quantized_by_their_largest_magnitude() -> None:
    x = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]])
    codes, scales = products.quantize_rows(x)
    assert codes.tolist() == [[64, -127, 32], [0, 0, 0]]
    assert scales[:, 0].tolist() == pytest.approx([2 / 127, 1.0])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_nan_or_an_infinity_reaches_all_outputs_of_its_row_and_no_other(value: float) -> None:
    x = features(3)
    x[1, 5] = value
    codes, scales = quantize(features(32))
    finite = products.dense_int8(codes, scales)(x, None, "none").isfinite()
    assert finite.all(dim=1).tolist() == [True, False, True]
    assert not finite[1].any()


def test_the_error_is_relative_and_a_nan_is_never_small() -> None:
    expected = features(8)
    assert relative_error(expected, expected) == 0
    assert relative_error(1.5 * expected, expected) == pytest.approx(0.5)
    wrong = expected.clone()
    wrong[0, 0] = torch.nan
    assert not relative_error(wrong, expected) <= 1.0


@NEEDS_GPU
@pytest.mark.parametrize("arithmetic", ["bfloat16", "float16", "int8"])
@pytest.mark.parametrize("rows", ROWS)
def test_the_sparse_product_matches_the_masked_dense_one(arithmetic: Arithmetic, rows: int) -> None:
    kind: SparseKind = "linear-2:4-int8" if arithmetic == "int8" else "linear-2:4"
    weights = weights_of(sparse_linear(kind, inputs=128, out=64), kind)
    layer = GpuLayer(weights, torch.device("cuda"), arithmetic)
    product = layer.sparse(rows, layer.search(rows))
    assert layer.error(product, rows) <= TOLERANCE[arithmetic]
    if arithmetic == "int8":
        x = torch.randn(rows, 128, device="cuda")
        dense = layer.dense("dense int8")
        assert torch.equal(product(x, None, "none"), dense(x, None, "none"))
