from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.dataplane import capacity as module
from serving.dataplane.capacity import BusyTime, Capacity


class Loop:
    """The busy time of an event loop, which a test sets."""

    def __init__(self) -> None:
        self.used_s = 7.0

    def busy_s(self) -> float:
        return self.used_s


def test_the_capacity_is_that_of_a_busy_loop_also_if_the_loop_has_time_to_spare() -> None:
    loop = Loop()
    capacity = Capacity(loop.busy_s)
    capacity.forget()
    assert capacity.per_s == 0
    for _ in range(100):  # 100 answers per second, each of which takes 2 ms
        loop.used_s += 0.02
        capacity.record(10, period_s=0.1)
    assert capacity.per_s == pytest.approx(500)


def test_it_follows_a_slowdown_within_seconds() -> None:
    loop = Loop()
    capacity = Capacity(loop.busy_s)
    capacity.forget()
    for cost_s, number in ((0.001, 50), (0.004, 50)):
        for _ in range(number):
            loop.used_s += 100 * cost_s
            capacity.record(100, period_s=0.1)
    assert capacity.per_s == pytest.approx(250, rel=0.05)


def test_busy_time_without_answers_counts() -> None:
    loop = Loop()
    capacity = Capacity(loop.busy_s)
    capacity.forget()
    loop.used_s += 0.1
    capacity.record(100, period_s=0.1)
    loop.used_s += 0.1
    capacity.record(0, period_s=0.1)
    assert 400 < capacity.per_s < 600


def test_what_was_forgotten_does_not_count() -> None:
    loop = Loop()
    capacity = Capacity(loop.busy_s)
    capacity.forget()
    loop.used_s += 0.1
    capacity.record(100, period_s=0.1)
    loop.used_s += 50
    capacity.forget()
    assert capacity.per_s == 0
    loop.used_s += 0.1
    capacity.record(20, period_s=0.1)
    assert capacity.per_s == pytest.approx(200)


def spin(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


@pytest.mark.parametrize("file", ["schedstat", "none"])
def test_a_thread_is_busy_while_it_runs_and_not_while_it_sleeps(
    monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    if file == "none":
        monkeypatch.setattr(module, "SCHEDSTAT", "/no/such/file")
    busy_s = BusyTime()

    def took(action: Callable[[float], None]) -> float:
        before = busy_s()
        action(0.05)
        return busy_s() - before

    with ThreadPoolExecutor(1) as pool:  # a thread of its own, whose first call opens the file
        spun_s = pool.submit(took, spin).result()
        slept_s = min(pool.submit(took, time.sleep).result() for _ in range(10))
    assert spun_s >= 0.049
    assert slept_s < 0.04
