"""Invariants of the scheduler under any sequence of events."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serving.dataplane.executor import HostLost
from serving.dataplane.request import RequestResult
from serving.errors import ServingError
from serving.routing.planner import MAX_ATTEMPTS
from tests.serving.dataplane.scheduler_harness import SchedulerHarness
from tests.serving.routing.planner_harness import ANY


class RandomEvents:
    """Requests that arrive and are cancelled, hosts that answer and fail; checks invariants."""

    def __init__(self) -> None:
        self.harness = SchedulerHarness(max_queue=6, dense=1, int8=1)
        self.tasks: dict[str, asyncio.Task[RequestResult[str]]] = {}
        self.cancelled: set[str] = set()
        self.cancelled_in_queue: dict[str, int] = {}
        """Number of inputs that hosts had received when a request was cancelled."""

    def submit(self, number: int) -> None:
        name = f"request {len(self.tasks)}"
        self.tasks[name] = self.harness.submit(
            name,
            within=(math.inf, 0.020, 0.060)[number % 3],
            variants=(ANY, ("dense",), ("int8",))[number // 3 % 3],
            priority=1 + number % 20,
            size=1 + number % 5,
        )

    def cancel(self, number: int) -> None:
        unfinished = [name for name, task in self.tasks.items() if not task.done()]
        if unfinished:
            name = unfinished[number % len(unfinished)]
            held = {each for _, inputs in self.harness.hosts.batches for each in inputs}
            self.tasks[name].cancel()
            self.cancelled.add(name)
            if name not in held:
                self.cancelled_in_queue[name] = len(self.harness.hosts.received)

    def finish(self, number: int) -> None:
        if self.harness.hosts.held:
            self.harness.hosts.finish(number % len(self.harness.hosts.held))

    def lose(self, number: int) -> None:
        if self.harness.hosts.held:
            place = number % len(self.harness.hosts.held)
            self.harness.hosts.fail(HostLost("dense"), place)

    def fail(self, number: int) -> None:
        if self.harness.hosts.held:
            place = number % len(self.harness.hosts.held)
            self.harness.hosts.fail(RuntimeError("at fault"), place)

    def set_slots(self, number: int) -> None:
        self.harness.scheduler.set_slots(ANY[number % 2], number // 2 % 3)

    async def advance(self, number: int = 0) -> None:
        await self.harness.clock.advance(number % 8 * 0.004)
        received = self.harness.hosts.received
        for name, place in self.cancelled_in_queue.items():
            assert name not in received[place:], "sent after its cancellation"

    async def end(self) -> None:
        """Answer all remaining requests, then check the outcome of each request."""
        for name in ANY:
            self.harness.scheduler.set_slots(name, 1)
        await self.advance()
        while not self.harness.scheduler.is_idle:
            self.finish(0)
            await self.advance(1)
        received = self.harness.hosts.received
        for name, task in self.tasks.items():
            assert task.done()
            assert task.cancelled() == (name in self.cancelled)
            assert received.count(name) <= 2 * MAX_ATTEMPTS, "in a batch and alone, twice"
            if name not in self.cancelled and task.exception() is None:
                assert task.result().outputs == f"output of {name}"
                assert name in received
            if not task.cancelled():
                assert isinstance(task.exception(), ServingError | None)
        assert self.harness.scheduler.queued == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["submit", "submit", "cancel", "finish", "lose", "fail", "set_slots"]),
            st.integers(0, 999),
            st.booleans(),
        ),
        max_size=40,
    )
)
async def test_in_any_order_of_events_no_request_is_lost_or_answered_twice(
    steps: list[tuple[str, int, bool]],
) -> None:
    unhandled: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: unhandled.append(context))
    events = RandomEvents()
    for event, number, then_advance in steps:
        getattr(events, event)(number)
        if then_advance:
            await events.advance(number)
    await events.end()
    assert unhandled == []
