"""From the deadline queue to the slots of the hosts, and back with an answer.

    submit ─▶ queue ─▶ policy, whenever something changes ─▶ run(variant, batch) ─▶ answer

Knows no protocol and no Ray; the clock is an argument. Everything happens on one event loop, so
between two awaits nobody else changes the queue.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from serving.admission import time_needed_s
from serving.clock import Clock, Timer
from serving.entry import Entry, Served, Stage
from serving.errors import DeadlineExceeded, InferenceFailed, NotReady, Overloaded, ServingError
from serving.latency import LatencyModel
from serving.policy.situation import Candidate, Dispatch, Drop, Lane, LaneKey, Policy, Wait, Waiting
from serving.queue import DeadlineQueue
from serving.run import HostLost, Ran, Run

logger = logging.getLogger(__name__)

MAX_ATTEMPTS: Final = 2
"""A batch whose host is lost is sent once more, elsewhere."""

PATIENCE_S: Final = 30.0
"""How long a request without a deadline waits for a variant whose replicas are all gone."""

MAX_LANES: Final = 64
"""Requests of so many kinds may wait at once: what a decision costs grows with the kinds."""

SHORTEST_WAIT_S: Final = 0.0005
"""Between two looks at the queue when nothing happened in between."""


class Scheduler:
    """Queues requests and sends them, in batches, to the variants that the policy picks."""

    def __init__(
        self,
        policy: Policy,
        latency: LatencyModel,
        run: Run,
        clock: Clock,
        *,
        max_batch: int,
        max_queue: int,
        max_lanes: int = MAX_LANES,
        on_decision: Callable[[float], None] = lambda took_s: None,
        on_cancelled: Callable[[Stage, int], None] = lambda stage, samples: None,
        on_expired: Callable[[int], None] = lambda samples: None,
    ) -> None:
        self._policy = policy
        self._latency = latency
        self._run = run
        self._clock = clock
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._max_lanes = max_lanes
        self._on_decision = on_decision
        self._on_cancelled = on_cancelled
        self._on_expired = on_expired
        self._queue = DeadlineQueue()
        self._slots: dict[str, int] = {}
        self._in_flight: dict[str, dict[int, float]] = {}
        """By variant: when each batch that its hosts hold is expected back."""
        self._batch_numbers = itertools.count()
        self._timer: Timer | None = None
        self._is_due = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def queued(self) -> int:
        """How many requests wait."""
        return len(self._queue)

    @property
    def is_idle(self) -> bool:
        """True if nothing waits and nothing runs."""
        return not self._queue and not self._tasks

    def slots(self, variant: str) -> int:
        """Return how many batches a variant's live replicas take at a time."""
        return self._slots.get(variant, 0)

    def set_slots(self, variant: str, slots: int) -> None:
        """Tell how many batches the live replicas of a variant take at a time; 0 if none lives."""
        self._slots[variant] = slots
        self._in_flight.setdefault(variant, {})
        self._look_soon()

    async def submit(
        self, payload: Any, key: LaneKey, *, size: int, deadline: float, priority: int
    ) -> Served:
        """Queue one request of `size` samples and return its answer.

        Raises `Overloaded` at once, or later `DeadlineExceeded`, `NotReady`, `InferenceFailed`.
        Cancelled while it waits, the request leaves the queue and is never computed.
        """
        now = self._clock.time()
        if key.has_deadline:
            self._refuse_if_behind(key.variants, size, deadline, now)
        self._make_room(key, priority)
        future: asyncio.Future[Served] = asyncio.get_running_loop().create_future()
        entry = Entry(payload, future, now)
        waiting = self._queue.add(
            entry, key=key, size=size, deadline=deadline, priority=priority, now=now
        )
        self._look_soon()
        try:
            return await future
        except asyncio.CancelledError:
            self._leave(waiting)
            raise

    def _leave(self, waiting: Waiting) -> None:
        if self._queue.remove(waiting):
            self._look_soon()  # what was planned with it may be different now
        self._on_cancelled(waiting.entry.stage, waiting.size)

    def _make_room(self, key: LaneKey, priority: int) -> None:
        if not self._queue.has_lane(key) and len(self._queue.lanes) >= self._max_lanes:
            raise Overloaded("requests of too many different shapes are queued; try again later")
        if self.queued < self._max_queue:
            return
        full = f"the queue is full with {self._max_queue} requests; try again later"
        shed = self._queue.take_least_important(priority)
        if shed is None:
            raise Overloaded(full)
        shed.entry.fail(Overloaded(full))

    def _refuse_if_behind(
        self, variants: tuple[str, ...], size: int, deadline: float, now: float
    ) -> None:
        """Raise `Overloaded` if what is due before leaves no time, even shared by all variants."""
        alive = [self._candidate(name, now) for name in variants if self._slots.get(name)]
        if not alive or (not self.queued and any(candidate.free_slots for candidate in alive)):
            return
        ahead = self._queue.samples_before(deadline, variants)
        late_s = time_needed_s(alive, ahead, size, deadline - now) - (deadline - now)
        if late_s > 0:
            raise Overloaded(
                f"{self.queued} requests are queued: this one would be about "
                f"{late_s * 1e3:.1f} ms late; try again later or allow more time",
                retry_after_s=late_s,
            )

    def _look_soon(self) -> None:
        """Look at the queue once everything that has arrived by now is in it."""
        if not self._is_due:
            self._is_due = True
            self._clock.call_later(0, self._look)

    def _look(self) -> None:
        self._is_due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            now = self._clock.time()
            decision = self._policy(self._queue.lanes, self._candidates(now), now)
            self._on_decision(self._clock.time() - now)
            match decision:
                case Dispatch():
                    self._dispatch(decision, now)
                case Drop(lane):
                    self._drop(lane, now)
                case Wait(until):
                    self._look_again(min(until, self._give_up(now)), now)
                    return

    def _look_again(self, at: float, now: float) -> None:
        if at < math.inf:
            self._timer = self._clock.call_later(max(at - now, SHORTEST_WAIT_S), self._look)

    def _candidates(self, now: float) -> dict[str, Candidate]:
        return {name: self._candidate(name, now) for name, slots in self._slots.items() if slots}

    def _candidate(self, name: str, now: float) -> Candidate:
        slots, in_flight = self._slots[name], self._in_flight[name]
        free_slots = max(0, slots - len(in_flight))
        return Candidate(
            name=name,
            slots=slots,
            free_slots=free_slots,
            free_in_s=0.0 if free_slots else max(0.0, min(in_flight.values()) - now),
            max_batch=self._max_batch,
            predict_s=partial(self._latency.predict_s, name),
            idle_s=partial(self._latency.idle_s, name),
        )

    def _dispatch(self, decision: Dispatch, now: float) -> None:
        taken = [
            waiting for lane, count in decision.counts for waiting in self._queue.take(lane, count)
        ]
        # A caller that is leaving in this very turn of the loop could not take its request out yet.
        batch = [waiting for waiting in taken if not waiting.entry.future.done()]
        if not batch:
            return
        if len(batch) < len(taken):
            decision = replace(decision, size=sum(waiting.size for waiting in batch))
        for waiting in batch:
            waiting.entry.stage = "running"
        number = next(self._batch_numbers)
        self._in_flight[decision.variant][number] = now + decision.predicted_s
        task = asyncio.get_running_loop().create_task(self._carry(decision, batch, number, now))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(
        self, decision: Dispatch, batch: list[Waiting], number: int, sent: float
    ) -> None:
        try:
            if not await self._attempt(decision, batch, sent):
                # One of them may be at fault: it shall pay for it alone.
                for waiting in batch:
                    own = replace(decision, size=waiting.size)
                    if not waiting.entry.future.done():
                        await self._attempt(own, [waiting], self._clock.time())
        finally:
            del self._in_flight[decision.variant][number]
            # At once: the freed slot is filled before the answers are rendered.
            self._look()

    async def _attempt(self, decision: Dispatch, batch: list[Waiting], sent: float) -> bool:
        """Run a batch and settle its requests; False if they should be run one by one."""
        try:
            ran = await self._run(decision.variant, [waiting.entry.payload for waiting in batch])
            if len(ran.answers) != len(batch):
                raise ValueError(f"{len(ran.answers)} answers to {len(batch)} requests")
        except HostLost:
            self._send_again(batch)
        except ServingError as refused:
            self._fail(batch, refused)
        except Exception:
            logger.exception("a batch failed", extra={"variant": decision.variant})
            if len(batch) > 1:
                return False
            self._fail(batch, InferenceFailed("inference failed; the cause was logged"))
        else:
            took_s = self._clock.time() - sent
            self._latency.observe(decision.variant, decision.size, took_s)
            self._answer(decision, batch, ran, sent, took_s)
        return True

    def _answer(
        self, decision: Dispatch, batch: list[Waiting], ran: Ran, sent: float, took_s: float
    ) -> None:
        output_s = max(0.0, took_s - ran.input_s - ran.compute_s)
        for waiting, answer in zip(batch, ran.answers, strict=True):
            entry: Entry = waiting.entry
            if entry.future.done():
                continue
            queue_s = sent - entry.arrived
            entry.future.set_result(
                Served(
                    variant=decision.variant,
                    answer=answer,
                    reason=decision.reason,
                    batch_size=decision.size,
                    queue_s=queue_s,
                    predicted_s=queue_s + decision.predicted_s,
                    input_s=ran.input_s,
                    compute_s=ran.compute_s,
                    output_s=output_s,
                )
            )

    def _fail(self, batch: list[Waiting], error: ServingError) -> None:
        for waiting in batch:
            waiting.entry.fail(error)

    def _send_again(self, batch: list[Waiting]) -> None:
        for waiting in batch:
            entry: Entry = waiting.entry
            entry.attempts += 1
            if entry.future.done():
                continue  # its caller has gone
            if entry.attempts < MAX_ATTEMPTS:
                entry.stage = "queued"
                self._queue.put_back(waiting)
            else:
                entry.fail(InferenceFailed("the host was lost, and then the next one too"))

    def _drop(self, lane: Lane, now: float) -> None:
        (waiting,) = self._queue.take(lane, 1)
        self._on_expired(waiting.size)
        waited_ms = (now - waiting.entry.arrived) * 1e3
        waiting.entry.fail(
            DeadlineExceeded(
                f"after {waited_ms:.1f} ms in the queue no variant could answer in time any more; "
                "allow more time, or send fewer requests at once"
            )
        )

    def _give_up(self, now: float) -> float:
        """Fail requests that waited too long for the dead; return when to look for more."""
        at = math.inf
        for lane in self._queue.lanes:
            if lane.key.has_deadline or any(self._slots.get(name) for name in lane.key.variants):
                continue
            # Without deadlines a lane is in order of arrival, but for priorities.
            oldest = min(waiting.entry.arrived for waiting in lane.requests)
            if oldest + PATIENCE_S > now:
                at = min(at, oldest + PATIENCE_S)
                continue
            names = " or ".join(lane.key.variants)
            self._fail(
                self._queue.take(lane, len(lane.requests)),
                NotReady(f"no replica of {names} is alive; try again later"),
            )
        return at
