"""The time that a simulated gateway takes, as its clients see it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from loadtests.simulator.clients import ClosedLoop, Retries
from loadtests.simulator.faults import Slowdown
from loadtests.simulator.gateway_costs import GatewayCosts
from loadtests.simulator.simulate import simulate, simulate_closed_loop
from loadtests.trials.outcomes import RequestStatus
from loadtests.workload.workload import SloClass
from serving.routing.policy.pareto import pareto
from serving.routing.slo import Slo
from tests.loadtests.simulator.services import constant_time_service, workload

NO_DEADLINE = (SloClass("no deadline", Slo()),)
ALL_COSTS = GatewayCosts(per_request_s=0.1, per_answer_s=0.2, per_batch_s=0.03, per_turn_s=0.001)


def finished_s(costs: GatewayCosts, arrivals_s: list[float]) -> list[float]:
    """Simulate requests without deadlines, one per batch of 1 s; return when they are answered."""
    service = constant_time_service(1.0, costs=costs)
    load = workload(arrivals_s, NO_DEADLINE)
    outcomes = simulate(service, load, pareto, name="pareto")
    assert np.all(outcomes.status == RequestStatus.ANSWERED)
    return list(outcomes.finished_s)


def test_a_lone_request_takes_the_time_of_all_its_parts() -> None:
    # Two turns: one reads the request, one reads the host's answer and answers the request.
    polled, read = ALL_COSTS, ALL_COSTS.model_copy(update={"turns_per_batch": 1})
    assert finished_s(read, [0.0]) == pytest.approx([1.0 + 0.1 + 0.03 + 0.2 + 2 * 0.001])
    assert finished_s(polled, [0.0]) == pytest.approx([1.0 + 0.1 + 0.03 + 0.2 + 1 * 0.001])


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_batch_crosses_turns_in_which_other_requests_are_read(turns: int) -> None:
    # From 1.1 s on the loop always has a request to read, which takes 0.1 s.
    costs = GatewayCosts(per_request_s=0.1, turns_per_batch=turns)
    arrivals_s = [0.0, *(0.95 + 0.1 * number for number in range(20))]
    first = finished_s(costs, arrivals_s)[0]
    # The turn that reads the answer begins at 1.15 s.
    assert first == pytest.approx(1.15 + 0.1 * (turns - 1), abs=0.1001)
    polled = finished_s(costs.model_copy(update={"turns_per_batch": 0}), arrivals_s)[0]
    assert polled <= first


def test_a_slowdown_slows_the_gateway_too() -> None:
    outcomes = simulate(
        constant_time_service(1.0, costs=GatewayCosts(per_request_s=0.5)),
        workload([0.0, 10.0], NO_DEADLINE),
        pareto,
        name="pareto",
        faults=[Slowdown(5.0, 2.0)],
    )
    assert outcomes.finished_s == pytest.approx([1.5, 13.0])


@pytest.mark.parametrize("clients", [4, 32])
def test_the_gateway_limits_the_throughput_of_a_closed_loop(clients: int) -> None:
    costs = GatewayCosts(per_request_s=0.002, per_answer_s=0.003)
    service = constant_time_service(1e-4, costs=costs, max_batch=64)
    loop = ClosedLoop(clients, NO_DEADLINE, seconds=2.0)
    outcomes = simulate_closed_loop(service, loop, pareto, name="pareto")
    latencies_s = outcomes.finished_s - outcomes.workload.arrivals_s
    assert len(outcomes.workload) / 2.0 == pytest.approx(200.0, rel=0.1)
    # Little's law: as many requests are inside as there are clients.
    assert latencies_s.sum() / 2.0 == pytest.approx(clients, rel=0.1)


def test_a_closed_loop_client_has_one_request_at_a_time() -> None:
    service = constant_time_service(0.01, costs=GatewayCosts(per_request_s=0.001))
    loop = ClosedLoop(1, NO_DEADLINE, seconds=1.0, think_s=0.05)
    outcomes = simulate_closed_loop(service, loop, pareto, name="pareto")
    gaps_s = outcomes.workload.arrivals_s[1:] - outcomes.finished_s[:-1]
    assert len(gaps_s) > 10
    assert gaps_s == pytest.approx(np.full(len(gaps_s), 0.05))
    assert outcomes.workload.arrivals_s[-1] < 1.0


def test_refused_clients_of_a_closed_loop_send_again() -> None:
    # Nine of ten requests are refused, because a batch of one takes longer than the others allow.
    classes = (SloClass("deadline", Slo(latency_s=0.15)),)
    service = constant_time_service(0.1, costs=GatewayCosts(per_request_s=0.001))
    loop = ClosedLoop(4, classes, seconds=3.0, retry_s=0.02)
    outcomes = simulate_closed_loop(service, loop, pareto, name="pareto")
    shed = int(np.sum(outcomes.status == RequestStatus.SHED))
    assert int(np.sum(outcomes.on_time)) >= 25
    assert shed > 100


def test_repeated_requests_have_outcomes_of_their_own() -> None:
    classes = (SloClass("deadline", Slo(latency_s=1.5)),)
    load = workload([0.0, 0.0, 0.0], classes)
    service = constant_time_service(1.0)
    once = simulate(service, load, pareto, name="pareto")
    assert sorted(once.status) == [
        RequestStatus.ANSWERED,
        RequestStatus.SHED,
        RequestStatus.EXPIRED,
    ]
    again = simulate(service, load, pareto, name="pareto", retries=Retries(2, delay_s=2.0))
    assert again.workload.arrivals_s.tolist() == [0.0, 0.0, 0.0, 2.0], "the refused one, once"
    assert int(again.on_time.sum()) == 2


def test_deadlines_count_from_the_arrival_if_it_is_known() -> None:
    # The second request waits in its socket for 1 s, until the first is parsed. It is parsed after
    # another 1 s, and answered after 2.6 s.
    classes = (SloClass("deadline", Slo(latency_s=2.5)),)
    load = workload([0.0, 0.0], classes)
    costs = GatewayCosts(per_request_s=1.0)
    answered = {}
    for is_known in (True, False):
        service = constant_time_service(0.6, costs=costs, max_batch=1, is_arrival_known=is_known)
        outcomes = simulate(service, load, pareto, name="pareto")
        answered[is_known] = outcomes.status.tolist()
        assert outcomes.on_time.tolist() == [True, False]
    assert answered[False] == [RequestStatus.ANSWERED, RequestStatus.ANSWERED]
    assert answered[True] == [RequestStatus.ANSWERED, RequestStatus.EXPIRED]


def test_a_request_with_an_unattainable_deadline_costs_a_refusal() -> None:
    costs = GatewayCosts(per_request_s=0.1, per_refusal_s=0.2, per_answer_s=math.pi)
    service = constant_time_service(1.0, costs=costs)
    load = workload([0.0], [SloClass("unattainable", Slo(latency_s=0.5))])
    outcomes = simulate(service, load, pareto, name="pareto")
    assert outcomes.status.tolist() == [RequestStatus.UNATTAINABLE]
    assert outcomes.finished_s == pytest.approx([0.3])
