"""Goodput of a simulated service that turns requests away before it parses them."""

from __future__ import annotations

import numpy as np
import pytest

from loadtests.simulator.clients import ClosedLoop
from loadtests.simulator.faults import Slowdown
from loadtests.simulator.service import SimulatedService
from loadtests.simulator.simulate import simulate, simulate_closed_loop
from loadtests.trials.outcomes import Outcomes, RequestStatus
from loadtests.workload.arrivals import Poisson
from loadtests.workload.draw import draw
from loadtests.workload.workload import SloClass
from serving.dataplane.load_shedder import LoadShedder
from serving.routing.policy.pareto import pareto
from serving.routing.slo import Slo
from tests.loadtests.simulator.test_steadiness import (
    COSTS,
    DEADLINE,
    NO_DEADLINE,
    PROFILES,
    goodput_per_s,
)
from tests.serving.builders import profile

SHEDDING_COSTS = COSTS.model_copy(update={"per_shed_s": 0.03e-3})
SERVICE = SimulatedService(PROFILES, cores=1, costs=SHEDDING_COSTS)
CAPACITY_PER_S = 2_500
CONNECTIONS = 512
START_S, END_S = 0.5, 1.5
"""Interval in which goodput is measured, in seconds."""


def closed_loop(clients: int, *classes: SloClass, service: SimulatedService = SERVICE) -> Outcomes:
    loop = ClosedLoop(clients, classes, seconds=END_S)
    return simulate_closed_loop(service, loop, pareto, name="pareto")


def open_loop(multiple: float, class_: SloClass) -> Outcomes:
    load = draw(Poisson(), [class_], multiple * CAPACITY_PER_S, END_S, 0)
    return simulate(SERVICE, load, pareto, name="pareto", connections=CONNECTIONS)


def answered_in_time(outcomes: Outcomes, class_: int) -> int:
    return int(np.sum(outcomes.on_time & (outcomes.workload.class_of == class_)))


@pytest.fixture
def without_shedding(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Let every request in until the patch is undone."""
    monkeypatch.setattr(LoadShedder, "is_open", lambda *args: True)
    return monkeypatch


@pytest.mark.parametrize("turns", [1, 3])
def test_goodput_is_back_within_a_second_after_a_slowdown(turns: int) -> None:
    costs = SHEDDING_COSTS.model_copy(update={"turns_per_batch": turns})
    outcomes = simulate_closed_loop(
        SimulatedService(PROFILES, cores=1, costs=costs),
        ClosedLoop(64, (DEADLINE,), seconds=3.2),
        pareto,
        name="pareto",
        faults=[Slowdown(0.7, 2.5), Slowdown(1.2, 1.0)],
    )
    before = goodput_per_s(outcomes, 0.3, 0.7)
    assert before > 0.85 * CAPACITY_PER_S
    assert goodput_per_s(outcomes, 2.2, 3.2) >= 0.9 * before


@pytest.mark.parametrize("clients", [1, 16, 64, 256, 1024])
def test_a_deadline_costs_little_goodput_in_a_closed_loop(clients: int) -> None:
    loose = goodput_per_s(closed_loop(clients, NO_DEADLINE), START_S, END_S)
    assert goodput_per_s(closed_loop(clients, DEADLINE), START_S, END_S) >= 0.9 * loose


@pytest.mark.parametrize("multiple", [0.5, 1.0, 3.0, 20.0])
def test_a_deadline_costs_little_goodput_in_an_open_loop(multiple: float) -> None:
    loose = goodput_per_s(open_loop(multiple, NO_DEADLINE), START_S, END_S)
    assert goodput_per_s(open_loop(multiple, DEADLINE), START_S, END_S) >= 0.9 * loose


@pytest.mark.parametrize("milliseconds", [5, 10, 20])
def test_goodput_with_tight_deadlines_is_near_the_capacity(milliseconds: int) -> None:
    outcomes = closed_loop(64, SloClass("tight", Slo(latency_s=milliseconds / 1e3)))
    assert goodput_per_s(outcomes, START_S, END_S) >= 0.9 * CAPACITY_PER_S


@pytest.mark.parametrize(
    ("loose_slo", "share"),
    [pytest.param(Slo(latency_s=1.0), 0.8, id="1 s"), pytest.param(Slo(), 0.7, id="none")],
)
def test_a_minority_with_tight_deadlines_does_not_get_the_others_turned_away(
    loose_slo: Slo, share: float, without_shedding: pytest.MonkeyPatch
) -> None:
    classes = (
        SloClass("tight", Slo(latency_s=0.005), share=0.3),
        SloClass("loose", loose_slo, share=0.7),
    )
    reference = closed_loop(64, *classes)
    without_shedding.undo()
    outcomes = closed_loop(64, *classes)
    assert answered_in_time(outcomes, 1) >= share * answered_in_time(reference, 1)
    assert outcomes.on_time.sum() >= reference.on_time.sum()


@pytest.mark.parametrize(("clients", "shed"), [(32, False), (64, False), (256, True)])
def test_where_hosts_are_the_bottleneck_the_router_decides(
    clients: int, shed: bool, without_shedding: pytest.MonkeyPatch
) -> None:
    slow = {
        "dense": profile("dense", 0.90, {1: 0.020, 64: 0.080}),
        "int8": profile("int8", 0.88, {1: 0.015, 64: 0.060}),
    }
    service = SimulatedService(slow, cores=1, costs=SHEDDING_COSTS)
    class_ = SloClass("deadline", Slo(latency_s=0.150))
    reference = closed_loop(clients, class_, service=service)
    without_shedding.undo()
    outcomes = closed_loop(clients, class_, service=service)
    assert outcomes.on_time.sum() >= reference.on_time.sum()
    if not shed:
        assert not np.any(outcomes.status == RequestStatus.SHED)
