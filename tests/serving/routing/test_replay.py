from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from serving.routing.arrivals import Arrival
from serving.routing.replay import WINDOW_ARRIVALS, Replay

EVERY_10_MS: Sequence[float] = (0.010 * np.arange(500)).tolist()


def replay_of(
    arrivals: Iterable[float], left_s: float = 0.020, size: int = 1, *, cores: float = 1.0
) -> Replay:
    """Return a replay of requests at these times; a sample takes 1 ms.

    Every tenth request allows 50 times as much time as the others.
    """
    requests = [
        Arrival(at, size, left_s if number % 10 else 50 * left_s, ("dense",))
        for number, at in enumerate(arrivals)
    ]
    drain_s = np.array([[0.001 * count / cores for count in range(1, WINDOW_ARRIVALS + 1)]])
    return Replay(requests, [0] * len(requests), drain_s)


def bursts(seconds: float, pause_s: float = 0.2) -> list[float]:
    """Return the arrivals of 20 requests within 2 ms every `pause_s`."""
    starts = np.arange(0, seconds, pause_s)
    return [start + place * 1e-4 for start in starts for place in range(20)]


def test_a_core_that_is_free_before_the_first_deadline_causes_no_miss() -> None:
    misses = replay_of(EVERY_10_MS).expected_misses(0.0)
    assert misses(0.010) == pytest.approx(0, abs=1e-6)
    assert misses(0.015) < 0.1, "linear between two occupation times"


def test_arrivals_while_a_core_is_occupied_are_late() -> None:
    # The k-th request arrives at 10 k ms, is due 20 ms later and ends k ms after the core is free.
    # That is too late for 8 requests after 100 ms and for 20 after 200 ms, except for one in ten.
    misses = replay_of(EVERY_10_MS).expected_misses(0.0)
    assert misses(0.100) == pytest.approx(0.9 * 8, abs=1.5)
    assert misses(0.200) == pytest.approx(0.9 * 20, abs=2)


def test_expected_misses_grow_with_the_occupation_time() -> None:
    for silence_s in (0.0, 0.003, 0.009):
        misses = replay_of(EVERY_10_MS).expected_misses(silence_s)
        values = [misses(held_s) for held_s in np.geomspace(1e-7, 10, 200)]
        assert values == sorted(values)
        assert misses(4.0) == pytest.approx(2 * misses(2.0), rel=0.01)


def test_misses_grow_beyond_the_last_arrival_of_a_window() -> None:
    # Windows of 64 requests end after 64 ms.
    misses = replay_of((0.001 * np.arange(500)).tolist(), left_s=0.002).expected_misses(0.0)
    assert misses(0.120) > 1.5 * misses(0.060) > 60


def test_bursts_cause_more_misses_than_steady_arrivals_at_the_same_rate() -> None:
    steady = np.linspace(0, 5, len(bursts(5))).tolist()
    in_burst, in_steady = (replay_of(at).expected_misses(0.0) for at in (bursts(5), steady))
    assert in_burst(0.020) > in_steady(0.020) + 1


def test_larger_requests_cause_more_misses_and_more_cores_fewer() -> None:
    one, large, both = (
        replay_of(EVERY_10_MS, size=size, cores=cores).expected_misses(0.0)(0.030)
        for size, cores in ((1, 1.0), (8, 1.0), (8, 2.0))
    )
    assert one < both < large


def test_no_miss_is_expected_after_a_silence_longer_than_all_gaps() -> None:
    replay = replay_of(EVERY_10_MS)
    assert replay.expected_misses(0.009)(0.1) > 0
    assert replay.expected_misses(0.011)(0.1) == 0
    assert replay.expected_misses(math.inf)(0.1) == 0


@pytest.mark.parametrize("period_s", [0.1, 2.0])
def test_a_periodic_request_is_expected_shortly_before_it_arrives(period_s: float) -> None:
    # The core is occupied for 50 ms, and the request allows 20 ms.
    replay = replay_of((period_s * np.arange(15)).tolist())
    assert replay.expected_misses(0.0)(0.050) == 0
    assert replay.expected_misses(0.5 * period_s)(0.020) == 0
    assert 0.5 < replay.expected_misses(period_s - 0.001)(0.050) <= 1
    assert replay.expected_misses(1.1 * period_s)(0.050) == 0


def test_between_two_bursts_the_next_one_is_expected_at_its_time() -> None:
    replay = replay_of(bursts(5))
    assert replay.expected_misses(0.0)(0.030) > 1, "within a burst"
    assert replay.expected_misses(0.010)(0.030) == 0, "just after it"
    assert replay.expected_misses(0.190)(0.050) > 3, "just before the next one"
    assert replay.expected_misses(0.300)(0.050) == 0, "after the last one"


def test_a_request_may_never_follow() -> None:
    # Of two gaps one is longer than the silence. It is as likely as that no request follows.
    replay = replay_of([0.0, 0.010, 1.0, 1.9])
    assert replay.expected_misses(0.980)(0.100) == pytest.approx(0.5, abs=0.1)
