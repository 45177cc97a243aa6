from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from variants.compression.quantization.codebook import Codebook, KMeansStart, make_codebook

NORMAL = np.random.default_rng(0).standard_normal((40, 25)).astype(np.float32)


def _error(codebook: Codebook) -> float:
    return float(np.square(codebook.decode() - NORMAL).sum())


@pytest.mark.parametrize("start", ["linear", "quantile"])
@pytest.mark.parametrize("max_values", [2, 16, 256])
def test_codes_are_of_the_nearest_value_and_values_are_means_of_their_numbers(
    max_values: int, start: KMeansStart
) -> None:
    codebook = make_codebook(NORMAL, max_values, start)
    assert codebook.codes.dtype == np.uint8
    assert codebook.codes.shape == NORMAL.shape
    assert len(codebook.values) <= max_values
    nearest = np.abs(NORMAL[..., None] - codebook.values).argmin(axis=-1)
    np.testing.assert_array_equal(codebook.codes, nearest)
    means = [NORMAL[codebook.codes == code].mean() for code in range(len(codebook.values))]
    np.testing.assert_allclose(codebook.values, means, atol=1e-6)


def test_k_means_has_a_smaller_error_than_a_uniform_grid_of_as_many_values() -> None:
    step = np.ptp(NORMAL) / 15
    rounded = np.round((NORMAL - NORMAL.min()) / step) * step + NORMAL.min()
    assert _error(make_codebook(NORMAL, 16)) < 0.7 * float(np.square(rounded - NORMAL).sum())


def test_two_values_of_a_normal_tensor_are_the_means_of_its_halves() -> None:
    """The best two values for a standard normal distribution are -sqrt(2/pi) and sqrt(2/pi)."""
    many = np.random.default_rng(1).standard_normal(200_000).astype(np.float32)
    np.testing.assert_allclose(make_codebook(many, 2).values, [-0.7979, 0.7979], atol=0.01)


def test_a_tensor_of_few_different_numbers_is_stored_exactly() -> None:
    tensor = np.array([[3, -1, 3], [0, 3, -1]], np.float32)
    codebook = make_codebook(tensor, 3)
    assert codebook.values.tolist() == [-1, 0, 3]
    assert codebook.codes.tolist() == [[2, 0, 2], [1, 2, 0]]


@pytest.mark.parametrize("max_values", [2, 16, 256])
def test_zeros_stay_zero_and_other_numbers_do_not_become_zero(max_values: int) -> None:
    mask = np.random.default_rng(2).random(NORMAL.shape) < 0.5
    positive = np.abs(NORMAL) + 0.01
    decoded = make_codebook(positive * mask, max_values).decode()
    np.testing.assert_array_equal(decoded != 0, mask)


def test_zeros_take_only_one_of_the_values() -> None:
    tensor = np.zeros(1000, np.float32)
    tensor[:6] = [1, 2, 3, 10, 20, 30]
    codebook = make_codebook(tensor, 7)
    np.testing.assert_array_equal(codebook.decode(), tensor)


def test_the_same_tensor_gets_the_same_codes() -> None:
    first, again = make_codebook(NORMAL, 16), make_codebook(NORMAL.copy(), 16)
    assert first.codes.tobytes() == again.codes.tobytes()
    assert first.values.tobytes() == again.values.tobytes()


@pytest.mark.parametrize(
    ("tensor", "max_values", "message"),
    [
        (NORMAL, 1, "from 2 to 256 values, not 1"),
        (NORMAL, 257, "from 2 to 256 values, not 257"),
        (np.array([1, np.nan], np.float32), 2, "not finite"),
    ],
)
def test_invalid_arguments_are_refused(tensor: Any, max_values: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_codebook(tensor, max_values)
