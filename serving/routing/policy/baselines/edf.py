"""What the baselines share: whose turn it is, what may serve it, and filling a batch.

    lanes, due first ─▶ Turn ─▶ the choice of a policy ─▶ Dispatch | Drop | Wait; then the next lane

Papers have one queue of equal requests; here requests differ in what they allow. So a batch is
filled from the lane whose turn it is, and from those behind it that differ in their floor only. An
objective of latency leaves a policy no choice of variant: it gets the one that will answer first.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from serving.routing.policy.state import (
    Decision,
    Dispatch,
    Drop,
    Lane,
    LaneKey,
    QueuedRequest,
    RouterState,
    VariantState,
    Wait,
)


@dataclass(frozen=True, slots=True)
class Turn:
    """A lane whose turn it is."""

    lane: Lane
    alive: Sequence[VariantState]
    """The variants that it qualifies for; best first, or quickest first if it asks for that."""
    usable: Sequence[VariantState]
    """Those of them that a policy may choose from: they may be in time for the first request."""
    mates: Sequence[Lane]
    """Lanes behind it whose requests may ride along, where the variant qualifies for them."""
    now: float
    arrivals_per_s: float

    @property
    def head(self) -> QueuedRequest[Any]:
        """The request to serve first."""
        return self.lane.requests[0]

    @property
    def left_s(self) -> float:
        """The slack of the head: the time left until its deadline."""
        return self.head.deadline - self.now

    def samples(self, candidate: VariantState) -> int:
        """Return how many samples wait that could share a batch on this variant."""
        return sum(lane.samples for lane in self._sources(candidate))

    def largest(self, candidate: VariantState) -> int:
        """Return the largest batch of what waits that is in time for the head; at least 1."""
        return candidate.fits(self.samples(candidate), self.left_s)

    def startable(self) -> Sequence[VariantState]:
        """Return the usable variants that could start now.

        Without a deadline that is none but the best: nothing speaks for another.
        """
        usable = self.usable if self.lane.key.has_deadline else self.usable[:1]
        return [candidate for candidate in usable if candidate.free_slots]

    def send(
        self, candidate: VariantState, most: int, reason: str, *, skip: int = 0
    ) -> Dispatch | Wait:
        """Send a batch of at most `most` samples, from the lane's request at `skip` on.

        Wait instead if the variant is busy. If that first request is larger, it is sent alone.
        """
        if not candidate.free_slots:
            return self.wait_for(candidate)
        first = self.lane.requests[skip].order
        lane, *mates = self._sources(candidate)
        sources = [lane, *(mate for mate in mates if mate.requests[0].order > first)]
        counts, size = _fill(sources, most, skip)
        return Dispatch(candidate.name, counts, size, candidate.times.within_s(size), reason, skip)

    def wait_for(self, *candidates: VariantState) -> Wait:
        """Wait until the first of these variants has a free slot."""
        free_at = (self.now + candidate.free_in_s for candidate in candidates)
        # One that should be free by now may end any time, and that is an event of its own.
        return Wait(min((at for at in free_at if at > self.now), default=math.inf))

    def _sources(self, candidate: VariantState) -> list[Lane]:
        name = candidate.name
        return [self.lane, *(mate for mate in self.mates if name in mate.key.variants)]


Choose = Callable[[Turn], Decision]


def earliest_first(state: RouterState, choose: Choose) -> Decision:
    """Ask `choose` about lane by lane, by the deadlines of their heads, while it says `Wait`.

    A head that not even the best case of any variant can answer in time is dropped.
    """
    return _in_turn(state, choose, key=_due, is_late_useless=True)


def oldest_first(state: RouterState, choose: Choose) -> Decision:
    """Ask `choose` about lane by lane, by the arrivals of their heads, while it says `Wait`.

    A head is dropped only if it is too late and no variant that it qualifies for is alive.
    """
    return _in_turn(state, choose, key=_arrived, is_late_useless=False)


def quickest(candidates: Sequence[VariantState], size: int) -> VariantState:
    """Return the variant that typically answers a batch of `size` samples first, once it starts."""
    return min(candidates, key=lambda candidate: candidate.times.typical_s(size))


def _in_turn(
    state: RouterState,
    choose: Choose,
    *,
    key: Callable[[Lane], tuple[float, ...]],
    is_late_useless: bool,
) -> Decision:
    now, until = state.now, math.inf
    lanes = sorted(state.lanes, key=key)
    for place, lane in enumerate(lanes):
        head = lane.requests[0]
        alive = _alive(lane, state)
        usable = _hopeful(alive, head, now) if is_late_useless else alive
        decision: Decision
        if usable:
            if lane.key.fastest_first:
                usable = usable[:1]
            mates = [other for other in lanes[place + 1 :] if _differ_in_floor(lane.key, other.key)]
            decision = choose(Turn(lane, alive, usable, mates, now, state.arrivals_per_s))
        else:
            decision = Drop(lane) if alive or head.deadline <= now else Wait()
        if not isinstance(decision, Wait):
            return decision
        # At the deadline at the latest it is time to say that it is too late.
        until = min(until, decision.until, head.deadline if head.deadline > now else math.inf)
    return Wait(until)


def _due(lane: Lane) -> tuple[float, ...]:
    return lane.requests[0].order


def _arrived(lane: Lane) -> tuple[float, ...]:
    return (lane.requests[0].arrived,)


def _alive(lane: Lane, state: RouterState) -> list[VariantState]:
    candidates = state.candidates
    alive = [candidates[name] for name in lane.key.variants if name in candidates]
    if lane.key.fastest_first:
        size = lane.requests[0].size
        alive.sort(key=lambda candidate: candidate.free_in_s + candidate.times.typical_s(size))
    return alive


def _hopeful(
    alive: Sequence[VariantState], head: QueuedRequest[Any], now: float
) -> Sequence[VariantState]:
    if math.isinf(head.deadline):
        return alive
    return [
        candidate
        for candidate in alive
        if now + candidate.free_in_s + candidate.best_case_s(head.size) <= head.deadline
    ]


def _differ_in_floor(one: LaneKey, other: LaneKey) -> bool:
    """Return whether both prefer the same variants, and only one allows more of them."""
    shared = min(len(one.variants), len(other.variants))
    return (
        one.signature == other.signature
        and one.has_deadline == other.has_deadline
        and not (one.fastest_first or other.fastest_first)
        and one.variants[:shared] == other.variants[:shared]
    )


def _fill(
    sources: Sequence[Lane], most: int, skip: int
) -> tuple[tuple[tuple[Lane, int], ...], int]:
    """Take the request at `skip` of the first lane, then what is due next while it fits."""
    starts = [skip] + [0] * (len(sources) - 1)
    ends = [skip + 1, *starts[1:]]
    size = sources[0].requests[skip].size
    heads = [
        (lane.requests[end].order, place)
        for place, (lane, end) in enumerate(zip(sources, ends, strict=True))
        if end < len(lane.requests)
    ]
    heapq.heapify(heads)
    while heads and size < most:
        place = heads[0][1]
        requests = sources[place].requests
        request = requests[ends[place]]
        if size + request.size > most:
            heapq.heappop(heads)
            continue
        size += request.size
        ends[place] += 1
        if ends[place] < len(requests):
            heapq.heapreplace(heads, (requests[ends[place]].order, place))
        else:
            heapq.heappop(heads)
    taken = zip(sources, starts, ends, strict=True)
    return tuple((lane, end - start) for lane, start, end in taken if end > start), size
