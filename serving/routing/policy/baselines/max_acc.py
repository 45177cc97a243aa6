"""The MaxAcc policy of SuperServe (Khare et al., NSDI'25): accuracy first.

    variant = the best with latency(head) <= slack;  then batch = the largest with latency <= slack

Earliest deadline first. Adapted: the paper's workers can each run every subnet, so there the choice
is free whenever a worker is; here it is among the variants with a free slot. If none is in time,
the quickest is tried.
"""

from __future__ import annotations

from serving.routing.policy.baselines.edf import Turn, earliest_first, quickest
from serving.routing.policy.state import Decision, RouterState


def max_acc(state: RouterState) -> Decision:
    """Decide what to do next; call again until the answer is `Wait`."""
    return earliest_first(state, _choose)


def _choose(turn: Turn) -> Decision:
    startable = turn.startable()
    if not startable:
        return turn.wait_for(*turn.usable)
    size = turn.head.size
    in_time = (each for each in startable if each.times.within_s(size) <= turn.left_s)
    chosen = next(in_time, None) or quickest(startable, size)
    return turn.send(chosen, turn.largest(chosen), "max_acc")
