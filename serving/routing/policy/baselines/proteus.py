"""The policy of Proteus (Ahmad et al., ASPLOS'24): by rate, with a batching window.

    variant: the best whose throughput, slots x b / time(b), is at least the arrival rate, b being
             its largest batch within half of the SLO; if there is none, the highest throughput
    window:  with q queued, wait for one more until  deadline of the head - time(q + 1)

Adapted: the paper distributes the rate over devices by a mixed-integer programme every 30 s; here
each decision chooses one variant for all. The SLO is the time that the head allowed on arrival.
"""

from __future__ import annotations

from serving.routing.policy.baselines.edf import LaneTurn, earliest_first
from serving.routing.policy.state import Decision, RouterState, VariantState, Wait


def proteus(state: RouterState) -> Decision:
    """Decide what to do next; call again until the decision is `Wait`.

    It may wait for a fuller batch while a variant is free.
    """
    return earliest_first(state, _choose)


def _choose(turn: LaneTurn) -> Decision:
    chosen, full = _variant_for_rate(turn)
    queued = turn.samples(chosen)
    key = turn.lane.key
    if queued < full and key.has_deadline and not key.fastest_first:
        latest = turn.head.deadline - chosen.times.within_s(queued + 1)
        if latest > turn.now:
            return Wait(latest)
    return turn.send(chosen, min(turn.largest_batch(chosen), full), "proteus")


def _variant_for_rate(turn: LaneTurn) -> tuple[VariantState, int]:
    """Return the variant for the arrival rate, and its largest batch within half of the SLO."""
    half_s = (turn.head.deadline - turn.head.arrived) / 2
    best: tuple[VariantState, int] | None = None
    highest_per_s = 0.0
    for variant in turn.usable:
        full = variant.largest_batch(variant.max_batch, half_s)
        rate_per_s = variant.slots * full / variant.times.typical_s(full)
        if rate_per_s >= turn.arrivals_per_s and variant.times.within_s(full) <= half_s:
            return variant, full
        if best is None or rate_per_s > highest_per_s:
            highest_per_s = rate_per_s
            best = variant, full
    assert best is not None  # `usable` is never empty
    return best
