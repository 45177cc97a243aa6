"""The closest-fit policy of INFaaS (Romero et al., ATC'21).

    variant = argmin slack - latency(head),  over those whose latency is within the slack

INFaaS looks among the variants that run, are not overloaded and meet the accuracy asked for.
Adapted: overloaded is one without a free slot; the slack is what is left of the deadline now, not
the deadline as it came; if none is in time, the quickest is tried. The paper leaves batching to
each variant: here it is the largest batch that the slack allows.
"""

from __future__ import annotations

from serving.routing.policy.baselines.edf import Turn, earliest_first, quickest
from serving.routing.policy.state import Decision, RouterState


def closest_fit(state: RouterState) -> Decision:
    """Decide what to do next; call again until the answer is `Wait`."""
    return earliest_first(state, _choose)


def _choose(turn: Turn) -> Decision:
    startable = turn.startable()
    if not startable:
        return turn.wait_for(*turn.usable)
    size = turn.head.size
    spare = [(turn.left_s - candidate.times.within_s(size), candidate) for candidate in startable]
    in_time = [each for each in spare if each[0] >= 0]
    if in_time:
        _, chosen = min(in_time, key=lambda each: each[0])
    else:
        chosen = quickest(startable, size)
    return turn.send(chosen, turn.largest(chosen), "closest_fit")
