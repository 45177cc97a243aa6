"""The policy of Anytime-Inference (its `docs/planner.md`): an M/M/c queue and the backlog.

    variant = the best with  max(Erlang-C wait, backlog x service / slots) + service <= SLO
              that is in time for the head; else the fastest

The original decides when a request arrives, and has no batches. Adapted: it decides when the head
is served, with the time that the head allowed on arrival. The customers of the M/M/c queue are
batches as large as half of that time allows, and running batches belong to the backlog.
"""

from __future__ import annotations

import math

from serving.routing.policy.baselines.edf import LaneTurn, earliest_first
from serving.routing.policy.baselines.fastest import least_per_sample
from serving.routing.policy.state import Decision, RouterState, VariantState


def mmc(state: RouterState) -> Decision:
    """Decide what to do next; call again until the decision is `Wait`."""
    return earliest_first(state, _choose)


def _choose(turn: LaneTurn) -> Decision:
    feasible = (variant for variant in turn.usable if _is_feasible(variant, turn))
    chosen = next(feasible, None) or least_per_sample(turn)
    return turn.send(chosen, turn.largest_batch(chosen), "mmc")


def _is_feasible(variant: VariantState, turn: LaneTurn) -> bool:
    allowed_s = turn.head.deadline - turn.head.arrived
    if variant.free_in_s + variant.times.within_s(turn.head.size) > turn.left_s:
        return False
    size = variant.largest_batch(variant.max_batch, allowed_s / 2)
    service_s = variant.times.within_s(size)
    queue_s = erlang_c_wait_s(turn.arrivals_per_s / size, service_s, variant.slots)
    batches = math.ceil(turn.samples(variant) / size)
    backlog_s = variant.free_in_s + (batches - 1) * service_s / variant.slots
    return max(queue_s, backlog_s) + service_s <= allowed_s


def erlang_c_wait_s(arrivals_per_s: float, service_s: float, servers: int) -> float:
    """Return the mean wait in an M/M/c queue, in seconds; infinite if it is overloaded.

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
