"""The fastest policy: always the variant with the shortest time per sample.

    variant = argmin typical(b) / b,  b: its largest batch that is in time for the head of the queue

Earliest deadline first. This is Clipper-HT of Proteus (ASPLOS'24): throughput first, regardless of
accuracy. The accuracy limits of requests still hold.
"""

from __future__ import annotations

from serving.routing.policy.baselines.edf import LaneTurn, earliest_first
from serving.routing.policy.state import Decision, RouterState, VariantState


def fastest(state: RouterState) -> Decision:
    """Decide what to do next; call again until the decision is `Wait`."""
    return earliest_first(state, _choose)


def _choose(turn: LaneTurn) -> Decision:
    chosen = least_per_sample(turn)
    return turn.send(chosen, turn.largest_batch(chosen), "fastest")


def least_per_sample(turn: LaneTurn) -> VariantState:
    """Return the usable variant with the shortest time per sample in its largest batch."""

    def seconds_per_sample(variant: VariantState) -> float:
        size = variant.largest_batch(variant.max_batch, turn.left_s)
        return variant.times.typical_s(size) / size

    return min(turn.usable, key=seconds_per_sample)
