"""A scheduler with a clock and hosts that the test controls."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from serving.dataplane.awaiting import ended
from serving.dataplane.executor import BatchResult, OnOutcome
from serving.dataplane.request import RequestResult, Stage
from serving.dataplane.scheduler import Scheduler
from serving.errors import ServingError
from serving.routing.policy.state import LaneKey
from tests.serving.routing.planner_harness import ANY, new_planner


class ManualClock:
    """A clock that moves only when the test advances it."""

    def __init__(self) -> None:
        self.now = 100.0
        self._calls: list[tuple[float, int, ManualTimer]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None], /) -> ManualTimer:
        timer = ManualTimer(callback)
        heapq.heappush(self._calls, (self.now + delay, next(self._numbers), timer))
        return timer

    async def advance(self, seconds: float = 0.0) -> None:
        """Move on by `seconds`; make the calls that become due, and let tasks run in between."""
        until = self.now + seconds
        await settle()
        while self._calls and self._calls[0][0] <= until:
            at, _, timer = heapq.heappop(self._calls)
            self.now = max(self.now, at)
            timer.fire()
            await settle()
        self.now = until


class ManualTimer:
    """A call that `ManualClock.call_later` has scheduled."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self._callback = None

    def fire(self) -> None:
        if self._callback is not None:
            self._callback()


async def settle() -> None:
    """Let the tasks of the loop run until they wait for the clock or for hosts."""
    for _ in range(8):
        await asyncio.sleep(0)


class ManualHosts:
    """Hosts that hold every batch until the test finishes it or lets it fail."""

    def __init__(self) -> None:
        self.held: list[tuple[str, Sequence[str], OnOutcome[Sequence[str]]]] = []
        self.received: list[str] = []

    def run(
        self, variant: str, inputs: Sequence[str], on_outcome: OnOutcome[Sequence[str]]
    ) -> None:
        self.received += inputs
        self.held.append((variant, inputs, on_outcome))

    @property
    def batches(self) -> list[tuple[str, list[str]]]:
        """Variant and inputs of each held batch."""
        return [(variant, list(inputs)) for variant, inputs, _ in self.held]

    def finish(self, place: int = 0) -> None:
        _, inputs, on_outcome = self.held.pop(place)
        on_outcome(BatchResult([f"output of {each}" for each in inputs], 0.001))

    def fail(self, error: Exception, place: int = 0) -> None:
        self.held.pop(place)[2](error)


class SchedulerHarness:
    """A scheduler with a manual clock and manual hosts; it records what the scheduler reports."""

    def __init__(self, max_queue: int = 100, **slots: int) -> None:
        self.clock = ManualClock()
        self.hosts = ManualHosts()
        planner, self.latency = new_planner(self.clock.time, max_queue=max_queue, **slots)
        self.cancelled: list[tuple[Stage, int]] = []
        self.decisions: list[float] = []
        self.scheduler: Scheduler[str, str] = Scheduler(
            planner,
            self.hosts.run,
            self.clock,
            on_decision=self.decisions.append,
            on_cancelled=lambda stage, samples: self.cancelled.append((stage, samples)),
        )

    def submit(
        self,
        inputs: str,
        *,
        within: float = math.inf,
        variants: tuple[str, ...] = ANY,
        priority: int = 10,
        size: int = 1,
    ) -> asyncio.Task[RequestResult[str]]:
        """Submit a request that is due `within` seconds from now."""
        key = LaneKey(variants, has_deadline=within < math.inf)
        return asyncio.create_task(
            submit(
                self.scheduler,
                inputs,
                key,
                size=size,
                deadline=self.clock.now + within,
                priority=priority,
            )
        )


async def submit(
    scheduler: Scheduler[str, str], inputs: str, key: LaneKey, **terms: Any
) -> RequestResult[str]:
    """Return the result of a request. If the caller is cancelled, so is the request."""
    return await ended(
        lambda on_end: scheduler.submit(inputs, key, on_end=on_end, **terms), scheduler.cancel
    )


async def error_of(task: asyncio.Task[RequestResult[str]]) -> ServingError:
    """Return the error of a request; fail the test if it is answered."""
    with pytest.raises(ServingError) as caught:
        await task
    return caught.value
