from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.routing.forecast import (
    MAX_ARRIVAL_AGE_S,
    MAX_ARRIVALS,
    REFRESH_S,
    DrainTime,
    Forecast,
)

ANY = ("dense", "int8")


def one_ms_each(variants: tuple[str, ...]) -> DrainTime:
    return lambda samples: 0.001 * samples


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
        forecast.record_arrival(now, size, left_s if number % 10 else 50 * left_s, ANY)
    forecast.refresh(now, one_ms_each, cores)
    return forecast


EVERY_10_MS: Sequence[float] = np.arange(0, 5, 0.010).tolist()


def test_without_arrivals_no_miss_is_expected() -> None:
    forecast = Forecast()
    assert not forecast.is_refresh_due(0.0)
    assert (forecast.expected_misses(1.0), forecast.arrivals_per_s(1.0)) == (0, 0)


def test_the_arrival_rate_is_that_of_the_recorded_arrivals() -> None:
    forecast = Forecast()
    for number in range(MAX_ARRIVALS):
        forecast.record_arrival(number * 1.0, 1, 1.0, ANY)
    for number in range(MAX_ARRIVALS):
        forecast.record_arrival(1000 + number * 0.01, 3, 1.0, ANY)
    assert forecast.arrivals_per_s(1000 + (MAX_ARRIVALS - 1) * 0.01) == pytest.approx(300)
    later = 1000 + (MAX_ARRIVALS - 1) * 0.02
    assert forecast.arrivals_per_s(later) == pytest.approx(150), "no arrival since"


def test_a_refresh_is_due_after_an_interval_with_arrivals() -> None:
    forecast = Forecast()
    forecast.record_arrival(10.0, 1, 1.0, ANY)
    assert forecast.is_refresh_due(10.0)
    forecast.refresh(10.0, one_ms_each, 1.0)
    assert not forecast.is_refresh_due(10.0 + 2 * REFRESH_S), "no arrival"
    forecast.record_arrival(10.0, 1, 1.0, ANY)
    assert not forecast.is_refresh_due(10.0 + 0.9 * REFRESH_S), "before the interval has passed"
    assert forecast.is_refresh_due(10.0 + 1.1 * REFRESH_S)


def test_a_core_that_is_free_before_the_first_deadline_causes_no_miss() -> None:
    assert forecast_of(EVERY_10_MS).expected_misses(0.010) == pytest.approx(0, abs=1e-6)
    assert forecast_of(EVERY_10_MS).expected_misses(0.015) < 0.1, (
        "linear between two occupation times"
    )


def test_arrivals_while_a_core_is_occupied_are_late() -> None:
    # The k-th request arrives at 10 k ms, is due 20 ms later and ends k ms after the core is free.
    # That is too late for 8 requests after 100 ms and for 20 after 200 ms, except for one in ten.
    forecast = forecast_of(EVERY_10_MS)
    assert forecast.expected_misses(0.100) == pytest.approx(0.9 * 8, abs=1.5)
    assert forecast.expected_misses(0.200) == pytest.approx(0.9 * 20, abs=1.5)


def test_expected_misses_grow_with_the_occupation_time() -> None:
    forecast = forecast_of(EVERY_10_MS)
    expected_misses = [forecast.expected_misses(held_s) for held_s in np.geomspace(1e-7, 10, 200)]
    assert expected_misses == sorted(expected_misses)
    assert forecast.expected_misses(4.0) == pytest.approx(
        2 * forecast.expected_misses(2.0), rel=0.01
    )


def test_bursts_cause_more_misses_than_steady_arrivals_at_the_same_rate() -> None:
    bursts = [start + place * 1e-4 for start in np.arange(0, 5, 0.2) for place in range(20)]
    steady = np.linspace(0, 5, len(bursts)).tolist()
    assert (
        forecast_of(bursts).expected_misses(0.010) > forecast_of(steady).expected_misses(0.010) + 1
    )


def test_larger_requests_cause_more_misses_and_more_cores_fewer() -> None:
    one, large = forecast_of(EVERY_10_MS), forecast_of(EVERY_10_MS, size=8)
    both = forecast_of(EVERY_10_MS, size=8, cores=2)
    assert one.expected_misses(0.030) < both.expected_misses(0.030) < large.expected_misses(0.030)


def test_requests_without_a_deadline_cause_no_misses() -> None:
    assert forecast_of(EVERY_10_MS, left_s=math.inf).expected_misses(1.0) == 0


def test_old_arrivals_are_discarded() -> None:
    forecast = forecast_of(EVERY_10_MS)
    assert forecast.expected_misses(0.1) > 0
    forecast.record_arrival(5 + MAX_ARRIVAL_AGE_S, 1, 0.020, ANY)
    forecast.refresh(5 + MAX_ARRIVAL_AGE_S, one_ms_each, 1.0)
    assert forecast.expected_misses(0.1) == 0


def test_each_request_is_served_by_the_fastest_variant_that_qualifies() -> None:
    def drain_time(variants: tuple[str, ...]) -> DrainTime:
        each_s = 0.001 if "int8" in variants else 0.015
        return lambda samples: each_s * samples

    expected_misses = []
    for variants in (ANY, ("dense",)):
        forecast = Forecast()
        for now in EVERY_10_MS:
            forecast.record_arrival(now, 1, 0.020, variants)
        forecast.refresh(EVERY_10_MS[-1], drain_time, 1.0)
        expected_misses.append(forecast.expected_misses(0.010))
    assert expected_misses[0] < 0.5 < expected_misses[1]


@given(
    st.lists(
        st.tuples(st.floats(0, 0.1), st.integers(1, 64), st.floats(-0.01, 1) | st.just(math.inf)),
        max_size=80,
    ),
    st.floats(1e-9, 10),
    st.integers(1, 4),
)
def test_expected_misses_are_finite_and_not_negative_for_any_arrivals(
    arrivals: list[tuple[float, int, float]], held_s: float, cores: int
) -> None:
    forecast, now = Forecast(), 0.0
    for pause_s, size, left_s in arrivals:
        now += pause_s
        forecast.record_arrival(now, size, left_s, ANY)
    forecast.refresh(now, one_ms_each, float(cores))
    assert 0 <= forecast.expected_misses(held_s) < math.inf
