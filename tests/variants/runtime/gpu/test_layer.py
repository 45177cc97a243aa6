from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.variants.runtime.gpu.needs_gpu import WITHOUT_GPU
from tests.variants.runtime.sparse.layers import sparse_linear, weights_of
from variants.catalog.kernels import DENSE
from variants.runtime.gpu.layer import HALF, GpuLayer, GpuLinear, dense_name
from variants.runtime.gpu.products import Product
from variants.runtime.sparse.forms import SparseKind

CPU = torch.device("cpu")


def layer(kind: SparseKind, inputs: int = 64, out: int = 32) -> GpuLayer:
    return GpuLayer.of(weights_of(sparse_linear(kind, inputs, out), kind), CPU)


def counting(calls: list[int], number: int, weight: Tensor) -> Product:
    def product(features: Tensor, bias: Tensor | None, activation: str) -> Tensor:
        calls.append(number)
        return F.linear(features, weight, bias)

    return product


@pytest.mark.parametrize(
    ("kind", "arithmetic", "dense"),
    [
        ("linear-2:4", HALF, (DENSE, dense_name(HALF))),
        ("linear-2:4-int8", "int8", ("dense int8",)),
        ("linear-sparse", HALF, (DENSE, dense_name(HALF))),
    ],
)
def test_a_layer_has_dense_products_in_its_arithmetic(
    kind: SparseKind, arithmetic: str, dense: tuple[str, ...]
) -> None:
    own = layer(kind)
    assert (own.arithmetic, own.dense_names) == (arithmetic, dense)
    for name in dense:
        assert own.error(own.dense(name), 8) < 1e-2


def test_an_int8_layer_whose_shape_no_int8_product_takes_is_computed_in_fp32() -> None:
    own = layer("linear-2:4-int8", inputs=44, out=33)
    assert own.dense_names == (DENSE,)
    x = torch.randn(5, 44)
    expected = F.linear(x, own.weights.weight)
    assert torch.equal(own.dense(DENSE)(x, None, "none"), expected)


def test_zeros_anywhere_have_no_sparse_product() -> None:
    assert "2:4 only" in layer("linear-sparse").dense_reason


@WITHOUT_GPU
def test_without_cusparselt_the_reason_says_so() -> None:
    if torch.backends.cusparselt.is_available():
        pytest.skip("this torch has cuSPARSELt")
    assert layer("linear-2:4").dense_reason == "torch has no cuSPARSELt"


def test_the_product_depends_on_the_number_of_rows_and_none_computes_more_than_its_own() -> None:
    calls: list[int] = []
    weight = torch.randn(3, 4)
    products = [(rows, counting(calls, rows, weight)) for rows in (1, 8, 32)]
    linear = GpuLinear((3, 4), None, "none", products, counting(calls, 0, weight))
    for rows in (1, 2, 8, 9, 32, 100):
        assert torch.equal(linear(x := torch.randn(rows, 4)), F.linear(x, weight))
    assert calls == [1, 8, 8, 32, 32, 0]


def test_leading_dimensions_are_kept_and_count_as_rows() -> None:
    calls: list[int] = []
    weight, bias = torch.randn(3, 4), torch.randn(3)
    products = [(rows, counting(calls, rows, weight)) for rows in (1, 8, 32)]
    linear = GpuLinear((3, 4), bias, "none", products, counting(calls, 0, weight))
    x = torch.randn(2, 5, 4)
    torch.testing.assert_close(linear(x), F.linear(x, weight, bias))
    assert calls == [32]


def test_the_weight_can_be_read() -> None:
    weight = torch.randn(3, 4)
    product = counting([], 1, weight)
    linear = GpuLinear((3, 4), torch.randn(3), "none", [(1, product)], product)
    assert torch.equal(linear.weight, weight)
