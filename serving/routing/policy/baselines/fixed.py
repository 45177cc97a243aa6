"""The fixed policy: the best variant only, with the batches of the highest throughput.

    batch from request i: the largest one that is in time for i;  of these, the one with the
    highest rate, size / latency(size)

If the slack of the first request allows a batch of all queued requests, that is sent. Otherwise the
requests that are due first may be too few to be worth a batch: early drop of Nexus (Shen et al.,
SOSP'19). Adapted: by rate instead of a target size, and a request that was skipped is dropped only
when it can no longer be in time.
"""

from __future__ import annotations

from bisect import bisect_left
from operator import attrgetter

from serving.routing.policy.baselines.edf import LaneTurn, earliest_first
from serving.routing.policy.state import Decision, Drop, RouterState, VariantState


def fixed(state: RouterState) -> Decision:
    """Decide what to do next; call again until the decision is `Wait`.

    A request that the best live variant cannot answer in time is dropped even if another variant
    could. So this is a server with one variant, the reference for the other policies.
    """
    return earliest_first(state, _choose)


def _choose(turn: LaneTurn) -> Decision:
    best = turn.usable[0]
    if best is not turn.live[0] and not turn.lane.key.fastest_first:
        return Drop(turn.lane)
    if not best.free_slots:
        return turn.wait_for(best)
    skip, size = _highest_rate(best, turn)
    return turn.send(best, size, "fixed", skip=skip)


def _highest_rate(variant: VariantState, turn: LaneTurn) -> tuple[int, int]:
    """Return how many requests to skip, and the size of the batch of the following ones."""
    size = turn.largest_batch(variant)
    best = 0, size
    requests = turn.lane.requests
    highest_per_s = size / variant.times.within_s(size)
    skip, samples = 0, turn.lane.samples
    while size < min(samples, variant.max_batch):
        size = min(2 * size, samples, variant.max_batch)
        latest = turn.now + variant.times.within_s(size)
        in_time = bisect_left(requests, latest, skip, key=attrgetter("deadline"))
        samples -= sum(request.size for request in requests[skip:in_time])
        skip = in_time
        if not samples:
            break
        filled = min(size, samples)
        rate_per_s = filled / variant.times.within_s(filled)
        if rate_per_s > highest_per_s:
            highest_per_s = rate_per_s
            best = skip, filled
    return best
