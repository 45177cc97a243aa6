"""Serves requests without a deadline by their preferred variant, between the other requests.

They wait while they would make requests with deadlines late, but not indefinitely.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from serving.routing.policy.queue_view import (
    answers_in_s,
    fastest_variant,
    live_variants,
    preferred_variant,
)
from serving.routing.policy.state import Dispatch, Lane, RouterState, Wait, drain_time_s

MAX_MISSES_PER_SAMPLE: Final = 0.02
"""Expected deadline misses per sample of the batch above which a request that is not yet due
waits."""

STARVATION_S: Final = 10.0
"""Time after it became due, in seconds, at which a request goes first regardless of the cost."""


def is_overdue(lane: Lane, state: RouterState) -> bool:
    """Return whether the first request of a lane is due."""
    return state.now >= lane.requests[0].order.due


def serve_without_deadline(
    lane: Lane, lanes: Sequence[Lane], state: RouterState
) -> Dispatch | Wait:
    """Serve a lane without deadlines by the batch size that causes the fewest misses per sample.

    `lanes` are all lanes. A lane that is not starving waits if the batch would make queued
    requests late, or if it is not due and the batch would cause too many misses.
    """
    now, due = state.now, lane.requests[0].order.due
    qualifying = live_variants(lane, state)
    if not qualifying:
        return Wait()
    variant = preferred_variant(lane, qualifying)
    if not variant.free_slots:
        # The end of its batch triggers a decision. If it hangs, an equal one may answer earlier.
        return Wait(now + answers_in_s(variant, lane.samples))
    times, least = variant.times, lane.requests[0].size
    sizes = [max(least, min(variant.max_batch, lane.samples))]
    while sizes[-1] > least:
        sizes.append(max(least, sizes[-1] // 2))
    costs = {size: state.expected_misses(times.typical_s(size)) / size for size in sizes}
    size = min(sizes, key=costs.__getitem__)  # of sizes with equal costs, the largest one
    if now < due + STARVATION_S:
        if now < due and costs[size] > MAX_MISSES_PER_SAMPLE:
            # The forecast changes with the silence, without an event.
            return Wait(min(due, now + times.typical_s(size)))
        held_s = times.within_s(size)
        if held_s > min((_slack_s(other, state) for other in lanes), default=math.inf):
            return Wait(max(due, now + held_s))
    taken = samples = 0
    for request in lane.requests:
        if taken and samples + request.size > size:
            break
        taken, samples = taken + 1, samples + request.size
    predicted_s = times.within_s(samples)
    return Dispatch(variant.name, ((lane, taken),), samples, predicted_s, "preferred")


def _slack_s(lane: Lane, state: RouterState) -> float:
    """Return how long a core may be occupied without making a lane's requests late, in seconds."""
    live = live_variants(lane, state)
    if not lane.key.has_deadline or not live or state.free_cores >= 2:
        return math.inf
    fastest = fastest_variant(live, lane.samples)
    needed_s = drain_time_s(fastest.times.within_s, lane.samples, fastest.max_batch)
    return lane.requests[0].deadline - state.now - needed_s
