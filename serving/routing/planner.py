"""The planner decides what to do next. It has no event loop and no clock: `now` is an argument.

    admit ─▶ queue ─▶ step, after every change ─▶ Send | Expired | NoReplica | Shadow | Idle
                        ▲ end_batch, retry, set_slots

The scheduler carries out the steps on an event loop, the simulator on a virtual clock.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, Generic

from serving.errors import Overloaded
from serving.routing.arrivals import Arrival
from serving.routing.exploration import Exploration
from serving.routing.forecast import DrainTime, Forecast
from serving.routing.generation import variant_name
from serving.routing.latency import LatencyModel
from serving.routing.outage import OUTAGE_S, RESTART_S, Outages, not_ready
from serving.routing.policy.state import (
    Dispatch,
    Drop,
    LaneKey,
    Payload,
    Policy,
    QueuedRequest,
    RouterState,
    Wait,
    drain_time_s,
)
from serving.routing.queue import DeadlineQueue
from serving.routing.shedding import Shedding
from serving.routing.slots import VariantSlots
from serving.routing.step import Expired, Idle, NoReplica, Send, Shadow, Step

MAX_ATTEMPTS: Final = 2
"""Maximum number of times a request is sent. One whose host is lost is sent once more."""

MAX_LANES: Final = 64
"""Maximum number of lanes. The time of a decision grows with their number."""

RECENT_ACCURACY_WEIGHT: Final = 0.005
"""Weight of one request in the moving average of the accuracy."""


class Planner(Generic[Payload]):
    """Holds the queue, the slots and the forecast, and calls the policy."""

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
        """`accuracies` maps variants to the accuracies of their tiers; `cores` is the number of
        batches that run at once without slowing each other down.
        """
        self._policy = policy
        self._latency = latency
        self._accuracies = _best_first(accuracies)
        self.max_batch = max_batch
        """Maximum number of samples of a batch."""
        self._max_queue = max_queue
        self._max_lanes = max_lanes
        self._queue = DeadlineQueue[Payload]()
        self._forecast = Forecast()
        self._slots = VariantSlots(latency, self._accuracies, max_batch=max_batch, cores=cores)
        self._exploration = Exploration[Payload](latency, self._slots)
        self._outages = Outages(self._queue, self._slots)
        self._shedding = Shedding(self._queue, self._slots, cores)
        self._last_variant: str | None = None
        self._recent_accuracy = max(self._accuracies.values(), default=0.0)

    @property
    def queued(self) -> int:
        """Number of queued requests."""
        return len(self._queue)

    @property
    def has_full_batch(self) -> bool:
        """Whether as many requests are queued as a batch may have samples."""
        return len(self._queue) >= self.max_batch

    def set_variants(self, accuracies: Mapping[str, float]) -> None:
        """Route to these variants from now on; they map to the accuracies of their tiers.

        New ones have no slots yet. The forecast expects that requests for which a removed
        generation qualified will be served by another generation of the variant, if there is one.
        Raises `ValueError` if a variant that is left out `is_in_use`.
        """
        removed = [name for name in self._accuracies if name not in accuracies]
        in_use = [name for name in removed if self.is_in_use(name)]
        if in_use:
            raise ValueError(f"requests or batches of {', '.join(in_use)} are in progress")
        if not self._accuracies:
            self._recent_accuracy = max(accuracies.values(), default=0.0)
        self._accuracies = _best_first(accuracies)
        self._slots.set_variants(self._accuracies)
        self._exploration.forget_others()
        if removed:
            generations = {variant_name(key): key for key in accuracies}
            self._forecast.replace_variants(
                {key: generations.get(variant_name(key)) for key in removed}
            )

    def is_in_use(self, variant: str) -> bool:
        """Return whether a batch runs on a variant, or it qualifies for a queued request."""
        return self._slots.is_running(variant) or any(
            variant in lane.key.variants for lane in self._queue.lanes
        )

    def slots(self, variant: str) -> int:
        """Return how many batches the live replicas of a variant run at a time."""
        return self._slots[variant]

    def set_slots(self, variant: str, slots: int) -> None:
        """Set how many batches the live replicas of a variant run at a time; 0 without replicas.

        Raises `KeyError` for a variant that requests are not routed to.
        """
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
        """Queue a request. Return it and the requests of lower priority that are shed for it.

        Raises `Overloaded` if the request would be late, or would make other requests of the same
        or a higher priority late; `NotReady` if no replica of its variants will be alive in time.
        """
        arrival = Arrival(now, size, deadline - now, key.variants)
        self._forecast.record_offered(arrival)
        since = self._outages.unavailable_since(key.variants, now)
        if since is not None and (now >= since + OUTAGE_S or deadline < now + RESTART_S):
            raise not_ready(key.variants, since, now)
        queue = self._queue
        is_behind = bool(queue) or not self._slots.has_free(key.variants)
        if queue.lane_count >= self._max_lanes and not queue.has_lane(key):
            raise Overloaded("requests of too many different shapes are queued; try again later")
        shed: list[tuple[QueuedRequest[Payload], Overloaded]] = []
        try:
            if len(queue) >= self._max_queue:
                error = Overloaded(
                    f"the queue is full with {self._max_queue} requests; try again later",
                    retry_after_s=self._queue_drain_time_s(),
                )
                shed.append((self._shedding.take_least_important(priority, error), error))
            # With an empty queue it is tried, even if all hosts are busy: the next batch would be
            # smaller without it, and the estimate may be too high.
            if key.has_deadline and queue:
                self._shedding.shed_until_in_time(key, size, deadline, priority, now, shed)
        except Overloaded:
            for other, _ in shed:  # the new request is not admitted, so none is shed for it
                queue.reinsert(other)
            raise
        self._forecast.record_admitted(arrival)
        request = queue.add(
            payload,
            key=key,
            size=size,
            deadline=deadline,
            priority=priority,
            now=now,
            is_behind=is_behind,
        )
        return request, shed

    def withdraw(self, request: QueuedRequest[Payload]) -> bool:
        """Remove a request from the queue; return False if it is no longer queued."""
        return self._queue.remove(request)

    def step(self, now: float) -> Step[Payload]:
        """Return the next step. Call again until it is `Idle`."""
        self._slots.record_outages(now)
        if not self._queue:
            return self._explore(now) or Idle(math.inf)
        decision = self._policy(self._state(now))
        match decision:
            case Dispatch():
                return self._send(decision, now)
            case Drop(lane):
                variants = lane.key.variants
                since = self._outages.unavailable_since(variants, now)
                (request,) = self._queue.take(lane, 1)
                if since is not None:
                    return NoReplica([request], variants, not_ready(variants, since, now))
                live = filter(self._slots.__getitem__, variants)
                best_case_s = self._latency.best_case_s
                return Expired(request, min(best_case_s(name, request.size) for name in live))
            case Wait(until):
                return self._outages.take_timed_out(now) or Idle(
                    min(until, self._outages.next_timeout_at(now))
                )

    def update_forecast(self, now: float) -> None:
        """Recompute the forecast from recent arrivals if it is due. Call this when idle."""
        if self._forecast.is_refresh_due(now):
            self._forecast.refresh(now, self._drain_time, self._slots.concurrency)

    def end_batch(
        self,
        number: int,
        now: float,
        *,
        host_s: float | None = None,
        is_representative: bool = True,
    ) -> None:
        """Record the end of a batch. Learn its time if it is representative of its size.

        A batch is representative if it was answered as planned.

        `host_s` is the time that the host computed; see `LatencyModel.observe`.
        """
        running = self._slots.end(number)
        self._exploration.record_end(number, now, is_answered=is_representative)
        if is_representative:
            took_s = now - running.sent
            self._latency.observe(running.variant, running.size, took_s, host_s)

    def retry(self, batch: Sequence[QueuedRequest[Payload]]) -> list[QueuedRequest[Payload]]:
        """Queue the requests of a lost host again, at their former positions.

        Returns the requests that have no attempt left. They are not queued.
        """
        exhausted = []
        for request in batch:
            request.attempts += 1
            if request.attempts < MAX_ATTEMPTS:
                self._queue.reinsert(request)
            else:
                exhausted.append(request)
        return exhausted

    def _send(self, decision: Dispatch, now: float) -> Send[Payload]:
        batch: list[QueuedRequest[Payload]] = []
        for place, (lane, count) in enumerate(decision.counts):
            batch += self._queue.take(lane, count, skip=0 if place else decision.skip)
        weight = RECENT_ACCURACY_WEIGHT * len(batch) / (1 + RECENT_ACCURACY_WEIGHT * len(batch))
        self._recent_accuracy += weight * (
            self._accuracies[decision.variant] - self._recent_accuracy
        )
        number = self._slots.start(decision.variant, decision.size, now)
        self._exploration.record_sent(number, batch[0])
        self._last_variant = decision.variant
        return Send(
            number, decision.variant, batch, decision.size, decision.predicted_s, decision.reason
        )

    def _explore(self, now: float) -> Shadow[Payload] | None:
        target = self._exploration.next_target(now, self._forecast.expected_misses)
        if target is None:
            return None
        number = self._slots.start(target.variant, target.request.size, now, is_shadow=True)
        return Shadow(number, target.variant, target.request)

    def _state(self, now: float) -> RouterState:
        return RouterState(
            lanes=self._queue.lanes,
            variants=self._slots.variant_states(now),
            now=now,
            free_cores=self._slots.free_cores,
            expected_misses=self._forecast.expected_misses(now),
            p10_slack_s=self._forecast.p10_slack_s(now),
            arrivals_per_s=self._forecast.arrivals_per_s(now),
            offered_load=self._forecast.offered_load(now),
            recent_accuracy=self._recent_accuracy,
            last_variant=self._last_variant,
        )

    def _drain_time(self, variants: tuple[str, ...]) -> DrainTime:
        """Return the function that gives the time in which the fastest of `variants` serves a
        number of samples; 0 if none of them has a live replica.
        """
        live = [self._latency.times(name) for name in variants if self._slots[name]]
        max_batch = self.max_batch
        if not live:
            return lambda samples: 0.0
        fastest = min(live, key=lambda times: times.typical_s(max_batch))
        return lambda samples: drain_time_s(fastest.typical_s, samples, max_batch)

    def _queue_drain_time_s(self) -> float:
        """Estimate the time, in seconds, to serve all queued requests."""
        return sum(self._drain_time(lane.key.variants)(lane.samples) for lane in self._queue.lanes)


def _best_first(accuracies: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(accuracies.items(), key=lambda item: -item[1]))
