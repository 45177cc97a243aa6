"""The MaxBatch policy of SuperServe (Khare et al., NSDI'25): throughput first.

    batch = the largest with latency <= slack on the quickest variant;
    then variant = the best with latency(batch) <= slack

Earliest deadline first. Adapted: the choice is among the variants with a free slot (see `max_acc`),
and a batch is at most what waits.
"""

from __future__ import annotations

from serving.routing.policy.baselines.edf import Turn, earliest_first, quickest
from serving.routing.policy.state import Decision, RouterState


def max_batch(state: RouterState) -> Decision:
    """Decide what to do next; call again until the answer is `Wait`."""
    return earliest_first(state, _choose)


def _choose(turn: Turn) -> Decision:
    startable = turn.startable()
    if not startable:
        return turn.wait_for(*turn.usable)
    smallest = quickest(startable, turn.head.size)
    size = max(turn.largest(smallest), turn.head.size)
    in_time = (each for each in startable if each.times.within_s(size) <= turn.left_s)
    return turn.send(next(in_time, None) or smallest, size, "max_batch")
