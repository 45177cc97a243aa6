"""The closest-fit policy of INFaaS (Romero et al., ATC'21).

    variant = argmin slack - latency(head),  over those whose latency is within the slack

INFaaS considers the variants that run, are not overloaded and meet the requested accuracy. Adapted:
a variant without a free slot counts as overloaded; the slack is the time until the deadline now,
not the time that the request allowed on arrival; if no variant is in time, the fastest is tried.
The paper leaves batching to each variant; here it is the largest batch that the slack allows.
"""

from __future__ import annotations

from serving.routing.policy.baselines.edf import LaneTurn, earliest_first, fastest_typical
from serving.routing.policy.state import Decision, RouterState


def closest_fit(state: RouterState) -> Decision:
    """Decide what to do next; call again until the decision is `Wait`."""
    return earliest_first(state, _choose)


def _choose(turn: LaneTurn) -> Decision:
    startable = turn.startable()
    if not startable:
        return turn.wait_for(*turn.usable)
    size = turn.head.size
    in_time = [each for each in startable if each.times.within_s(size) <= turn.left_s]
    if in_time:
        chosen = min(in_time, key=lambda each: turn.left_s - each.times.within_s(size))
    else:
        chosen = fastest_typical(startable, size)
    return turn.send(chosen, turn.largest_batch(chosen), "closest_fit")
