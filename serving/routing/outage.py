"""Variants without a live replica, and the requests that wait for one.

A lost host is replaced, so its requests wait: until their deadlines, and no longer than `OUTAGE_S`
after the loss. One that is due before a host can be replaced does not wait.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from operator import attrgetter
from typing import Final, Generic

from serving.errors import NotReady
from serving.routing.generation import variant_name
from serving.routing.policy.state import Lane, Payload
from serving.routing.queue import DeadlineQueue
from serving.routing.slots import VariantSlots
from serving.routing.step import NoReplica

RESTART_S: Final = 0.5
"""Time, in seconds, before which no lost host is replaced. A request that is due earlier does not
wait for it."""

OUTAGE_S: Final = 5.0
"""Time without a live replica, in seconds, after which variants count as gone: no request waits for
them any more."""


class Outages(Generic[Payload]):
    """The lanes of a queue whose variants have no live replica."""

    def __init__(self, queue: DeadlineQueue[Payload], slots: VariantSlots) -> None:
        self._queue = queue
        self._slots = slots

    def unavailable_since(self, variants: tuple[str, ...], now: float) -> float | None:
        """Return since when none of these variants has had a live replica; None if one has."""
        if any(map(self._slots.__getitem__, variants)):
            return None
        self._slots.record_outages(now)
        return self._slots.unavailable_since(variants)

    def take_timed_out(self, now: float) -> NoReplica[Payload] | None:
        """Take the requests of one lane for which no replica is or will be alive in time."""
        for lane, since in self._lanes_without_replica(now):
            if now >= since + OUTAGE_S:
                count = len(lane.requests)
            else:
                # A lane is in the order of deadlines.
                hopeless_until = max(now, since + RESTART_S)
                count = bisect_right(lane.requests, hopeless_until, key=_deadline)
            if count:
                variants = lane.key.variants
                requests = self._queue.take(lane, count)
                return NoReplica(requests, variants, not_ready(variants, since, now))
        return None

    def next_timeout_at(self, now: float) -> float:
        """Return when the next request without a live replica fails."""
        return min(
            (
                min(since + OUTAGE_S, lane.requests[0].deadline)
                for lane, since in self._lanes_without_replica(now)
            ),
            default=math.inf,
        )

    def _lanes_without_replica(self, now: float) -> Iterator[tuple[Lane, float]]:
        """Yield each lane without live replicas, and since when it has had none."""
        for lane in self._queue.lanes:
            since = self.unavailable_since(lane.key.variants, now)
            if since is not None:
                yield lane, since


_deadline = attrgetter("deadline")


def not_ready(variants: tuple[str, ...], since: float, now: float) -> NotReady:
    """Return the error of a request whose variants have had no live replica since then."""
    names = " or ".join(map(variant_name, variants))
    lost_s = now - since
    retry_after_s = OUTAGE_S if lost_s >= OUTAGE_S else 1.0
    # A variant that is not routed to any more was lost at no known time.
    duration = f", for {lost_s:.1f} s now" if lost_s < math.inf else ""
    return NotReady(
        f"no replica of {names} is alive{duration}; try again in {retry_after_s:g} s",
        retry_after_s,
    )
