"""The common part of the baselines: the order of lanes, usable variants, and filling a batch.

    lanes, due first ─▶ LaneTurn ─▶ a policy's choice ─▶ Dispatch | Drop | Wait ─▶ the next lane

The papers have one queue of equal requests; here requests differ in their SLOs. So a batch is
filled from the lane to serve and from later lanes that differ only in the accuracy limit. With the
objective latency, a policy has no choice of variant: the one that answers first is used.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

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
class LaneTurn:
    """The lane to serve next, with the variants and lanes that a batch can use."""

    lane: Lane
    live: Sequence[VariantState]
    """The live variants that qualify, best first, or fastest first if the lane requires it."""
    usable: Sequence[VariantState]
    """The live variants that may be in time for the first request. A policy chooses from them."""
    joinable: Sequence[Lane]
    """Later lanes whose requests may join the batch if the variant qualifies for them."""
    now: float
    arrivals_per_s: float

    @property
    def head(self) -> QueuedRequest[Any]:
        """The request to serve first."""
        return self.lane.requests[0]

    @property
    def left_s(self) -> float:
        """The slack of the head: the time until its deadline."""
        return self.head.deadline - self.now

    def samples(self, variant: VariantState) -> int:
        """Return how many queued samples could share a batch on this variant."""
        return sum(lane.samples for lane in self._sources(variant))

    def largest_batch(self, variant: VariantState) -> int:
        """Return the largest batch of queued samples that is in time for the head; at least 1."""
        return variant.largest_batch(self.samples(variant), self.left_s)

    def startable(self) -> Sequence[VariantState]:
        """Return the usable variants with a free slot.

        Without a deadline, only the best variant counts: there is no reason to use another one.
        """
        usable = self.usable if self.lane.key.has_deadline else self.usable[:1]
        return [variant for variant in usable if variant.free_slots]

    def send(
        self, variant: VariantState, limit: int, reason: str, *, skip: int = 0
    ) -> Dispatch | Wait:
        """Send a batch of at most `limit` samples, from the lane's request at `skip` on.

        Waits if the variant is busy. A first request of more than `limit` samples is sent alone.
        """
        if not variant.free_slots:
            return self.wait_for(variant)
        first = self.lane.requests[skip].order
        lane, *joinable = self._sources(variant)
        sources = [lane, *(other for other in joinable if other.requests[0].order > first)]
        counts, size = _fill(sources, limit, skip)
        return Dispatch(variant.name, counts, size, variant.times.within_s(size), reason, skip)

    def wait_for(self, *variants: VariantState) -> Wait:
        """Wait until the first of these variants is expected to have a free slot."""
        free_at = (self.now + variant.free_in_s for variant in variants)
        # A batch that is overdue may end at any time, and its end triggers a decision by itself.
        return Wait(min((at for at in free_at if at > self.now), default=math.inf))

    def _sources(self, variant: VariantState) -> list[Lane]:
        name = variant.name
        return [self.lane, *(other for other in self.joinable if name in other.key.variants)]


Choose: TypeAlias = Callable[[LaneTurn], Decision]
"""The part of a baseline that is its own: chooses the variant and the batch for one lane."""


def earliest_first(state: RouterState, choose: Choose) -> Decision:
    """Call `choose` for one lane after another, by the deadlines of their heads, until it decides.

    The first decision that is not `Wait` is returned. A head that no variant can answer in time
    even in the best case is dropped.
    """
    return _decide(state, choose, key=_due, drops_late=True)


def oldest_first(state: RouterState, choose: Choose) -> Decision:
    """Call `choose` for one lane after another, by the arrivals of their heads, until it decides.

    The first decision that is not `Wait` is returned. A head is dropped only if it is past its
    deadline and no variant that qualifies for it has a live replica.
    """
    return _decide(state, choose, key=_arrived, drops_late=False)


def fastest_typical(variants: Sequence[VariantState], size: int) -> VariantState:
    """Return the variant with the shortest typical time for a batch of `size` samples."""
    return min(variants, key=lambda variant: variant.times.typical_s(size))


def _decide(
    state: RouterState,
    choose: Choose,
    *,
    key: Callable[[Lane], tuple[float, ...]],
    drops_late: bool,
) -> Decision:
    now, until = state.now, math.inf
    lanes = sorted(state.lanes, key=key)
    for place, lane in enumerate(lanes):
        head = lane.requests[0]
        live = _live_variants(lane, state)
        usable = _possibly_in_time(live, head, now) if drops_late else live
        decision: Decision
        if usable:
            if lane.key.fastest_first:
                usable = usable[:1]
            joinable = [
                other for other in lanes[place + 1 :] if _differ_in_limit(lane.key, other.key)
            ]
            decision = choose(LaneTurn(lane, live, usable, joinable, now, state.arrivals_per_s))
        else:
            decision = Drop(lane) if live or head.deadline <= now else Wait()
        if not isinstance(decision, Wait):
            return decision
        # Decide again at the deadline at the latest, to drop the head.
        until = min(until, decision.until, head.deadline if head.deadline > now else math.inf)
    return Wait(until)


def _due(lane: Lane) -> tuple[float, ...]:
    return lane.requests[0].order


def _arrived(lane: Lane) -> tuple[float, ...]:
    return (lane.requests[0].arrived,)


def _live_variants(lane: Lane, state: RouterState) -> list[VariantState]:
    variants = state.variants
    live = [variants[name] for name in lane.key.variants if name in variants]
    if lane.key.fastest_first:
        size = lane.requests[0].size
        live.sort(key=lambda variant: variant.free_in_s + variant.times.typical_s(size))
    return live


def _possibly_in_time(
    live: Sequence[VariantState], head: QueuedRequest[Any], now: float
) -> Sequence[VariantState]:
    if math.isinf(head.deadline):
        return live
    return [
        variant
        for variant in live
        if now + variant.free_in_s + variant.best_case_s(head.size) <= head.deadline
    ]


def _differ_in_limit(first: LaneKey, second: LaneKey) -> bool:
    """Return whether both prefer the same variants and one of them only allows more variants."""
    shared = min(len(first.variants), len(second.variants))
    return (
        first.signature == second.signature
        and first.has_deadline == second.has_deadline
        and not (first.fastest_first or second.fastest_first)
        and first.variants[:shared] == second.variants[:shared]
    )


def _fill(
    sources: Sequence[Lane], limit: int, skip: int
) -> tuple[tuple[tuple[Lane, int], ...], int]:
    """Take the request at `skip` of the first lane, then the next due requests that fit.

    Returns the number of requests by lane, and the number of samples.
    """
    starts = [skip] + [0] * (len(sources) - 1)
    ends = [skip + 1, *starts[1:]]
    size = sources[0].requests[skip].size
    heads = [
        (lane.requests[end].order, place)
        for place, (lane, end) in enumerate(zip(sources, ends, strict=True))
        if end < len(lane.requests)
    ]
    heapq.heapify(heads)
    while heads and size < limit:
        _, place = heads[0]
        requests = sources[place].requests
        request = requests[ends[place]]
        if size + request.size > limit:
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
