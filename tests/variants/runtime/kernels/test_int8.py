from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.variants.runtime.kernels import weights
from tests.variants.runtime.kernels.conftest import available, using
from tests.variants.runtime.kernels.weights import ROWS, SHAPES, SHAPES24
from variants.runtime.kernels import fallback
from variants.runtime.kernels.operators import linear24_int8, linear_packed_int8
from variants.runtime.kernels.packing import pack24_int8, pack_dense_int8
from variants.runtime.sparse.forms import quantize


def multiply(
    features: Tensor, quantized: Tensor, scales: Tensor, bias: Tensor | None, activation: str
) -> Tensor:
    """Multiply by a 2:4 sparse weight, which the dense operator does with the same bits."""
    packed = pack24_int8(quantized, scales)
    result = linear24_int8(features, *packed, bias, len(quantized), activation)
    dense = multiply_dense(features, quantized, scales, bias, activation)
    torch.testing.assert_close(dense, result, rtol=0, atol=0, equal_nan=True)
    return result


def multiply_dense(
    features: Tensor, quantized: Tensor, scales: Tensor, bias: Tensor | None, activation: str
) -> Tensor:
    packed = pack_dense_int8(quantized, scales)
    return linear_packed_int8(features, *packed, bias, len(quantized), activation)


def assert_same_bits(
    features: Tensor, quantized: Tensor, scales: Tensor, bias: Tensor | None, activation: str
) -> Tensor:
    """Compute with all implementations; return the result."""
    results = []
    for name in available():
        with using(name):
            results.append(multiply(features, quantized, scales, bias, activation))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0, equal_nan=True)
    return results[0]


@pytest.mark.parametrize("shape", SHAPES24, ids=str)
def test_all_implementations_give_the_same_bits(shape: tuple[int, int]) -> None:
    out, inputs = shape
    quantized, scales = weights.quantized24(out, inputs)
    bias = torch.randn(out, generator=weights.generator(out))
    for rows in ROWS:
        features = weights.features(rows, inputs)
        activation = "relu" if rows % 2 else "none"
        assert_same_bits(features, quantized, scales, bias if rows % 3 else None, activation)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dense_products_are_those_of_the_quantized_features(
    implementation: str, shape: tuple[int, int]
) -> None:
    out, inputs = shape
    quantized, scales = quantize(weights.dense(out, inputs))
    bias = torch.randn(out, generator=weights.generator(out))
    for rows in ROWS:
        features = weights.features(rows, inputs)
        activation = "relu" if rows % 2 else "none"
        result = multiply_dense(features, quantized, scales, bias, activation)
        levels, steps, zeros = fallback.quantize(features)
        products = (levels - zeros[:, None]).double() @ quantized.double().T
        expected = (products.float() * scales) * steps[:, None] + bias
        assert torch.equal(result, expected.relu() if activation == "relu" else expected)


def test_the_error_is_that_of_seven_bits(implementation: str) -> None:
    quantized, scales = weights.quantized24(70, 260)
    features = weights.features(9, 260)
    steps = (features.amax(dim=1) - features.amin(dim=1)) / 127
    result = multiply(features, quantized, scales, None, "none")
    exact = features.double() @ (quantized * scales[:, None]).double().T
    bound = steps[:, None] * (quantized.abs().sum(dim=1) * scales)
    assert ((result.double() - exact).abs() <= bound).all()
    assert ((result.double() - exact).abs() <= bound / 10).double().mean() > 0.9


@pytest.mark.parametrize("weight", [127, -127])
def test_the_largest_products_do_not_saturate(implementation: str, weight: int) -> None:
    """Integer features that quantize to themselves, 127 everywhere: sums are exact."""
    for inputs in (4, 32, 1000):
        quantized = torch.full((40, inputs), weight, dtype=torch.int8)
        features = torch.full((13, inputs), 127.0)
        dense = multiply_dense(features, quantized, torch.ones(40), None, "none")
        assert torch.equal(dense, torch.full((13, 40), 127.0 * weight * inputs))
        quantized.reshape(40, -1, 4)[:, :, 2:] = 0
        result = multiply(features, quantized, torch.ones(40), None, "none")
        assert torch.equal(result, torch.full((13, 40), 127.0 * weight * inputs / 2))


SPECIAL_ROWS = {
    "zeros": torch.zeros(64),
    "equal": torch.full((64,), 0.7),
    "equal and negative": torch.full((64,), -0.7),
    "negative": -torch.arange(1, 65).float(),
    "large": torch.tensor([3e38, -3e38]).repeat(32),
    "subnormal": torch.tensor([1e-40, -3e-40]).repeat(32),
    "smallest": torch.tensor([1e-45, 0.0]).repeat(32),
    "one outlier": torch.tensor([1e30] + [1.0] * 63),
    "halves": (torch.arange(64) + 0.5).clamp(max=127),
}


@pytest.mark.parametrize("row", SPECIAL_ROWS.values(), ids=SPECIAL_ROWS)
def test_special_rows_give_the_same_bits_and_are_close(row: Tensor) -> None:
    quantized, _ = weights.quantized24(40, 64)
    features = torch.stack([row, weights.features(1, 64)[0]])
    scales = torch.full((40,), 1e-4)
    result = assert_same_bits(features, quantized, scales, None, "none")[0]
    step = (row.double().clamp(min=0).max() - row.double().clamp(max=0).min()) / 127
    exact = quantized.double() @ row.double() * 1e-4
    bound = quantized.double().abs().sum(dim=1) * 1e-4 * (step + 1e-45) + exact.abs() * 1e-6
    assert ((result.double() - exact).abs() <= bound).all()


@pytest.mark.parametrize("special", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_gives_nan_everywhere(implementation: str, special: float) -> None:
    quantized, scales = weights.quantized24(40, 64)
    for column in (0, 37, 63):
        features = weights.features(3, 64)
        features[1, column] = special
        result = multiply(features, quantized, scales, None, "relu")
        assert result[1].isnan().all()
        assert result[[0, 2]].isfinite().all()


def test_quantized_features_are_near_the_features() -> None:
    features = weights.features(5, 100)
    levels, steps, zeros = fallback.quantize(features)
    assert int(levels.min()) >= 0
    assert int(levels.max()) <= 127
    error = (levels - zeros[:, None]) * steps[:, None] - features
    assert (error.abs() <= steps[:, None] * 1.001).all()


def test_the_result_does_not_depend_on_the_number_of_threads(threads: None) -> None:
    quantized, scales = weights.quantized24(1030, 520)
    features = weights.features(40, 520)
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(multiply(features, quantized, scales, None, "none"))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
