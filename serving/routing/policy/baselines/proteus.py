"""The policy of Proteus (Ahmad et al., ASPLOS'24): by rate, with a window.

    variant: the best whose throughput, slots x b / time(b), holds the rate at which samples come,
             b its largest batch within half of the SLO; if none does, the one with the most
    window:  with q queued, wait for one more until  deadline of the head - time(q + 1)

Adapted: the paper spreads the rate over devices by a mixed-integer programme every 30 s; here one
variant is chosen for all, at each decision. The SLO is what the head was allowed when it came.
"""

from __future__ import annotations

from serving.routing.policy.baselines.edf import Turn, earliest_first
from serving.routing.policy.state import Decision, RouterState, VariantState, Wait


def proteus(state: RouterState) -> Decision:
    """Decide what to do next; call again until the answer is `Wait`.

    It may wait, for a fuller batch, while a variant is free.
    """
    return earliest_first(state, _choose)


def _choose(turn: Turn) -> Decision:
    chosen, full = _hold(turn)
    queued = turn.samples(chosen)
    key = turn.lane.key
    if queued < full and key.has_deadline and not key.fastest_first:
        latest = turn.head.deadline - chosen.times.within_s(queued + 1)
        if latest > turn.now:
            return Wait(latest)
    return turn.send(chosen, min(turn.largest(chosen), full), "proteus")


def _hold(turn: Turn) -> tuple[VariantState, int]:
    """Return the variant to hold the rate with, and its largest batch within half of the SLO."""
    half_s = (turn.head.deadline - turn.head.arrived) / 2
    most: tuple[float, VariantState, int] | None = None
    for candidate in turn.usable:
        full = candidate.fits(candidate.max_batch, half_s)
        rate_per_s = candidate.slots * full / candidate.times.typical_s(full)
        if rate_per_s >= turn.arrivals_per_s and candidate.times.within_s(full) <= half_s:
            return candidate, full
        if most is None or rate_per_s > most[0]:
            most = rate_per_s, candidate, full
    assert most is not None  # a turn has something usable
    return most[1:]
