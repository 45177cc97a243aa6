"""What to do next, and nothing else: neither asyncio nor a clock, `now` is an argument.

    admit ─▶ queue ─▶ step, whenever something changes ─▶ Send | Late | Abandoned | Idle
                        ▲ ended, retry, set_slots

The scheduler carries out what comes out, on an event loop; a simulator does, on a virtual clock.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic

from serving.errors import Overloaded
from serving.routing.admission import lateness_s
from serving.routing.forecast import Clear, Forecast
from serving.routing.latency import LatencyModel
from serving.routing.policy.state import (
    Dispatch,
    Drop,
    Lane,
    LaneKey,
    Payload,
    Policy,
    QueuedRequest,
    RouterState,
    VariantState,
    Wait,
    drain_time_s,
)
from serving.routing.queue import DeadlineQueue
from serving.routing.step import Expired, Idle, NoReplica, Send, Step

MAX_ATTEMPTS: Final = 2
"""A batch whose host is lost is sent once more, elsewhere."""

NO_REPLICA_TIMEOUT_S: Final = 30.0
"""How long a request without a deadline waits for a variant whose replicas are all gone."""

MAX_LANES: Final = 64
"""Requests of so many kinds may wait at once: what a decision costs grows with the kinds."""

OVERDUE: Final = 0.1
"""A batch that should be back is expected to take so much longer, in what it typically takes."""

RECENT_ACCURACY_STEP: Final = 0.005
"""Weight of one request in the mean accuracy of late."""


@dataclass(frozen=True, slots=True)
class _Running:
    variant: str
    size: int
    sent: float
    due: float
    """When it is typically back."""

    def left_s(self, now: float) -> float:
        """Return how much longer it is expected to take; one that is overdue takes a while yet."""
        return max(self.due - now, OVERDUE * (self.due - self.sent))


class Planner(Generic[Payload]):
    """The queue, the slots, and what runs on them; asks the policy."""

    def __init__(
        self,
        policy: Policy,
        latency: LatencyModel,
        accuracies: Mapping[str, float],
        *,
        max_batch: int,
        max_queue: int,
        max_lanes: int = MAX_LANES,
        cores: float = math.inf,
    ) -> None:
        """`accuracies` by variant; `cores`: so many batches run at once without slowing any."""
        self._policy = policy
        self._latency = latency
        self._accuracies = dict(sorted(accuracies.items(), key=lambda each: -each[1]))
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._max_lanes = max_lanes
        self._cores = cores
        self._queue = DeadlineQueue[Payload]()
        self._forecast = Forecast()
        self._slots = dict.fromkeys(self._accuracies, 0)
        self._sent = dict.fromkeys(self._accuracies, 0)
        self._last: str | None = None
        self._recent_accuracy = max(self._accuracies.values(), default=0.0)
        self._gone_since: dict[str, float] = {}
        self._numbers = itertools.count()
        self._running: dict[int, _Running] = {}
        self._by_variant: dict[str, set[int]] = {name: set() for name in self._accuracies}

    @property
    def queued(self) -> int:
        """How many requests wait."""
        return len(self._queue)

    def slots(self, variant: str) -> int:
        """Return how many batches a variant's live replicas take at a time."""
        return self._slots.get(variant, 0)

    def set_slots(self, variant: str, slots: int) -> None:
        """Tell how many batches the live replicas of a variant take at a time; 0 if none lives."""
        self._slots[variant] = slots

    def admit(
        self,
        payload: Payload,
        key: LaneKey,
        *,
        size: int,
        deadline: float,
        priority: int,
        now: float,
    ) -> tuple[QueuedRequest[Payload], list[tuple[QueuedRequest[Payload], Overloaded]]]:
        """Queue a request; return it, and those of lower priority that had to go for it.

        Raises `Overloaded` if it would be late, or would make others late that matter as much.
        """
        left_s = deadline - now
        self._forecast.arrived(now, size, left_s, key.variants)
        if not self._queue.has_lane(key) and len(self._queue.lanes) >= self._max_lanes:
            raise Overloaded("requests of too many different shapes are queued; try again later")
        shed: list[tuple[QueuedRequest[Payload], Overloaded]] = []
        try:
            if self.queued >= self._max_queue:
                error = Overloaded(
                    f"the queue is full with {self._max_queue} requests; try again later",
                    retry_after_s=self._drained_in_s(),
                )
                shed.append((self._least_important(priority, error), error))
            if key.has_deadline and self.queued:
                self._make_time(key, size, deadline, priority, now, shed)
        except Overloaded:
            for other, _ in shed:  # in vain
                self._queue.reinsert(other)
            raise
        waiting = self._queue.add(
            payload, key=key, size=size, deadline=deadline, priority=priority, now=now
        )
        return waiting, shed

    def withdraw(self, waiting: QueuedRequest[Payload]) -> bool:
        """Take a request out of the queue; return False if it does not wait any more."""
        return self._queue.remove(waiting)

    def step(self, now: float) -> Step[Payload]:
        """Return the next thing to do; to be called until it is `Idle`."""
        if not self._queue:
            return Idle(math.inf)
        decision = self._policy(self._state(now))
        match decision:
            case Dispatch():
                return self._send(decision, now)
            case Drop(lane):
                (late,) = self._queue.take(lane, 1)
                return Expired(late)
            case Wait(until):
                self._note_gone(now)
                return self._abandoned(now) or Idle(min(until, self._abandon_at()))

    def update_forecast(self, now: float) -> None:
        """Learn from the arrivals of late, if it is time to; best where there is nothing to do."""
        if self._forecast.is_due(now):
            at_once = min(self._cores, sum(self._slots.values()))
            self._forecast.refresh(now, self._clear, at_once)

    def end_batch(self, number: int, now: float, *, is_representative: bool = True) -> None:
        """Tell that a batch has come back; learn how long it took if that is telling."""
        running = self._running.pop(number)
        self._by_variant[running.variant].discard(number)
        if is_representative:
            took_s = now - running.sent
            self._latency.observe(running.variant, running.size, took_s)

    def retry(self, batch: Sequence[QueuedRequest[Payload]]) -> list[QueuedRequest[Payload]]:
        """Queue requests again whose host is gone, at the places they had.

        Returns those that have been through that too often, and are not.
        """
        exhausted = []
        for waiting in batch:
            waiting.attempts += 1
            if waiting.attempts < MAX_ATTEMPTS:
                self._queue.reinsert(waiting)
            else:
                exhausted.append(waiting)
        return exhausted

    def _send(self, decision: Dispatch, now: float) -> Send[Payload]:
        batch: list[QueuedRequest[Payload]] = []
        for place, (lane, count) in enumerate(decision.counts):
            batch += self._queue.take(lane, count, skip=0 if place else decision.skip)
        number = next(self._numbers)
        weight = RECENT_ACCURACY_STEP * len(batch) / (1 + RECENT_ACCURACY_STEP * len(batch))
        self._recent_accuracy += weight * (
            self._accuracies[decision.variant] - self._recent_accuracy
        )
        typical_s = self._latency.times(decision.variant).typical_s(decision.size)
        self._running[number] = _Running(decision.variant, decision.size, now, now + typical_s)
        self._by_variant[decision.variant].add(number)
        self._sent[decision.variant] += 1
        self._last = decision.variant
        return Send(
            number, decision.variant, batch, decision.size, decision.predicted_s, decision.reason
        )

    def _state(self, now: float) -> RouterState:
        return RouterState(
            lanes=self._queue.lanes,
            candidates=self._candidates(now, self._slots),
            now=now,
            free_cores=max(0.0, self._cores - len(self._running)),
            expected_misses=self._forecast.expected_misses,
            p10_slack_s=self._forecast.p10_slack_s,
            arrivals_per_s=self._forecast.arrivals_per_s(now),
            load=self._forecast.load,
            recent_accuracy=self._recent_accuracy,
            last=self._last,
        )

    def _candidates(self, now: float, names: Collection[str]) -> dict[str, VariantState]:
        has_core = len(self._running) + 1 <= self._cores
        core_in_s = 0.0 if has_core else self._next_end_s(self._running, now)
        return {
            name: self._candidate(name, slots, now, has_core, core_in_s)
            for name, slots in self._slots.items()
            if slots and name in names
        }

    def _candidate(
        self, name: str, slots: int, now: float, has_core: bool, core_in_s: float
    ) -> VariantState:
        mine = self._by_variant[name]
        empty = max(0, slots - len(mine))
        slot_in_s = 0.0 if empty else self._next_end_s(mine, now)
        return VariantState(
            name=name,
            accuracy=self._accuracies[name],
            slots=slots,
            free_slots=empty if has_core else 0,
            free_in_s=max(slot_in_s, core_in_s),
            max_batch=self._max_batch,
            times=self._latency.times(name),
            best_case_s=partial(self._latency.best_case_s, name),
            since_last_batch_s=self._latency.since_last_batch_s(name),
            sent=self._sent[name],
        )

    def _next_end_s(self, numbers: Iterable[int], now: float) -> float:
        return min(self._running[number].left_s(now) for number in numbers)

    def _clear(self, variants: tuple[str, ...]) -> Clear:
        """Return how long the fastest of these variants takes for so many samples."""
        alive = [self._latency.times(name) for name in variants if self._slots.get(name)]
        most = self._max_batch
        if not alive:
            return lambda samples: 0.0
        fastest = min(alive, key=lambda times: times.typical_s(most))
        return lambda samples: drain_time_s(fastest.typical_s, samples, most)

    def _make_time(
        self,
        key: LaneKey,
        size: int,
        deadline: float,
        priority: int,
        now: float,
        shed: list[tuple[QueuedRequest[Payload], Overloaded]],
    ) -> None:
        """See that everyone can be in time with one more; raise `Overloaded` if it cannot."""
        left_s = deadline - now
        alive = list(self._candidates(now, key.variants).values())
        if not alive:
            return
        queued = self.queued
        alone_s = lateness_s(alive, 0, size, left_s, self._cores)
        if alone_s > 0:
            raise _late(queued, alone_s)
        checks = [deadline, *(d for d in self._queue.last_deadlines() if deadline < d < math.inf)]
        for due in checks:
            while True:
                ahead = self._queue.samples_before(due, key.variants)
                late_s = lateness_s(alive, ahead, size, due - now, self._cores)
                if late_s <= 0:
                    break
                found = self._least_important(priority, _late(queued, late_s), due, key.variants)
                made_way = Overloaded(
                    f"{queued} requests were queued, and a more important one needed the time; "
                    "try again later",
                    retry_after_s=late_s,
                )
                shed.append((found, made_way))

    def _least_important(
        self,
        priority: int,
        error: Overloaded,
        before: float = math.inf,
        variants: Sequence[str] | None = None,
    ) -> QueuedRequest[Payload]:
        """Take out the least important request; raise `error` if none is less so than this."""
        found = self._queue.take_least_important(priority, before=before, variants=variants)
        if found is None:
            raise error
        return found

    def _drained_in_s(self) -> float:
        """Return about how long it takes to work off what is queued."""
        return sum(self._clear(lane.key.variants)(lane.samples) for lane in self._queue.lanes)

    def _note_gone(self, now: float) -> None:
        for name, slots in self._slots.items():
            if slots:
                self._gone_since.pop(name, None)
            else:
                self._gone_since.setdefault(name, now)

    def _abandoned(self, now: float) -> NoReplica[Payload] | None:
        for lane, gone in self._left_alone():
            count = sum(
                max(gone, each.arrived) + NO_REPLICA_TIMEOUT_S <= now for each in lane.requests
            )
            if count:
                # In order of arrival but for priorities, so about those that came first.
                return NoReplica(self._queue.take(lane, count), lane.key.variants)
        return None

    def _abandon_at(self) -> float:
        """Return when the next request is given up for which nobody is there."""
        waiting = (max(gone, lane.requests[0].arrived) for lane, gone in self._left_alone())
        return min(waiting, default=math.inf) + NO_REPLICA_TIMEOUT_S

    def _left_alone(self) -> Iterator[tuple[Lane, float]]:
        """Yield the lanes without deadlines for which nobody is there, and since when."""
        for lane in self._queue.lanes:
            names = lane.key.variants
            if not lane.key.has_deadline and not any(map(self._slots.get, names)):
                yield lane, max(self._gone_since.get(name, -math.inf) for name in names)


def _late(queued: int, late_s: float) -> Overloaded:
    return Overloaded(
        f"{queued} requests are queued: this one, or one as important, would be about "
        f"{late_s * 1e3:.1f} ms late; try again later or allow more time",
        retry_after_s=late_s,
    )
