"""Goodput and waiting of a simulated service whose gateway is saturated.

The gateway spends 0.4 ms on each request, answered or refused, so it can do 2,500 per second.
Answers of hosts cross a turn of its event loop, in which it serves all requests that are ready.
"""

from __future__ import annotations

import numpy as np
import pytest

from loadtests.simulator.clients import ClosedLoop
from loadtests.simulator.faults import Slowdown
from loadtests.simulator.gateway_costs import GatewayCosts
from loadtests.simulator.service import SimulatedService
from loadtests.simulator.simulate import simulate, simulate_closed_loop
from loadtests.trials.outcomes import Outcomes
from loadtests.workload.workload import SloClass
from serving.routing.policy.pareto import pareto
from serving.routing.slo import Slo
from tests.loadtests.simulator.services import workload
from tests.serving.builders import profile

PROFILES = {
    "dense": profile("dense", 0.90, {1: 0.0010, 64: 0.003}),
    "int8": profile("int8", 0.88, {1: 0.0005, 64: 0.002}),
}
COSTS = GatewayCosts(
    per_request_s=0.2e-3, per_answer_s=0.2e-3, per_refusal_s=0.2e-3, turns_per_batch=1
)
DEADLINE = SloClass("deadline", Slo(latency_s=0.050))
NO_DEADLINE = SloClass("no deadline", Slo())


def goodput_per_s(outcomes: Outcomes, start_s: float, end_s: float) -> float:
    """Return the answers in time per second between two times."""
    is_within = (outcomes.finished_s >= start_s) & (outcomes.finished_s < end_s)
    return float(np.sum(outcomes.on_time & is_within)) / (end_s - start_s)


@pytest.mark.parametrize("turns", [0, 1])
def test_goodput_is_back_within_a_second_after_a_slowdown(turns: int) -> None:
    costs = COSTS.model_copy(update={"turns_per_batch": turns})
    outcomes = simulate_closed_loop(
        SimulatedService(PROFILES, cores=1, costs=costs),
        ClosedLoop(64, (DEADLINE,), seconds=4.0),
        pareto,
        name="pareto",
        faults=[Slowdown(1.0, 2.5), Slowdown(1.5, 1.0)],
    )
    before = goodput_per_s(outcomes, 0.5, 1.0)
    assert before > 2_250
    assert goodput_per_s(outcomes, 2.5, 3.5) >= 0.9 * before


def test_lone_requests_after_an_overload_are_not_held() -> None:
    # A gateway that lags much, and does not know how long requests have waited in their sockets,
    # admits many late requests, and the planner expects misses long after the overload.
    costs = COSTS.model_copy(update={"turns_per_batch": 3})
    service = SimulatedService(PROFILES, cores=1, costs=costs, is_arrival_known=False)
    overload_s = np.arange(0.0, 3.0, 1 / 2_600)
    alone_s = np.arange(5.0, 7.0, 0.1)
    outcomes = simulate(
        service,
        workload(
            [*overload_s, *alone_s],
            (DEADLINE, NO_DEADLINE),
            [0] * len(overload_s) + [1] * len(alone_s),
        ),
        pareto,
        name="pareto",
    )
    latencies_s = (outcomes.finished_s - outcomes.workload.arrivals_s)[-len(alone_s) :]
    assert np.max(latencies_s) < 0.010, "a request takes 1.4 ms"
