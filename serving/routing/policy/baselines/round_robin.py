"""The round robin policy: every variant in its turn, whatever it is good at.

    variant = argmin batches sent so far

Earliest deadline first; a batch as large as the slack of its first request allows. Adapted: one
that can no longer be in time, even at best, is passed over, and a variant that is busy is waited
for: each gets as many batches as the others.
"""

from __future__ import annotations

from operator import attrgetter

from serving.routing.policy.baselines.edf import Turn, earliest_first
from serving.routing.policy.state import Decision, RouterState


def round_robin(state: RouterState) -> Decision:
    """Decide what to do next; call again until the answer is `Wait`."""
    return earliest_first(state, _choose)


def _choose(turn: Turn) -> Decision:
    chosen = min(turn.usable, key=attrgetter("sent"))
    return turn.send(chosen, turn.largest(chosen), "round_robin")
