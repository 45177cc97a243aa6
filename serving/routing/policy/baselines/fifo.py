"""The fifo policy: the best variant alone, without a look at the clock.

What a server with dynamic batching and no deadlines does: lanes by the arrival of the request at
their head, all that waits in one batch, up to the largest there is; nothing is dropped for being
late. Adapted: a lane is sorted by deadline, so within a lane the head is the one that is due first,
which is the one that came first wherever all are allowed the same time.
"""

from __future__ import annotations

from serving.routing.policy.baselines.edf import Turn, oldest_first
from serving.routing.policy.state import Decision, RouterState


def fifo(state: RouterState) -> Decision:
    """Decide what to do next; call again until the answer is `Wait`."""
    return oldest_first(state, _choose)


def _choose(turn: Turn) -> Decision:
    best = turn.alive[0]
    return turn.send(best, best.max_batch, "fifo")
