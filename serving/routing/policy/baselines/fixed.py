"""The fixed policy: the best variant alone, batched as well as it can be.

    batch from request i on: the largest that is in time for i;  of those the one with the highest
    rate, size / latency(size)

If the slack of the first request allows a batch of all that waits, that is sent. If not, those due
first may be too few to be worth a batch: Nexus's early drop (Shen et al., SOSP'19), adapted: by
rate instead of a target size, and what was skipped is dropped only once it is hopeless.
"""

from __future__ import annotations

from bisect import bisect_left
from operator import attrgetter

from serving.routing.policy.baselines.edf import Turn, earliest_first
from serving.routing.policy.state import Decision, Drop, RouterState, VariantState


def fixed(state: RouterState) -> Decision:
    """Decide what to do next; call again until the answer is `Wait`.

    What the best variant alive can no longer answer in time is dropped, even if another could: so
    this is a server with one variant, and what others are measured against.
    """
    return earliest_first(state, _choose)


def _choose(turn: Turn) -> Decision:
    best = turn.usable[0]
    if best is not turn.alive[0] and not turn.lane.key.fastest_first:
        return Drop(turn.lane)
    if not best.free_slots:
        return turn.wait_for(best)
    skip, size = _worthwhile(best, turn)
    return turn.send(best, size, "fixed", skip=skip)


def _worthwhile(candidate: VariantState, turn: Turn) -> tuple[int, int]:
    """Return how many requests to skip, and the size of the batch from there on."""
    size = turn.largest(candidate)
    found = 0, size
    requests = turn.lane.requests
    highest_per_s = size / candidate.times.within_s(size)
    skip, waiting = 0, turn.lane.samples
    while size < min(waiting, candidate.max_batch):
        size = min(2 * size, waiting, candidate.max_batch)
        latest = turn.now + candidate.times.within_s(size)
        in_time = bisect_left(requests, latest, skip, key=attrgetter("deadline"))
        waiting -= sum(request.size for request in requests[skip:in_time])
        skip = in_time
        if not waiting:
            break
        filled = min(size, waiting)
        rate_per_s = filled / candidate.times.within_s(filled)
        if rate_per_s > highest_per_s:
            highest_per_s = rate_per_s
            found = skip, filled
    return found
