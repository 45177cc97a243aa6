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


def forecast(
    arrivals: Iterable[float],
    left_s: float = 0.020,
    size: int = 1,
    *,
    cores: float = 1.0,
) -> Forecast:
    """What came at these times, refreshed at the last of them; every tenth can wait for long."""
    made, now = Forecast(), 0.0
    for number, now in enumerate(arrivals):
        made.record_arrival(now, size, left_s if number % 10 else 50 * left_s, ANY)
    made.refresh(now, one_ms_each, cores)
    return made


EVERY_10_MS: Sequence[float] = np.arange(0, 5, 0.010).tolist()


def test_without_arrivals_nothing_is_lost() -> None:
    made = Forecast()
    assert not made.is_refresh_due(0.0)
    assert (made.expected_misses(1.0), made.arrivals_per_s(1.0)) == (0, 0)


def test_samples_per_second_are_those_of_what_is_remembered() -> None:
    made = Forecast()
    for number in range(MAX_ARRIVALS):
        made.record_arrival(number * 1.0, 1, 1.0, ANY)
    for number in range(MAX_ARRIVALS):
        made.record_arrival(1000 + number * 0.01, 3, 1.0, ANY)
    assert made.arrivals_per_s(1000 + (MAX_ARRIVALS - 1) * 0.01) == pytest.approx(300)
    later = 1000 + (MAX_ARRIVALS - 1) * 0.02
    assert made.arrivals_per_s(later) == pytest.approx(150), "and then none came"


def test_it_is_refreshed_now_and_then_if_anything_came() -> None:
    made = Forecast()
    made.record_arrival(10.0, 1, 1.0, ANY)
    assert made.is_refresh_due(10.0)
    made.refresh(10.0, one_ms_each, 1.0)
    assert not made.is_refresh_due(10.0 + 2 * REFRESH_S), "nothing came"
    made.record_arrival(10.0, 1, 1.0, ANY)
    assert not made.is_refresh_due(10.0 + 0.9 * REFRESH_S), "not yet"
    assert made.is_refresh_due(10.0 + 1.1 * REFRESH_S)


def test_a_core_that_is_free_before_the_first_is_due_costs_nobody() -> None:
    assert forecast(EVERY_10_MS).expected_misses(0.010) == pytest.approx(0, abs=1e-6)
    assert forecast(EVERY_10_MS).expected_misses(0.015) < 0.1, (
        "between two holding times it is linear"
    )


def test_a_core_that_is_held_makes_those_late_that_come_meanwhile() -> None:
    # The k-th of them comes at 10 k ms, is due 20 ms later, and done k ms after the core is free:
    # for 100 ms that is too late for eight of them, for 200 ms for twenty, but one in ten can wait.
    made = forecast(EVERY_10_MS)
    assert made.expected_misses(0.100) == pytest.approx(0.9 * 8, abs=1.5)
    assert made.expected_misses(0.200) == pytest.approx(0.9 * 20, abs=1.5)


def test_holding_a_core_longer_costs_more_for_ever() -> None:
    made = forecast(EVERY_10_MS)
    expected_misses = [made.expected_misses(held_s) for held_s in np.geomspace(1e-7, 10, 200)]
    assert expected_misses == sorted(expected_misses)
    assert made.expected_misses(4.0) == pytest.approx(2 * made.expected_misses(2.0), rel=0.01)


def test_bursts_lose_more_than_a_steady_stream_of_the_same_rate() -> None:
    bursts = [start + place * 1e-4 for start in np.arange(0, 5, 0.2) for place in range(20)]
    steady = np.linspace(0, 5, len(bursts)).tolist()
    assert forecast(bursts).expected_misses(0.010) > forecast(steady).expected_misses(0.010) + 1


def test_larger_requests_lose_more_and_more_cores_less() -> None:
    one, large = forecast(EVERY_10_MS), forecast(EVERY_10_MS, size=8)
    both = forecast(EVERY_10_MS, size=8, cores=2)
    assert one.expected_misses(0.030) < both.expected_misses(0.030) < large.expected_misses(0.030)


def test_requests_without_a_deadline_cannot_be_late() -> None:
    assert forecast(EVERY_10_MS, left_s=math.inf).expected_misses(1.0) == 0


def test_what_came_long_ago_is_forgotten() -> None:
    made = forecast(EVERY_10_MS)
    assert made.expected_misses(0.1) > 0
    made.record_arrival(5 + MAX_ARRIVAL_AGE_S, 1, 0.020, ANY)
    made.refresh(5 + MAX_ARRIVAL_AGE_S, one_ms_each, 1.0)
    assert made.expected_misses(0.1) == 0


def test_each_is_served_by_the_fastest_variant_of_its_own() -> None:
    def clear(variants: tuple[str, ...]) -> DrainTime:
        each_s = 0.001 if "int8" in variants else 0.015
        return lambda samples: each_s * samples

    expected_misses = []
    for variants in (ANY, ("dense",)):
        made = Forecast()
        for now in EVERY_10_MS:
            made.record_arrival(now, 1, 0.020, variants)
        made.refresh(EVERY_10_MS[-1], clear, 1.0)
        expected_misses.append(made.expected_misses(0.010))
    assert expected_misses[0] < 0.5 < expected_misses[1]


@given(
    st.lists(
        st.tuples(st.floats(0, 0.1), st.integers(1, 64), st.floats(-0.01, 1) | st.just(math.inf)),
        max_size=80,
    ),
    st.floats(1e-9, 10),
    st.integers(1, 4),
)
def test_losses_are_a_number_of_requests_whatever_came(
    arrivals: list[tuple[float, int, float]], held_s: float, cores: int
) -> None:
    made, now = Forecast(), 0.0
    for pause_s, size, left_s in arrivals:
        now += pause_s
        made.record_arrival(now, size, left_s, ANY)
    made.refresh(now, one_ms_each, float(cores))
    assert 0 <= made.expected_misses(held_s) < math.inf
