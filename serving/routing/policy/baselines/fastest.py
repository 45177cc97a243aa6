"""The fastest policy: always the variant that takes the least time for a sample.

    variant = argmin typical(b) / b,  b: its largest batch that is in time for the head of the queue

Earliest deadline first. This is Clipper-HT of Proteus (ASPLOS'24): throughput first,
whatever the accuracy; the floors of requests hold all the same.
"""

from __future__ import annotations

from serving.routing.policy.baselines.edf import Turn, earliest_first
from serving.routing.policy.state import Candidate, Decision, Situation


def fastest(situation: Situation) -> Decision:
    """Decide what to do next; call again until the answer is `Wait`."""
    return earliest_first(situation, _choose)


def _choose(turn: Turn) -> Decision:
    chosen = least_per_sample(turn)
    return turn.send(chosen, turn.largest(chosen), "fastest")


def least_per_sample(turn: Turn) -> Candidate:
    """Return the usable variant that takes the least time for a sample, in its largest batch."""

    def seconds_per_sample(candidate: Candidate) -> float:
        size = candidate.fits(candidate.max_batch, turn.left_s)
        return candidate.times.typical_s(size) / size

    return min(turn.usable, key=seconds_per_sample)
