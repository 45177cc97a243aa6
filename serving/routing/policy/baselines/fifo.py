"""The fifo policy: the best variant only, without regard to deadlines.

This is a server with dynamic batching and no deadlines: lanes by the arrival of their first
requests, all queued requests in one batch up to the largest size, and none dropped because it is
late. Adapted: a lane is sorted by deadline, so its head is the request that is due first. It is the
one that arrived first if all requests allow the same time.
"""

from __future__ import annotations

from serving.routing.policy.baselines.edf import LaneTurn, oldest_first
from serving.routing.policy.state import Decision, RouterState


def fifo(state: RouterState) -> Decision:
    """Decide what to do next; call again until the decision is `Wait`."""
    return oldest_first(state, _choose)


def _choose(turn: LaneTurn) -> Decision:
    best = turn.live[0]
    return turn.send(best, best.max_batch, "fifo")
