"""The queued requests of all lanes in groups, as the fastest variants would serve them in turn.

The view is computed once for a decision and shared by all batches that are considered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from serving.routing.policy.state import Lane, LaneKey, RouterState, VariantState, drain_time_s

GROUP_GROWTH: Final = 2
"""Growth of the number of requests up to the end of a group, from one group to the next."""

MAX_GROUPS: Final = 6
"""Maximum number of groups of a lane. The last one holds all remaining requests."""

MAX_OTHER_LANES: Final = 3
"""Maximum number of other lanes that a decision considers, earliest deadline first. It bounds the
time of a decision."""


class Group(NamedTuple):
    """A group of queued requests that are valued together."""

    requests: int
    """Number of requests."""
    left_s: float
    """Time until the deadline of the last request."""
    needed_s: float
    """Time that the fastest variant needs for the requests up to the last one of the group."""
    worth: float
    """Value of one request that is answered in time; 0 if it depends on the batch."""


def live_variants(lane: Lane, state: RouterState) -> list[VariantState]:
    """Return the live variants that qualify for a lane, in the lane's order of preference."""
    variants = state.variants
    live = [variants[name] for name in lane.key.variants if name in variants]
    if lane.key.fastest_first:
        live.sort(key=lambda variant: variant.free_in_s + variant.times.within_s(1))
    return live


def fastest_variant(variants: Sequence[VariantState], size: int) -> VariantState:
    """Return the variant with the shortest typical time for a batch of `size` samples."""
    return min(variants, key=lambda each: each.times.typical_s(min(size, each.max_batch)))


def answers_in_s(variant: VariantState, size: int) -> float:
    """Return the expected time until a variant answers a batch of `size` samples, in seconds.

    A running batch that is overdue is expected to take as long again as it is overdue, so that no
    request waits for a host that hangs while an equal variant is free.
    """
    typical_s = variant.times.typical_s(min(size, variant.max_batch))
    return variant.free_in_s + variant.overdue_s + typical_s


def preferred_variant(lane: Lane, live: Sequence[VariantState]) -> VariantState:
    """Return the variant that a lane prefers, out of its `live` variants, best first.

    Of those that are as accurate as the best, it is the one that answers first.
    """
    best, samples = live[0], lane.samples
    if lane.key.cheapest_first or lane.key.fastest_first:
        return best
    equal = [variant for variant in live if variant.accuracy == best.accuracy]
    if len(equal) == 1:
        return best
    return min(equal, key=lambda variant: answers_in_s(variant, samples))


class QueueView:
    """The live variants and the groups of each lane."""

    def __init__(self, lanes: Sequence[Lane], state: RouterState) -> None:
        """`lanes` are all lanes, earliest due first."""
        self.state = state
        self._lanes = [lane for lane in lanes if lane.key.has_deadline]
        self._live: dict[LaneKey, list[VariantState]] = {}
        self._groups: dict[LaneKey, list[Group]] = {}

    def live_variants(self, lane: Lane) -> list[VariantState]:
        """Return the live variants that qualify for a lane, in the lane's order of preference."""
        live = self._live.get(lane.key)
        if live is None:
            live = self._live[lane.key] = live_variants(lane, self.state)
        return live

    def other_groups(self, lane: Lane) -> list[Group]:
        """Return the groups of the other lanes, as if the lanes were served one after another."""
        all_groups: list[Group] = []
        before_s, considered = 0.0, 0
        for other in self._lanes:
            if other is not lane and considered < MAX_OTHER_LANES and self.live_variants(other):
                considered += 1
                groups = self._lane_groups(other)
                all_groups += [
                    Group(count, left_s, needed_s + before_s, worth)
                    for count, left_s, needed_s, worth in groups
                ]
                before_s += groups[-1].needed_s
        return all_groups

    def _lane_groups(self, lane: Lane) -> list[Group]:
        groups = self._groups.get(lane.key)
        if groups is None:
            live = self.live_variants(lane)
            worth = max(each.accuracy for each in live)
            fastest = fastest_variant(live, lane.samples)
            groups = list(groups_of(lane, 0, fastest, self.state.now, worth))
            self._groups[lane.key] = groups
        return groups


def groups_of(
    lane: Lane, place: int, fastest: VariantState, now: float, worth: float
) -> Iterator[Group]:
    """Yield the requests of a lane from index `place` in groups, served in turn by `fastest`."""
    requests = lane.requests
    done, rest, number = 0, len(requests) - place, 0
    mean_size = lane.samples / len(requests)
    while done < rest:
        number += 1
        end = rest if number == MAX_GROUPS else min(rest, max(1, GROUP_GROWTH * done))
        needed_s = drain_time_s(
            fastest.times.within_s, max(1, round(end * mean_size)), fastest.max_batch
        )
        yield Group(end - done, requests[place + end - 1].deadline - now, needed_s, worth)
        done = end
