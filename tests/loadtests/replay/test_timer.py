from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable

import pytest

from loadtests.replay.timer import LoopTimer, Timer, TimerfdTimer, create_timer
from tests.waiting import until

Make = Callable[[Callable[[], None]], Timer]
TIMERS = [
    pytest.param(
        TimerfdTimer,
        id="timerfd",
        marks=pytest.mark.skipif(sys.platform != "linux", reason="timerfd requires Linux"),
    ),
    pytest.param(LoopTimer, id="event loop"),
]


@pytest.mark.parametrize("make", TIMERS)
async def test_a_timer_expires_once_after_every_set(make: Make) -> None:
    expiries: list[float] = []
    timer = make(lambda: expiries.append(time.monotonic()))
    for number in range(1, 6):
        at_s = time.monotonic() + 0.003
        timer.set(at_s)
        await until(lambda count=number: len(expiries) == count)  # type: ignore[misc]
        assert expiries[-1] > at_s - 0.001
    await asyncio.sleep(0.01)
    assert len(expiries) == 5
    timer.close()


@pytest.mark.parametrize("make", TIMERS)
@pytest.mark.parametrize("at_s", [0.0, -1.0, 1.0])
async def test_a_past_time_expires_at_once(make: Make, at_s: float) -> None:
    expiries = asyncio.Event()
    timer = make(expiries.set)
    timer.set(at_s)
    await asyncio.wait_for(expiries.wait(), 60)
    timer.close()


@pytest.mark.parametrize("make", TIMERS)
async def test_setting_a_timer_replaces_the_time_set_before(make: Make) -> None:
    expiries: list[float] = []
    timer = make(lambda: expiries.append(time.monotonic()))
    timer.set(0.0)
    at_s = time.monotonic() + 0.02
    timer.set(at_s)
    await until(lambda: bool(expiries))
    assert expiries[0] > at_s - 0.001
    assert len(expiries) == 1
    timer.close()


@pytest.mark.parametrize("make", TIMERS)
async def test_a_closed_timer_does_not_expire(make: Make) -> None:
    expiries: list[float] = []
    timer = make(lambda: expiries.append(0.0))
    timer.set(0.0)
    timer.close()
    await asyncio.sleep(0.005)
    assert expiries == []


@pytest.mark.skipif(sys.platform != "linux", reason="timerfd requires Linux")
async def test_the_most_precise_timer_never_expires_early() -> None:
    early: list[bool] = []
    timer = create_timer(lambda: early.append(time.monotonic() < at_s))
    for number in range(50):
        at_s = time.monotonic() + number * 3e-5
        timer.set(at_s)
        await until(lambda: len(early) == number + 1)  # noqa: B023
    assert not any(early)
    timer.close()
