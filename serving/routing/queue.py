"""The deadline queue: requests in lanes, each lane sorted in the order of service."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Collection
from operator import attrgetter
from typing import Final, Generic

from serving.routing.policy.state import Lane, LaneKey, Payload, QueuedRequest, QueueOrder

AGEING_S: Final = 1.0
"""Time after its arrival, in seconds, at which a request without a deadline becomes due. It
prevents starvation."""


class DeadlineQueue(Generic[Payload]):
    """Queued requests by lane. `len()` returns the number of requests."""

    def __init__(self) -> None:
        self._lanes: dict[LaneKey, Lane] = {}
        self._numbers = itertools.count()
        self._count = 0
        self.samples = 0
        """Number of samples of all queued requests."""
        self._priorities = Counter[int]()

    def __len__(self) -> int:
        return self._count

    def has_lane(self, key: LaneKey) -> bool:
        """Return whether requests with this key are queued."""
        return key in self._lanes

    @property
    def lane_count(self) -> int:
        """Number of lanes that are not empty."""
        return len(self._lanes)

    @property
    def lanes(self) -> list[Lane]:
        """The lanes that are not empty."""
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
        is_behind: bool = False,
    ) -> QueuedRequest[Payload]:
        """Queue a request of `size` samples that arrives at `now`, after its equals."""
        # Deadlines within one millisecond count as equal, and the priority decides among them.
        due = round(deadline if key.has_deadline else now + AGEING_S, 3)
        order = QueueOrder(due, priority, next(self._numbers))
        request = QueuedRequest(
            size, deadline, order, key, payload, arrived=now, is_behind=is_behind
        )
        self.reinsert(request)
        return request

    def reinsert(self, request: QueuedRequest[Payload]) -> None:
        """Queue a request that was taken from this queue again, at its former position."""
        lane = self._lanes.get(request.key)
        if lane is None:
            lane = self._lanes[request.key] = Lane(request.key, [request])
        else:
            insort(lane.requests, request, key=_order)
        lane.samples += request.size
        self.samples += request.size
        self._priorities[request.order.priority] += 1
        self._count += 1

    def take(self, lane: Lane, count: int, skip: int = 0) -> list[QueuedRequest[Payload]]:
        """Remove and return `count` requests of a lane, starting with the one at `skip`."""
        return self._remove(lane, slice(skip, skip + count))

    def remove(self, request: QueuedRequest[Payload]) -> bool:
        """Remove one request at any position; return False if it is not in the queue."""
        lane = self._lanes.get(request.key)
        if lane is None:
            return False
        place = bisect_left(lane.requests, request.order, key=_order)
        if lane.requests[place : place + 1] != [request]:
            return False
        self._remove(lane, slice(place, place + 1))
        return True

    def last_deadlines(self) -> list[float]:
        """Return the deadline of the last request of each lane, sorted."""
        return sorted(lane.requests[-1].deadline for lane in self._lanes.values())

    def take_least_important(
        self,
        priority: int,
        *,
        before: float = math.inf,
        variants: Collection[str] | None = None,
    ) -> QueuedRequest[Payload] | None:
        """Remove and return the request to shed in favour of one with `priority`, or None.

        Only requests of lower priority are shed that are due at `before` or earlier and for which
        at least one of `variants` qualifies (any variant if None). Of those with the lowest
        priority it is the one that is due last.
        """
        before = round(before, 3)  # as in `add`
        self._priorities = +self._priorities  # removes the priorities with a count of 0
        if max(self._priorities, default=priority) <= priority:
            return None
        worst: tuple[int, float] = (priority, math.inf)
        candidate: tuple[Lane, int] | None = None
        for lane in self._lanes.values():
            if variants is not None and not set(variants).intersection(lane.key.variants):
                continue
            for place, request in enumerate(lane.requests):
                due, own_priority, _ = request.order
                if (own_priority, due) > worst and due <= before:
                    worst, candidate = (own_priority, due), (lane, place)
        if candidate is None:
            return None
        lane, place = candidate
        return self._remove(lane, slice(place, place + 1))[0]

    def samples_before(self, deadline: float, variants: Collection[str]) -> float:
        """Estimate how many samples due by `deadline` will be served by these variants.

        A lane's samples are assumed to be spread evenly over the variants that qualify for it.
        Requests without a deadline do not count, because those with a deadline go first.
        """
        deadline = round(deadline, 3)  # as in `add`
        total = 0.0
        for key, lane in self._lanes.items():
            if not key.has_deadline:
                continue
            shared = 1.0 if key.variants == variants else _shared(key.variants, variants)
            if shared:
                before = bisect_right(lane.requests, deadline, key=_due) / len(lane.requests)
                total += lane.samples * before * shared
        return total

    def _remove(self, lane: Lane, places: slice) -> list[QueuedRequest[Payload]]:
        taken = lane.requests[places]
        del lane.requests[places]
        priorities = self._priorities
        for request in taken:
            lane.samples -= request.size
            self.samples -= request.size
            priorities[request.order.priority] -= 1
        self._count -= len(taken)
        if not lane.requests:
            del self._lanes[lane.key]
        return taken


_order = attrgetter("order")
_due = attrgetter("order.due")


def _shared(variants: Collection[str], others: Collection[str]) -> float:
    """Return the share of `variants` that is in `others` too."""
    return len(set(variants).intersection(others)) / len(variants)
