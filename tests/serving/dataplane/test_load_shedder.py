from __future__ import annotations

import math
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.dataplane.capacity import Capacity
from serving.dataplane.load_shedder import (
    MAX_WAIT_S,
    MEMORY_S,
    MIN_LIMIT,
    MIN_PERIOD_S,
    LoadShedder,
)
from serving.routing.slo import DEFAULT_PRIORITY

ALLOWED_S = 0.050


class LoadedGateway:
    """A gateway that serves `rate` requests per second in order of arrival, and its clients.

    Each client sends the next request when it is answered, or `retry_s` after it was refused.
    """

    def __init__(self, rate: float, clients: int, retry_s: float = 0.1) -> None:
        self.busy_s = 0.0
        self.shedder = LoadShedder(Capacity(lambda: self.busy_s))
        self.now = 50.0
        self.cost_s = 1 / rate
        self.pause_s = 0.0
        """Time from an answer until the client sends its next request, in seconds."""
        self._retry_s = retry_s
        self._waiting: deque[float] = deque()
        self._coming = [self.now] * clients

    def run(self, seconds: float) -> tuple[int, int, int]:
        """Return how many requests were answered in time, late, and refused."""
        until, in_time, late, refused = self.now + seconds, 0, 0, 0
        while self.now < until:
            coming = [at for at in self._coming if at <= self.now]
            self._coming = [at for at in self._coming if at > self.now]
            for at in coming:
                if self.shedder.is_open(self.now, self.now - at, DEFAULT_PRIORITY):
                    self.shedder.enter(DEFAULT_PRIORITY)
                    self.shedder.record_allowed(ALLOWED_S)
                    self._waiting.append(at)
                else:
                    refused += 1
                    self._coming.append(self.now + self._retry_s)
            self.now += self.cost_s
            if self._waiting:
                self.busy_s += self.cost_s
                took_s = self.now - self._waiting.popleft()
                self.shedder.leave(DEFAULT_PRIORITY)
                self.shedder.record_answer(self.now, took_s, is_late=took_s > ALLOWED_S)
                in_time, late = in_time + (took_s <= ALLOWED_S), late + (took_s > ALLOWED_S)
                self._coming.append(self.now + self.pause_s)
        return in_time, late, refused


@pytest.mark.parametrize("clients", [1, 16, 64, 128, 512, 2048])
@pytest.mark.parametrize("rate", [500, 2_000, 10_000])
def test_a_busy_gateway_answers_at_its_capacity_and_in_time(rate: int, clients: int) -> None:
    gateway = LoadedGateway(rate, clients)
    gateway.run(0.5 + clients / rate)  # what came before the first answer is served, late
    in_time, late, _ = gateway.run(1.0)
    assert in_time >= 0.9 * rate
    assert late <= 0.05 * rate


def test_a_gateway_with_time_to_spare_refuses_nothing() -> None:
    gateway = LoadedGateway(2_000, clients=20)  # each waits 10 of 50 ms
    assert gateway.run(2.0)[1:] == (0, 0)


def test_the_limit_follows_a_slowdown_and_its_end_within_a_second() -> None:
    gateway = LoadedGateway(2_000, clients=300)
    gateway.run(1.0)
    gateway.cost_s *= 4
    gateway.run(1.0)
    assert gateway.run(1.0)[0] >= 0.9 * 500
    gateway.cost_s /= 4
    gateway.run(1.0)
    assert gateway.run(1.0)[0] >= 0.9 * 2_000


def full(limit: float, **inside: int) -> LoadShedder:
    """Return a shedder at its limit; `inside` has the number of requests by priority."""
    shedder = LoadShedder()
    assert shedder.is_open(1.0, 0.0, DEFAULT_PRIORITY)
    shedder.limit = limit
    for rank, count in inside.items():
        for _ in range(count):
            shedder.enter(int(rank.removeprefix("p")))
    return shedder


@pytest.mark.parametrize(
    ("inside", "rank", "is_open"),
    [
        pytest.param({"p10": 9}, 10, True, id="below the limit"),
        pytest.param({"p10": 10}, 10, False, id="at the limit"),
        pytest.param({"p10": 10}, 9, True, id="lower priorities do not count"),
        pytest.param({"p10": 10}, 11, False, id="higher priorities count"),
        pytest.param({"p1": 4, "p10": 6}, 10, False, id="all together"),
        pytest.param({"p1": 10, "p10": 6}, 1, False, id="the limit holds for the highest too"),
    ],
)
def test_lower_priorities_are_turned_away_first(
    inside: dict[str, int], rank: int, is_open: bool
) -> None:
    assert full(10, **inside).is_open(1.0, 0.0, rank) is is_open


def test_requests_that_leave_make_room() -> None:
    shedder = full(8, p10=8)
    assert not shedder.is_open(1.0, 0.0, 10)
    shedder.leave(10)
    assert shedder.inside == 7
    assert shedder.is_open(1.0, 0.0, 10)


def test_requests_that_fail_at_once_keep_their_places_for_a_while() -> None:
    shedder = full(8)
    for _ in range(4):
        shedder.record_allowed(ALLOWED_S)
    for _ in range(4):  # the gateway needs all of the time that they allow
        shedder.record_answer(1.03, ALLOWED_S, is_late=False)
    shedder.limit = 8
    for _ in range(8):
        assert shedder.is_open(1.031, 0.0, 10)
        shedder.enter(10)
        shedder.record_failure(1.031, 10, ALLOWED_S)
        shedder.leave(10)
    assert not shedder.is_open(1.032, 0.0, 10)
    assert shedder.is_open(1.031 + ALLOWED_S, 0.0, 10)
    assert shedder.inside == 0


def test_a_gateway_that_only_fails_is_limited_although_it_answers_nothing() -> None:
    shedder = LoadShedder()
    shedder.is_open(1.0, 0.0, 10)
    for number in range(100):
        now = 1.0 + number / 1_000
        shedder.enter(10)
        shedder.record_allowed(ALLOWED_S)
        shedder.record_failure(now, 10, 0.030)
        shedder.leave(10)
    assert shedder.limit == MIN_LIMIT


def test_the_limit_grows_while_those_inside_wait_for_something_else() -> None:
    shedder = full(16, p10=16)
    shedder.record_failure(1.0, 10, 0.0)
    assert not shedder.is_open(1.0, 0.0, 10)
    assert shedder.is_open(1.0 + 2 * MIN_PERIOD_S, 0.0, 10)
    assert shedder.limit == 16 + 4


@pytest.mark.parametrize(
    ("age_s", "allowed_s", "is_open"),
    [
        pytest.param(0.020, None, True, id="young enough"),
        pytest.param(0.040, None, False, id="older than three quarters of what others allow"),
        pytest.param(0.040, 1.0, True, id="this one allows more"),
        pytest.param(0.004, 0.005, False, id="this one allows less"),
        pytest.param(0.040, math.inf, True, id="without a deadline"),
    ],
)
def test_a_request_that_has_waited_too_long_is_not_read(
    age_s: float, allowed_s: float | None, is_open: bool
) -> None:
    shedder = LoadShedder()
    shedder.is_open(1.0, 0.0, 10)
    for number in range(8):
        shedder.record_allowed(ALLOWED_S)
        shedder.record_answer(1.0 + number / 10, 0.001, is_late=False)
    assert shedder.is_open(1.8, age_s, 10, allowed_s) is is_open


def test_a_request_may_be_older_the_fewer_are_inside() -> None:
    shedder = full(16, p10=8)
    for _ in range(4):
        shedder.record_allowed(ALLOWED_S)
        shedder.record_answer(1.03, ALLOWED_S, is_late=False)
    shedder.limit = 16
    assert shedder.is_open(1.031, 0.7 * ALLOWED_S, 10)
    for _ in range(7):
        shedder.enter(10)
    assert shedder.is_open(1.032, 0.4 * ALLOWED_S, 10)
    assert not shedder.is_open(1.032, 0.7 * ALLOWED_S, 10)


def test_requests_that_have_failed_do_not_keep_out_old_ones_for_good() -> None:
    shedder = full(8)
    for _ in range(8):
        shedder.record_allowed(ALLOWED_S)
        shedder.enter(10)
        shedder.record_failure(1.031, 10, ALLOWED_S)
        shedder.leave(10)
    assert not shedder.is_open(1.032, 0.7 * ALLOWED_S, 10)
    assert shedder.is_open(1.031 + MAX_WAIT_S, 0.7 * ALLOWED_S, 10)


def test_after_a_pause_the_limit_is_what_the_gateway_could_answer() -> None:
    gateway = LoadedGateway(2_000, clients=10, retry_s=math.inf)
    gateway.pause_s = 0.045  # each client waits as long: 220 requests per second, a ninth
    gateway.run(2.0)
    gateway.now += 0.03
    gateway.run(0.1)
    assert gateway.shedder.limit >= 0.2 * 2_000 * ALLOWED_S


def test_without_deadlines_nothing_is_turned_away() -> None:
    shedder = LoadShedder()
    for number in range(500):
        now = number / 100
        assert shedder.is_open(now, 5.0, 10)
        shedder.enter(10)
        shedder.record_allowed(math.inf)
        shedder.record_answer(now, 5.0, is_late=False)


def test_the_limit_is_forgotten_after_a_silence() -> None:
    shedder = full(MIN_LIMIT, p10=20)
    assert not shedder.is_open(1.0 + MEMORY_S, 0.0, 10)
    assert shedder.is_open(2.1 + MEMORY_S, 0.0, 10)


@given(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 10), st.floats(0.001, 10)), max_size=200))
def test_the_limit_stays_in_its_bounds(events: list[tuple[float, float, float]]) -> None:
    shedder, now = LoadShedder(), 0.0
    for pause_s, delay_s, allowed_s in events:
        now += pause_s
        if shedder.is_open(now, 0.0, 10):
            shedder.enter(10)
            shedder.record_allowed(allowed_s)
            shedder.record_answer(now, delay_s, is_late=delay_s > allowed_s)
        assert shedder.limit >= MIN_LIMIT
