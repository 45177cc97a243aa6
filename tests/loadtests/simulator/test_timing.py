from __future__ import annotations

import numpy as np
import pytest

from loadtests.simulator.timing import MAX_QUANTILE, ReportCardTimes
from serving.routing.profile import LatencyQuantiles

CARD = {
    1: LatencyQuantiles(0.010, 0.012, 0.020),
    8: LatencyQuantiles(0.040, 0.060, 0.070),
    64: LatencyQuantiles(0.200, 0.200, 0.200),
}


@pytest.mark.parametrize("size", CARD)
def test_quantiles_at_measured_sizes_are_those_of_the_card(size: int) -> None:
    times = ReportCardTimes(CARD)
    assert times.quantile_s(size, 0.5) == pytest.approx(CARD[size].p50_s)
    assert times.quantile_s(size, 0.95) == pytest.approx(CARD[size].p95_s)
    assert times.quantile_s(size, 0.99) == pytest.approx(CARD[size].p99_s)


@pytest.mark.parametrize("size", [1, 3, 8, 40, 64, 100])
def test_random_durations_have_the_quantiles_of_the_card(size: int) -> None:
    times = ReportCardTimes(CARD)
    drawn = [times.quantile_s(size, u) for u in np.random.default_rng(0).random(20_000)]
    for q in (0.5, 0.95, 0.99):
        assert np.quantile(drawn, q) == pytest.approx(times.quantile_s(size, q), rel=0.03)
    mean_s = np.mean([times.quantile_s(size, u) for u in np.linspace(0, 1, 401)])
    assert np.mean(drawn) == pytest.approx(mean_s, rel=0.02)


@pytest.mark.parametrize("size", [1, 5, 8, 30, 64, 128])
def test_durations_increase_with_the_quantile_and_are_bounded(size: int) -> None:
    times = ReportCardTimes(CARD)
    drawn = [times.quantile_s(size, u) for u in np.linspace(0, 1, 1001)]
    assert np.all(np.diff(drawn) >= 0)
    assert drawn[0] == times.quantile_s(size, 1 - MAX_QUANTILE) > 0
    assert drawn[-1] == times.quantile_s(size, MAX_QUANTILE) < 1


def test_durations_are_interpolated_and_beyond_the_last_size_proportional() -> None:
    times = ReportCardTimes(CARD)
    for u in (0.1, 0.5, 0.95):
        drawn = [times.quantile_s(size, u) for size in range(1, 65)]
        assert np.all(np.diff(drawn) > 0)
        assert times.quantile_s(128, u) == pytest.approx(2 * times.quantile_s(64, u))


def test_the_link_time_is_added_to_every_batch() -> None:
    direct, linked = ReportCardTimes(CARD), ReportCardTimes(CARD, link_s=0.001)
    for u in (0.0, 0.5, 0.99):
        assert linked.quantile_s(8, u) - direct.quantile_s(8, u) == pytest.approx(0.001)
