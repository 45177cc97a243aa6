from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.routing.arrivals import MAX_ARRIVAL_AGE_S, RECENT_S, Arrival
from serving.routing.forecast import REFRESH_S, DrainTime, Forecast

ANY = ("dense", "int8")


def one_ms_each(variants: tuple[str, ...]) -> DrainTime:
    return lambda samples: 0.001 * samples


def record(
    forecast: Forecast,
    at: float,
    size: int = 1,
    left_s: float = 0.020,
    variants: tuple[str, ...] = ANY,
    *,
    is_admitted: bool = True,
) -> None:
    arrival = Arrival(at, size, left_s, variants)
    forecast.record_offered(arrival)
    if is_admitted:
        forecast.record_admitted(arrival)


def forecast_of(
    arrivals: Iterable[float],
    left_s: float = 0.020,
    size: int = 1,
    *,
    cores: float = 1.0,
) -> Forecast:
    """Return a forecast that is refreshed after arrivals at these times.

    Every tenth request allows 50 times as much time as the others.
    """
    forecast, now = Forecast(), 0.0
    for number, now in enumerate(arrivals):
        record(forecast, now, size, left_s if number % 10 else 50 * left_s)
    forecast.refresh(now, one_ms_each, cores)
    return forecast


EVERY_10_MS: Sequence[float] = (0.010 * np.arange(500)).tolist()
LAST = EVERY_10_MS[-1]


def test_without_arrivals_no_miss_is_expected() -> None:
    forecast = Forecast()
    assert not forecast.is_refresh_due(0.0)
    forecast.refresh(0.0, one_ms_each, 1.0)
    assert (forecast.expected_misses(1.0)(1.0), forecast.arrivals_per_s(1.0)) == (0, 0)
    assert (forecast.offered_load(1.0), forecast.p10_slack_s(1.0)) == (0, math.inf)


def test_a_refresh_is_due_after_an_interval_with_arrivals() -> None:
    forecast = Forecast()
    record(forecast, 10.0)
    assert forecast.is_refresh_due(10.0)
    forecast.refresh(10.0, one_ms_each, 1.0)
    assert not forecast.is_refresh_due(10.0 + 2 * REFRESH_S), "no arrival"
    record(forecast, 10.0)
    assert not forecast.is_refresh_due(10.0 + 0.9 * REFRESH_S), "before the interval has passed"
    assert forecast.is_refresh_due(10.0 + 1.1 * REFRESH_S)


def test_requests_without_a_deadline_cause_neither_misses_nor_load() -> None:
    forecast = forecast_of(EVERY_10_MS, left_s=math.inf)
    assert forecast.expected_misses(LAST)(1.0) == 0
    assert (forecast.offered_load(LAST), forecast.p10_slack_s(LAST)) == (0, math.inf)
    assert forecast.arrivals_per_s(LAST) == pytest.approx(100)


def test_refused_requests_count_for_rate_and_load_but_cause_no_misses() -> None:
    admitted, refused = forecast_of(EVERY_10_MS), Forecast()
    for at in EVERY_10_MS:
        record(refused, at)
        for place in range(1, 10):
            record(refused, at + place * 0.001, is_admitted=False)
    now = LAST + 0.009
    refused.refresh(now, one_ms_each, 1.0)
    assert refused.arrivals_per_s(now) == pytest.approx(1000, rel=0.02)
    assert refused.offered_load(now) == pytest.approx(1.0, rel=0.02)
    assert admitted.offered_load(LAST) == pytest.approx(0.1, rel=0.02)
    assert refused.expected_misses(now)(0.1) < 1.5 * admitted.expected_misses(now)(0.1)
    record(only_refused := Forecast(), 0.0, is_admitted=False)
    record(only_refused, 0.001, is_admitted=False)
    only_refused.refresh(0.001, one_ms_each, 1.0)
    assert only_refused.expected_misses(0.001)(1.0) == 0


def test_the_offered_load_is_a_share_of_all_cores() -> None:
    assert forecast_of(EVERY_10_MS, size=4).offered_load(LAST) == pytest.approx(0.4, rel=0.02)
    both = forecast_of(EVERY_10_MS, size=4, cores=2.0)
    assert both.offered_load(LAST) == pytest.approx(0.2, rel=0.02)


def test_the_slack_is_a_low_quantile_of_the_allowed_times() -> None:
    assert forecast_of(EVERY_10_MS).p10_slack_s(LAST) == 0.020


def test_nothing_outlives_the_arrivals() -> None:
    forecast = forecast_of(EVERY_10_MS)
    for silence_s in (0.030, 1.0, 100.0):
        now = LAST + silence_s
        assert forecast.expected_misses(now)(1.0) == 0
        assert (forecast.offered_load(now), forecast.arrivals_per_s(now)) == (0, 0)
        assert forecast.p10_slack_s(now) == math.inf


def test_a_faster_load_before_is_soon_forgotten() -> None:
    fast = (0.001 * np.arange(2000)).tolist()
    slow = (fast[-1] + 0.1 * np.arange(1, int(1.5 * RECENT_S / 0.1))).tolist()
    forecast = forecast_of([*fast, *slow])
    assert forecast.expected_misses(slow[-1])(0.050) == 0
    assert forecast.arrivals_per_s(slow[-1]) < 15


def test_old_arrivals_are_discarded() -> None:
    forecast = forecast_of(EVERY_10_MS)
    assert forecast.expected_misses(LAST)(0.1) > 0
    now = LAST + MAX_ARRIVAL_AGE_S
    record(forecast, now)
    forecast.refresh(now, one_ms_each, 1.0)
    assert forecast.expected_misses(now)(0.1) == 0


def test_each_request_is_served_by_the_fastest_variant_that_qualifies() -> None:
    def drain_time(variants: tuple[str, ...]) -> DrainTime:
        each_s = 0.001 if "int8" in variants else 0.015
        return lambda samples: each_s * samples

    expected_misses = []
    for variants in (ANY, ("dense",)):
        forecast = Forecast()
        for now in EVERY_10_MS:
            record(forecast, now, variants=variants)
        forecast.refresh(LAST, drain_time, 1.0)
        expected_misses.append(forecast.expected_misses(LAST)(0.016))
    assert expected_misses[0] < 0.5 < expected_misses[1]


@given(
    st.lists(
        st.tuples(
            st.floats(0, 0.1),
            st.integers(1, 64),
            st.floats(-0.01, 1) | st.just(math.inf),
            st.booleans(),
        ),
        max_size=80,
    ),
    st.floats(1e-9, 10),
    st.floats(0, 1),
    st.integers(1, 4),
)
def test_the_forecast_is_finite_and_not_negative_for_any_arrivals(
    arrivals: list[tuple[float, int, float, bool]], held_s: float, silence_s: float, cores: int
) -> None:
    forecast, now = Forecast(), 0.0
    for pause_s, size, left_s, is_admitted in arrivals:
        now += pause_s
        record(forecast, now, size, left_s, is_admitted=is_admitted)
    forecast.refresh(now, one_ms_each, float(cores))
    now += silence_s
    assert 0 <= forecast.expected_misses(now)(held_s) < math.inf
    assert 0 <= forecast.offered_load(now) < math.inf
    assert 0 <= forecast.arrivals_per_s(now) < math.inf
