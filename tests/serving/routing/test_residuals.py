from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.routing.profile import LatencyQuantiles
from serving.routing.residuals import WINDOW, Residuals, card_ratio

CARD = LatencyQuantiles(0.010, 0.014, 0.022)


@pytest.mark.parametrize(
    ("u", "expected"),
    [
        pytest.param(0.5, 1.0, id="the median"),
        pytest.param(0.95, 1.4, id="the 95th percentile"),
        pytest.param(0.99, 2.2, id="the 99th"),
        pytest.param(0.999, 3.3445, id="beyond: extrapolated from the 95th and the 99th"),
        pytest.param(0.05, 1 / 1.1, id="below the median: a quarter of the rise above"),
    ],
)
def test_ratios_at_quantiles_of_a_report_card(u: float, expected: float) -> None:
    assert card_ratio(u, CARD) == pytest.approx(expected, rel=1e-3)


@given(st.floats(1, 5), st.floats(1, 5))
def test_the_ratios_of_a_report_card_rise_with_the_quantile(one: float, other: float) -> None:
    card = LatencyQuantiles(0.01, 0.01 * min(one, other), 0.01 * max(one, other))
    ratios = [card_ratio(u, card) for u in np.linspace(0.001, 0.999, 200)]
    assert all(b >= a * (1 - 1e-12) for a, b in pairwise(ratios))
    assert ratios[0] > 0


def residuals_of(values: list[float]) -> Residuals:
    residuals = Residuals(CARD)
    for value in values:
        residuals.add(value)
    return residuals


def test_added_ratios_replace_those_of_the_report_card() -> None:
    assert Residuals(CARD).quantile(0.95) == pytest.approx(1.4, rel=0.15)
    assert residuals_of([0.5] * (WINDOW - 1)).quantile(0.5) == 0.5
    full = residuals_of([0.5] * WINDOW)
    assert full.quantile(0.01) == 0.5
    assert full.quantile(0.999) == pytest.approx(0.5, rel=0.02), "equal ratios have hardly any tail"


def test_only_the_last_ratios_count() -> None:
    residuals = residuals_of([7.0] * WINDOW + [0.5] * WINDOW)
    assert residuals.quantile(0.99) == pytest.approx(0.5, rel=0.01)
    assert residuals.exceedance(0.6) < 1e-9


@pytest.mark.parametrize("sigma", [0.05, 0.2, 0.5])
def test_tail_quantiles_of_lognormal_times_are_approximately_right(sigma: float) -> None:
    rng = np.random.default_rng(0)
    windows = [residuals_of(list(rng.lognormal(0, sigma, WINDOW))) for _ in range(300)]
    for q, deviations in ((0.5, 0.0), (0.95, 1.6449), (0.99, 2.3263), (0.999, 3.0902)):
        mean = np.mean([math.log(residuals.quantile(q)) for residuals in windows])
        assert mean == pytest.approx(deviations * sigma, abs=0.02 + 0.5 * sigma), q
        assert mean >= (deviations - 0.2) * sigma, "never much too low"


@pytest.mark.parametrize("index", [0.1, 0.3])
def test_the_tail_of_a_power_law_is_estimated(index: float) -> None:
    rng = np.random.default_rng(1)
    windows = [residuals_of(list(rng.pareto(1 / index, WINDOW) + 1)) for _ in range(300)]
    logs = [math.log(residuals.quantile(0.999)) for residuals in windows]
    assert np.mean(logs) == pytest.approx(index * math.log(1000), rel=0.1)


values = st.lists(st.floats(1e-3, 1e3), max_size=2 * WINDOW)


@given(values)
def test_quantiles_rise_and_exceedances_fall(values: list[float]) -> None:
    residuals = residuals_of(values)
    quantiles = [residuals.quantile(q) for q in np.linspace(0, 0.9999, 100)]
    assert all(0 < a <= b * (1 + 1e-9) for a, b in pairwise(quantiles))
    ratios = np.geomspace(1e-4, 1e4, 100)
    shares = [residuals.exceedance(ratio) for ratio in ratios]
    assert all(1 >= a >= b >= 0 for a, b in pairwise(shares))


@given(values, st.floats(0.5, 0.9999))
def test_the_exceedance_of_a_quantile_is_the_rest(values: list[float], q: float) -> None:
    residuals = residuals_of(values)
    at = residuals.quantile(q)
    assert residuals.exceedance(at * (1 + 1e-9)) <= 1 - q + 1e-6
    assert residuals.exceedance(at * (1 - 1e-9)) >= 1 - q - 1e-6
