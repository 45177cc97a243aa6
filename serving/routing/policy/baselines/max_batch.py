"""The MaxBatch policy of SuperServe (Khare et al., NSDI'25): throughput first.

    batch = the largest with latency <= slack on the fastest variant;
    then variant = the best with latency(batch) <= slack

Earliest deadline first. Adapted: the choice is among the variants with a free slot (see `max_acc`),
and a batch has at most the samples that are queued.
"""

from __future__ import annotations

from serving.routing.policy.baselines.edf import LaneTurn, earliest_first, fastest_typical
from serving.routing.policy.state import Decision, RouterState


def max_batch(state: RouterState) -> Decision:
    """Decide what to do next; call again until the decision is `Wait`."""
    return earliest_first(state, _choose)


def _choose(turn: LaneTurn) -> Decision:
    startable = turn.startable()
    if not startable:
        return turn.wait_for(*turn.usable)
    fastest = fastest_typical(startable, turn.head.size)
    size = max(turn.largest_batch(fastest), turn.head.size)
    in_time = (each for each in startable if each.times.within_s(size) <= turn.left_s)
    return turn.send(next(in_time, None) or fastest, size, "max_batch")
