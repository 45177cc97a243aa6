"""Requests without a deadline: served in the gaps, never degraded, and not for ever last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from serving.routing.policy.lookahead import alive, fastest
from serving.routing.policy.state import Dispatch, Lane, RouterState, Wait, drain_time_s

PATIENCE: Final = 0.02
"""Such a request waits, until it is due, while it would make so many others late."""

STARVED_S: Final = 10.0
"""Overdue for so long it goes first, whatever that costs."""


def is_overdue(lane: Lane, state: RouterState) -> bool:
    """Return whether the first of a lane should have been served by now."""
    return state.now >= lane.requests[0].order[0]


def serve_patiently(lane: Lane, lanes: Sequence[Lane], state: RouterState) -> Dispatch | Wait:
    """Serve a lane without deadlines, in the batch that is likely to make fewest others late.

    Not before it is due if that is too many, and not while those that wait would be late by it,
    unless it starves.
    """
    now, due = state.now, lane.requests[0].order[0]
    qualifying = alive(lane, state)
    if not qualifying or not qualifying[0].free_slots:
        return Wait()
    candidate = qualifying[0]
    times, least = candidate.times, lane.requests[0].size
    sizes = [max(least, min(candidate.max_batch, lane.samples))]
    while sizes[-1] > least:
        sizes.append(max(least, sizes[-1] // 2))
    # Of equal ones the largest.
    cost, size = min(
        ((state.expected_misses(times.typical_s(size)) / size, size) for size in sizes),
        key=lambda each: each[0],
    )
    if now < due + STARVED_S:
        if now < due and cost > PATIENCE:
            return Wait(due)
        held_s = times.within_s(size)
        if held_s > min((_may_hold_s(other, state) for other in lanes), default=math.inf):
            return Wait(max(due, now + held_s))
    taken = samples = 0
    for request in lane.requests:
        if taken and samples + request.size > size:
            break
        taken, samples = taken + 1, samples + request.size
    predicted_s = times.within_s(samples)
    return Dispatch(candidate.name, ((lane, taken),), samples, predicted_s, "preferred")


def _may_hold_s(lane: Lane, state: RouterState) -> float:
    """Return how long the core may be held without making those in a lane late."""
    able = alive(lane, state)
    if not lane.key.has_deadline or not able or state.free_cores >= 2:
        return math.inf
    quickest = fastest(able, lane.samples)
    needed_s = drain_time_s(quickest.times.within_s, lane.samples, quickest.max_batch)
    return lane.requests[0].deadline - state.now - needed_s
