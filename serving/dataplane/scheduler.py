"""From the deadline queue to the slots of the hosts, and back with an answer.

    submit ─▶ planner, whenever something changes ─▶ run(variant, batch) ─▶ answer

Knows no protocol and no Ray; the clock is an argument. Everything happens on one event loop, so
between two awaits nobody else changes the queue.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeAlias

from serving.dataplane.clock import Clock, Timer
from serving.dataplane.executor import HostLost, Ran, Run
from serving.dataplane.request import PendingRequest, Served, Stage
from serving.errors import DeadlineExceeded, InferenceFailed, NotReady, ServingError
from serving.routing.planner import Abandoned, Idle, Late, Planner, Send
from serving.routing.policy.state import LaneKey, QueuedRequest

logger = logging.getLogger(__name__)

SHORTEST_WAIT_S: Final = 0.0005
"""Between two looks at the queue when nothing happened in between."""

Ending: TypeAlias = Literal["answered", "settled", "apart"]
"""How a batch came back: answered as planned, otherwise settled, or to be run one by one."""


class Scheduler:
    """Carries out what the planner decides: runs batches, answers requests."""

    def __init__(
        self,
        planner: Planner,
        run: Run,
        clock: Clock,
        *,
        on_decision: Callable[[float], None] = lambda took_s: None,
        on_cancelled: Callable[[Stage, int], None] = lambda stage, samples: None,
        on_expired: Callable[[int], None] = lambda samples: None,
    ) -> None:
        self._planner = planner
        self._run = run
        self._clock = clock
        self._on_decision = on_decision
        self._on_cancelled = on_cancelled
        self._on_expired = on_expired
        self._timer: Timer | None = None
        self._is_due = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def queued(self) -> int:
        """How many requests wait."""
        return self._planner.queued

    @property
    def is_idle(self) -> bool:
        """True if nothing waits and nothing runs."""
        return not self._planner.queued and not self._tasks

    def slots(self, variant: str) -> int:
        """Return how many batches a variant's live replicas take at a time."""
        return self._planner.slots(variant)

    def set_slots(self, variant: str, slots: int) -> None:
        """Tell how many batches the live replicas of a variant take at a time; 0 if none lives."""
        self._planner.set_slots(variant, slots)
        self._look_soon()

    async def submit(
        self, payload: Any, key: LaneKey, *, size: int, deadline: float, priority: int
    ) -> Served:
        """Queue one request of `size` samples and return its answer.

        Raises `Overloaded` at once or when a more important request needs its place, or later
        `DeadlineExceeded`, `NotReady`, `InferenceFailed`. Cancelled while it waits, the request
        leaves the queue and is never computed.
        """
        now = self._clock.time()
        future: asyncio.Future[Served] = asyncio.get_running_loop().create_future()
        entry = PendingRequest(payload, future)
        waiting, shed = self._planner.admit(
            entry, key, size=size, deadline=deadline, priority=priority, now=now
        )
        for other, error in shed:
            other.entry.fail(error)
        self._look_soon()
        try:
            return await future
        except asyncio.CancelledError:
            self._leave(waiting)
            raise

    def _leave(self, waiting: QueuedRequest) -> None:
        if self._planner.withdraw(waiting):
            self._look_soon()  # what was planned with it may be different now
        self._on_cancelled(waiting.entry.stage, waiting.size)

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
        while self._planner.queued:
            now = self._clock.time()
            step = self._planner.step(now)
            self._on_decision(self._clock.time() - now)
            match step:
                case Send():
                    self._send(step, now)
                case Late(waiting):
                    self._expire(waiting, now)
                case Abandoned(batch, variants):
                    names = " or ".join(variants)
                    self._fail(batch, NotReady(f"no replica of {names} is alive; try again later"))
                case Idle(until):
                    if until < math.inf:
                        delay_s = max(until - now, SHORTEST_WAIT_S)
                        self._timer = self._clock.call_later(delay_s, self._look)
                    break
        try:
            self._planner.look_back(self._clock.time())
        except Exception:  # what it learns makes better decisions; without, there are decisions yet
            logger.exception("the arrivals could not be learned from")

    def _send(self, send: Send, now: float) -> None:
        task = asyncio.get_running_loop().create_task(self._carry(send, now))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, send: Send, sent: float) -> None:
        # A caller that is leaving in this very turn of the loop could not take its request out.
        batch = [waiting for waiting in send.batch if not waiting.entry.future.done()]
        for waiting in batch:
            waiting.entry.stage = "running"
        ending: Ending = "settled"
        try:
            if batch:
                ending = await self._attempt(send, batch, sent)
            if ending == "apart":
                # One of them may be at fault: it shall pay for it alone.
                for waiting in batch:
                    if not waiting.entry.future.done():
                        await self._attempt(send, [waiting], self._clock.time())
        finally:
            # A batch that was not run as planned says nothing of such batches.
            is_telling = ending == "answered" and len(batch) == len(send.batch)
            self._planner.ended(send.number, self._clock.time(), is_telling=is_telling)
            # At once: the freed slot is filled before the answers are rendered.
            self._look()

    async def _attempt(self, send: Send, batch: Sequence[QueuedRequest], sent: float) -> Ending:
        """Run a batch, and settle its requests unless they should be run one by one."""
        try:
            ran = await self._run(send.variant, [waiting.entry.payload for waiting in batch])
            if len(ran.answers) != len(batch):
                raise ValueError(f"{len(ran.answers)} answers to {len(batch)} requests")
        except HostLost:
            self._send_again(batch)
        except ServingError as refused:
            self._fail(batch, refused)
        except Exception:
            logger.exception("a batch failed", extra={"variant": send.variant})
            if len(batch) > 1:
                return "apart"
            self._fail(batch, InferenceFailed("inference failed; the cause was logged"))
        else:
            self._answer(send, batch, ran, sent)
            return "answered"
        return "settled"

    def _answer(self, send: Send, batch: Sequence[QueuedRequest], ran: Ran, sent: float) -> None:
        took_s = self._clock.time() - sent
        output_s = max(0.0, took_s - ran.input_s - ran.compute_s)
        samples = sum(waiting.size for waiting in batch)
        for waiting, answer in zip(batch, ran.answers, strict=True):
            entry: PendingRequest = waiting.entry
            if entry.future.done():
                continue
            queue_s = sent - waiting.arrived
            entry.future.set_result(
                Served(
                    variant=send.variant,
                    answer=answer,
                    reason=send.reason,
                    batch_size=samples,
                    queue_s=queue_s,
                    predicted_s=queue_s + send.predicted_s,
                    input_s=ran.input_s,
                    compute_s=ran.compute_s,
                    output_s=output_s,
                )
            )

    def _fail(self, batch: Sequence[QueuedRequest], error: ServingError) -> None:
        for waiting in batch:
            waiting.entry.fail(error)

    def _send_again(self, batch: Sequence[QueuedRequest]) -> None:
        # Callers that have gone want no second try.
        here = [waiting for waiting in batch if not waiting.entry.future.done()]
        for waiting in here:
            waiting.entry.stage = "queued"
        hopeless = self._planner.retry(here)
        self._fail(hopeless, InferenceFailed("the host was lost, and then the next one too"))

    def _expire(self, waiting: QueuedRequest, now: float) -> None:
        self._on_expired(waiting.size)
        waited_ms = (now - waiting.arrived) * 1e3
        waiting.entry.fail(
            DeadlineExceeded(
                f"after {waited_ms:.1f} ms in the queue no variant could answer in time any more; "
                "allow more time, or send fewer requests at once"
            )
        )
