from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable

import pytest

from loadtests.replay.timer import LoopTimer, Timer, TimerfdTimer, create_timer
from tests.waiting import until

Make = Callable[[Callable[[], None]], Timer]
ALARMS = [
    pytest.param(
        TimerfdTimer,
        id="a file",
        marks=pytest.mark.skipif(sys.platform != "linux", reason="no such files"),
    ),
    pytest.param(LoopTimer, id="a timer of the loop"),
]


@pytest.mark.parametrize("make", ALARMS)
async def test_it_rings_once_after_every_set(make: Make) -> None:
    rang: list[float] = []
    own = make(lambda: rang.append(time.monotonic()))
    for number in range(1, 6):
        at_s = time.monotonic() + 0.003
        own.set(at_s)
        await until(lambda count=number: len(rang) == count)  # type: ignore[misc]
        assert rang[-1] > at_s - 0.001
    await asyncio.sleep(0.01)
    assert len(rang) == 5
    own.close()


@pytest.mark.parametrize("make", ALARMS)
@pytest.mark.parametrize("at_s", [0.0, -1.0, 1.0])
async def test_a_time_that_has_passed_rings_at_once(make: Make, at_s: float) -> None:
    rang = asyncio.Event()
    own = make(rang.set)
    own.set(at_s)
    await asyncio.wait_for(rang.wait(), 60)
    own.close()


@pytest.mark.parametrize("make", ALARMS)
async def test_another_set_replaces_the_last(make: Make) -> None:
    rang: list[float] = []
    own = make(lambda: rang.append(time.monotonic()))
    own.set(0.0)
    at_s = time.monotonic() + 0.02
    own.set(at_s)
    await until(lambda: bool(rang))
    assert rang[0] > at_s - 0.001
    assert len(rang) == 1
    own.close()


@pytest.mark.parametrize("make", ALARMS)
async def test_it_does_not_ring_once_it_is_closed(make: Make) -> None:
    rang: list[float] = []
    own = make(lambda: rang.append(0.0))
    own.set(0.0)
    own.close()
    await asyncio.sleep(0.005)
    assert rang == []


@pytest.mark.skipif(sys.platform != "linux", reason="others have only the loop's")
async def test_the_most_exact_one_never_rings_early() -> None:
    early: list[bool] = []
    own = create_timer(lambda: early.append(time.monotonic() < at_s))
    for number in range(50):
        at_s = time.monotonic() + number * 3e-5
        own.set(at_s)
        await until(lambda: len(early) == number + 1)  # noqa: B023
    assert not any(early)
    own.close()
