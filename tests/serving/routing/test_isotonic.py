from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.routing.isotonic import isotonic

pairs = st.lists(st.tuples(st.floats(0, 100), st.floats(0.1, 10)), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("values", "weights", "expected"),
    [
        pytest.param([1, 2, 3], [1, 1, 1], [1, 2, 3], id="increasing values stay"),
        pytest.param([3, 1], [1, 1], [2, 2], id="two violators share their mean"),
        pytest.param([3, 1], [3, 1], [2.5, 2.5], id="the mean is weighted"),
        pytest.param([1, 4, 3, 2, 5], [1] * 5, [1, 3, 3, 3, 5], id="a block grows"),
    ],
)
def test_violators_are_pooled(
    values: list[float], weights: list[float], expected: list[float]
) -> None:
    assert isotonic(values, weights) == expected


@given(pairs)
def test_the_result_is_monotone_and_optimal(pairs: list[tuple[float, float]]) -> None:
    values, weights = map(list, zip(*pairs, strict=True))
    fitted = np.array(isotonic(values, weights))
    assert (np.diff(fitted) >= -1e-9).all()
    # The conditions of optimality: the sums of the weighted residuals from the start are at least
    # 0, and 0 in total.
    sums = np.cumsum(np.array(weights) * (np.array(values) - fitted))
    assert sums.min() >= -1e-6
    assert sums[-1] == pytest.approx(0, abs=1e-6)
