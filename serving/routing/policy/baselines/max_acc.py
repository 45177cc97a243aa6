"""The MaxAcc policy of SuperServe (Khare et al., NSDI'25): accuracy first.

    variant = the best with latency(head) <= slack;  then batch = the largest with latency <= slack

Earliest deadline first. Adapted: a worker of the paper can run every subnet, so the choice is free
whenever a worker is free; here the choice is among the variants with a free slot. If no variant is
in time, the fastest is tried.
"""

from __future__ import annotations

from serving.routing.policy.baselines.edf import LaneTurn, earliest_first, fastest_typical
from serving.routing.policy.state import Decision, RouterState


def max_acc(state: RouterState) -> Decision:
    """Decide what to do next; call again until the decision is `Wait`."""
    return earliest_first(state, _choose)


def _choose(turn: LaneTurn) -> Decision:
    startable = turn.startable()
    if not startable:
        return turn.wait_for(*turn.usable)
    size = turn.head.size
    in_time = (each for each in startable if each.times.within_s(size) <= turn.left_s)
    chosen = next(in_time, None) or fastest_typical(startable, size)
    return turn.send(chosen, turn.largest_batch(chosen), "max_acc")
