from __future__ import annotations

from collections.abc import Callable

import psutil
import pytest
import torch
from torch import Tensor

from tests.variants.runtime.kernels import weights
from tests.variants.runtime.kernels.weights import ROWS, SHAPES, SHAPES24, assert_product
from variants.runtime.kernels import library, operators
from variants.runtime.kernels.packing import pack24, pack_dense, pack_sparse

Product = Callable[[Tensor, Tensor, Tensor | None, str, str], Tensor]


def linear24(
    features: Tensor, weight: Tensor, bias: Tensor | None, activation: str, algorithm: str
) -> Tensor:
    packed = pack24(weight)
    return operators.linear24(features, *packed, bias, len(weight), activation, algorithm)


def linear_sparse(
    features: Tensor, weight: Tensor, bias: Tensor | None, activation: str, algorithm: str
) -> Tensor:
    return operators.linear_sparse(features, *pack_sparse(weight), bias, activation, algorithm)


def linear_packed(
    features: Tensor, weight: Tensor, bias: Tensor | None, activation: str, algorithm: str
) -> Tensor:
    packed = pack_dense(weight)
    return operators.linear_packed(features, packed, bias, len(weight), activation, algorithm)


PRODUCTS: dict[str, Product] = {
    "linear24": linear24,
    "linear_sparse": linear_sparse,
    "linear_packed": linear_packed,
}
CASES = [(name, each) for name in PRODUCTS for each in operators.ALGORITHMS[name]]


@pytest.mark.parametrize(("operator", "algorithm"), CASES)
def test_products_are_those_of_the_dense_weight(
    implementation: str, operator: str, algorithm: str
) -> None:
    for out, inputs in SHAPES24 if operator == "linear24" else SHAPES:
        weight = (
            weights.sparse24(out, inputs)
            if operator == "linear24"
            else weights.sparse(out, inputs, 0.8 if operator == "linear_sparse" else 0.0)
        )
        bias = torch.randn(out, generator=weights.generator(out))
        for rows in ROWS:
            features = weights.features(rows, inputs)
            activation = "relu" if rows % 2 else "none"
            used = bias if rows % 3 else None
            actual = PRODUCTS[operator](features, weight, used, activation, algorithm)
            assert_product(actual, features, weight, used, activation)


@pytest.mark.parametrize(("operator", "algorithm"), CASES)
@pytest.mark.parametrize("special", [torch.nan, torch.inf, -torch.inf])
def test_features_that_are_not_finite_reach_the_outputs_with_a_weight_for_them(
    implementation: str, operator: str, algorithm: str, special: float
) -> None:
    weight = weights.sparse24(70, 260)
    for rows in (1, 3, 20):
        features = weights.features(rows, 260)
        features[0, 130] = special
        result = PRODUCTS[operator](features, weight, None, "relu", algorithm)
        expected = torch.relu(torch.tensor(special) * weight[:, 130])
        reached = weight[:, 130] != 0
        assert torch.equal(result[0, reached].isnan(), expected[reached].isnan())
        assert torch.equal(result[0, reached] == torch.inf, expected[reached] == torch.inf)
        assert result[1:].isfinite().all()


@pytest.mark.parametrize("weight", [torch.zeros(40, 64), torch.zeros(0, 64), torch.zeros(40, 0)])
def test_weights_without_nonzeros_give_the_bias(implementation: str, weight: Tensor) -> None:
    bias = torch.arange(len(weight)).float() - 2
    for operator, algorithm in CASES:
        for rows in (1, 20):
            features = torch.ones(rows, weight.shape[1])
            result = PRODUCTS[operator](features, weight, bias, "none", algorithm)
            assert torch.equal(result, bias.expand(rows, -1))


@pytest.mark.parametrize(("operator", "algorithm"), CASES)
def test_the_result_does_not_depend_on_the_number_of_threads(
    threads: None, operator: str, algorithm: str
) -> None:
    weight = weights.sparse24(1030, 520)
    bias = torch.randn(1030, generator=weights.generator(3))
    for rows in (1, 4, 40):
        features = weights.features(rows, 520)
        results = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(PRODUCTS[operator](features, weight, bias, "none", algorithm))
        assert all(torch.equal(results[0], each) for each in results[1:])


def test_wrong_arguments_are_refused() -> None:
    weight = weights.sparse24(40, 64)
    packed, features = pack24(weight), weights.features(2, 64)
    with pytest.raises(ValueError, match=r"expected contiguous features FP32 \[rows, in\]"):
        operators.linear24(features.double(), *packed, None, 40)
    with pytest.raises(ValueError, match="expected contiguous features"):
        operators.linear24(weights.features(64, 2).T, *packed, None, 40)
    with pytest.raises(ValueError, match=r"expected contiguous values .* \[2, 24, 2, 32\]"):
        operators.linear24(weights.features(2, 96), *packed, None, 40)
    with pytest.raises(ValueError, match=r"expected contiguous bias torch.float32 \[40\]"):
        operators.linear24(features, *packed, torch.zeros(41), 40)
    with pytest.raises(ValueError, match="activation must be one of none, relu, got 'gelu'"):
        operators.linear24(features, *packed, None, 40, "gelu")
    with pytest.raises(ValueError, match="must be one of auto, rows, got 'panel'"):
        operators.linear_packed(features, pack_dense(weight), None, 40, "none", "panel")


@pytest.mark.parametrize("operator", PRODUCTS)
def test_products_do_not_depend_on_the_default_dtype(implementation: str, operator: str) -> None:
    weight, features = weights.sparse24(40, 64), weights.features(3, 64)
    expected = PRODUCTS[operator](features, weight, None, "none", "auto")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        actual = PRODUCTS[operator](features, weight, None, "none", "auto")
    finally:
        torch.set_default_dtype(before)
    assert actual.dtype == torch.float32
    assert torch.equal(actual, expected)


def test_features_on_another_device_are_rejected() -> None:
    packed = pack_dense(weights.dense(4, 8))
    with pytest.raises(ValueError, match=r"features FP32 .* on the CPU, got .* on meta"):
        operators._linear_packed(torch.ones(3, 8, device="meta"), packed, None, 4)
    with pytest.raises(ValueError, match=r"weight .* on the CPU, got .* on meta"):
        operators._linear_packed(torch.ones(3, 8), packed.to("meta"), None, 4)


@pytest.mark.skipif(not library.is_compiled(), reason=library.missing_reason())
def test_memory_of_a_large_call_is_not_kept() -> None:
    weight = weights.sparse24(4, 2048)
    features = torch.ones(8192, 2048)  # 64 MiB, which the panel kernels transpose
    operators.linear24(features[:1], *pack24(weight), None, 4)
    before = psutil.Process().memory_info().rss
    operators.linear24(features, *pack24(weight), None, 4, "none", "panel")
    assert psutil.Process().memory_info().rss - before < 32 << 20
