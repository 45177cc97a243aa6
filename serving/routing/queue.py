"""The deadline queue: requests that wait, in lanes, each lane in the order in which to serve it."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Collection
from operator import attrgetter
from typing import Any, Final, Generic

from serving.routing.policy.state import Lane, LaneKey, Payload, QueuedRequest

AGEING_S: Final = 1.0
"""A request without a deadline is served as if due this long after it came: it cannot starve."""


class DeadlineQueue(Generic[Payload]):
    """Waiting requests by lane. `len()` counts the requests."""

    def __init__(self) -> None:
        self._lanes: dict[LaneKey, Lane] = {}
        self._numbers = itertools.count()
        self._count = 0
        self._priorities = Counter[int]()

    def __len__(self) -> int:
        return self._count

    def has_lane(self, key: LaneKey) -> bool:
        """Return whether requests of this kind wait."""
        return key in self._lanes

    @property
    def lanes(self) -> list[Lane]:
        """The lanes; none of them is empty."""
        return list(self._lanes.values())

    def add(
        self,
        payload: Payload,
        *,
        key: LaneKey,
        size: int,
        deadline: float,
        priority: int,
        now: float,
    ) -> QueuedRequest[Payload]:
        """Queue a request of `size` samples that came at `now`, behind its equals."""
        # Deadlines within one millisecond are equal: among them priority decides.
        due = round(deadline if key.has_deadline else now + AGEING_S, 3)
        order = (due, priority, next(self._numbers))
        waiting = QueuedRequest(size, deadline, order, key, payload, arrived=now)
        self.reinsert(waiting)
        return waiting

    def reinsert(self, waiting: QueuedRequest[Payload]) -> None:
        """Queue a request again that was taken out, at the place it had."""
        lane = self._lanes.get(waiting.key)
        if lane is None:
            lane = self._lanes[waiting.key] = Lane(waiting.key)
        insort(lane.requests, waiting, key=_order)
        lane.samples += waiting.size
        self._priorities[waiting.order[1]] += 1
        self._count += 1

    def take(self, lane: Lane, count: int, skip: int = 0) -> list[QueuedRequest[Payload]]:
        """Remove and return `count` requests of a lane, from the one at `skip` on."""
        return self._remove(lane, slice(skip, skip + count))

    def remove(self, waiting: QueuedRequest[Payload]) -> bool:
        """Remove one request, wherever it stands; return False if it does not wait here."""
        lane = self._lanes.get(waiting.key)
        if lane is None:
            return False
        place = bisect_left(lane.requests, waiting.order, key=_order)
        if lane.requests[place : place + 1] != [waiting]:
            return False
        self._remove(lane, slice(place, place + 1))
        return True

    def last_deadlines(self) -> list[float]:
        """Return by lane the deadline of its last request, sorted."""
        return sorted(lane.requests[-1].deadline for lane in self._lanes.values())

    def take_least_important(
        self,
        priority: int,
        *,
        before: float = math.inf,
        variants: Collection[str] | None = None,
    ) -> QueuedRequest[Payload] | None:
        """Remove and return the request to shed in favour of one with this priority, if any.

        It is one of lower priority, due before some time, for which one of `variants` qualifies
        (any, if none are given), and among those of the lowest priority the one that is due last.
        """
        before = round(before, 3)  # as in `add`
        self._priorities = +self._priorities  # forgets those that nobody has any more
        if max(self._priorities, default=priority) <= priority:
            return None
        worst: tuple[int, float] = (priority, math.inf)
        found: tuple[Lane, int] | None = None
        for lane in self._lanes.values():
            if variants is not None and not set(variants).intersection(lane.key.variants):
                continue
            for place, waiting in enumerate(lane.requests):
                due, own_priority, _ = waiting.order
                if (own_priority, due) > worst and due <= before:
                    worst, found = (own_priority, due), (lane, place)
        if found is None:
            return None
        lane, place = found
        return self._remove(lane, slice(place, place + 1))[0]

    def samples_before(self, deadline: float, variants: Collection[str]) -> float:
        """Return about how many samples, due before `deadline`, will fall to these variants.

        A lane's samples are taken to spread evenly over the variants that it may go to. Those
        without a deadline make way for those that have one, so they do not count.
        """
        deadline = round(deadline, 3)  # as in `add`
        ours = set(variants)
        total = 0.0
        for lane in self._lanes.values():
            shared = len(ours.intersection(lane.key.variants)) / len(lane.key.variants)
            if shared and lane.key.has_deadline:
                before = bisect_right(lane.requests, deadline, key=_due) / len(lane.requests)
                total += lane.samples * before * shared
        return total

    def _remove(self, lane: Lane, places: slice) -> list[QueuedRequest[Payload]]:
        taken = lane.requests[places]
        del lane.requests[places]
        lane.samples -= sum(waiting.size for waiting in taken)
        self._priorities.subtract(waiting.order[1] for waiting in taken)
        self._count -= len(taken)
        if not lane.requests:
            del self._lanes[lane.key]
        return taken


_order = attrgetter("order")


def _due(waiting: QueuedRequest[Any]) -> float:
    return waiting.order[0]
