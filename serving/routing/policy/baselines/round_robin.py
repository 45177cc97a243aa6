"""The round robin policy: all variants in turn, regardless of their properties.

    variant = argmin batches sent so far

Earliest deadline first; the largest batch that the slack of the first request allows. Adapted: a
variant that cannot be in time even in the best case is skipped, and a busy variant is waited for,
so each variant gets the same number of batches.
"""

from __future__ import annotations

from operator import attrgetter

from serving.routing.policy.baselines.edf import LaneTurn, earliest_first
from serving.routing.policy.state import Decision, RouterState


def round_robin(state: RouterState) -> Decision:
    """Decide what to do next; call again until the decision is `Wait`."""
    return earliest_first(state, _choose)


def _choose(turn: LaneTurn) -> Decision:
    chosen = min(turn.usable, key=attrgetter("batches_sent"))
    return turn.send(chosen, turn.largest_batch(chosen), "round_robin")
