"""The fastest policy: always the variant that takes the least time for a sample.

    variant = argmin typical(b) / b,  b: its largest batch that is in time for the head of the queue

Earliest deadline first. This is Clipper-HT of Proteus (ASPLOS'24): throughput first,
whatever the accuracy; the floors of requests hold all the same.
"""

from __future__ import annotations

from serving.routing.policy.baselines.edf import Turn, earliest_first
from serving.routing.policy.state import Decision, RouterState, VariantState


def fastest(state: RouterState) -> Decision:
    """Decide what to do next; call again until the answer is `Wait`."""
    return earliest_first(state, _choose)


def _choose(turn: Turn) -> Decision:
    chosen = least_per_sample(turn)
    return turn.send(chosen, turn.largest(chosen), "fastest")


def least_per_sample(turn: Turn) -> VariantState:
    """Return the usable variant that takes the least time for a sample, in its largest batch."""

    def seconds_per_sample(candidate: VariantState) -> float:
        size = candidate.fits(candidate.max_batch, turn.left_s)
        return candidate.times.typical_s(size) / size

    return min(turn.usable, key=seconds_per_sample)
