"""The policy of Anytime-Inference (its `docs/planner.md`): an M/M/c queue and the backlog.

    variant = the best with  max(Erlang-C wait, backlog x service / slots) + service <= SLO
              that is in time for the head; else the fastest

It asks as a request comes, and knows no batches. Adapted: asked at the head's turn, of the time it
was allowed; customers are batches as large as half of that allows; what runs is backlog too.
"""

from __future__ import annotations

import math

from serving.routing.policy.baselines.edf import Turn, earliest_first
from serving.routing.policy.baselines.fastest import least_per_sample
from serving.routing.policy.state import Decision, RouterState, VariantState


def mmc(state: RouterState) -> Decision:
    """Decide what to do next; call again until the answer is `Wait`."""
    return earliest_first(state, _choose)


def _choose(turn: Turn) -> Decision:
    feasible = (candidate for candidate in turn.usable if _is_feasible(candidate, turn))
    chosen = next(feasible, None) or least_per_sample(turn)
    return turn.send(chosen, turn.largest(chosen), "mmc")


def _is_feasible(candidate: VariantState, turn: Turn) -> bool:
    allowed_s = turn.head.deadline - turn.head.arrived
    if candidate.free_in_s + candidate.times.within_s(turn.head.size) > turn.left_s:
        return False
    size = candidate.fits(candidate.max_batch, allowed_s / 2)
    service_s = candidate.times.within_s(size)
    queue_s = erlang_c_wait_s(turn.arrivals_per_s / size, service_s, candidate.slots)
    batches = math.ceil(turn.samples(candidate) / size)
    backlog_s = candidate.free_in_s + (batches - 1) * service_s / candidate.slots
    return max(queue_s, backlog_s) + service_s <= allowed_s


def erlang_c_wait_s(arrivals_per_s: float, service_s: float, servers: int) -> float:
    """Return the mean wait in an M/M/c queue; infinite if more comes than it can serve.

    Erlang's formulas (1917), with the recursion for the probability that all servers are busy.
    """
    load = arrivals_per_s * service_s
    if load >= servers:
        return math.inf
    blocked = 1.0
    for busy in range(1, servers + 1):
        blocked = load * blocked / (busy + load * blocked)
    waits = blocked / (1 - load / servers * (1 - blocked))
    return waits * service_s / (servers - load)
