"""Simulates the loads of a goodput curve; the points are those of a measurement of a live service.

SimulatedService, CurvePlan ─▶ simulate_round ─▶ CurvePoints, for the same tables and plots
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Final

import numpy as np

from loadtests.simulator.clients import ClosedLoop
from loadtests.simulator.service import SimulatedService
from loadtests.simulator.simulate import simulate, simulate_closed_loop
from loadtests.steady.curve import CAPACITY_CLIENTS, CurvePlan, CurvePoint, Loop
from loadtests.steady.load import DEFAULT_CONNECTIONS, LoadRecord
from loadtests.steady.measurement import Measurement, summarize_load
from loadtests.trials.outcomes import Outcomes, RequestStatus
from loadtests.workload.arrivals import Poisson
from loadtests.workload.draw import draw
from loadtests.workload.workload import SloClass
from serving.routing.policy import POLICIES
from serving.routing.slo import Slo

HTTP_STATUS: Final = {
    RequestStatus.ANSWERED: HTTPStatus.OK,
    RequestStatus.SHED: HTTPStatus.TOO_MANY_REQUESTS,
    RequestStatus.EXPIRED: HTTPStatus.GATEWAY_TIMEOUT,
    RequestStatus.UNATTAINABLE: HTTPStatus.UNPROCESSABLE_ENTITY,
    RequestStatus.FAILED: HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""HTTP status with which a service reports the status of a request."""


def simulate_round(
    service: SimulatedService,
    plan: CurvePlan,
    policy: str,
    number: int,
    on_load: Callable[[], None] = lambda: None,
) -> Iterator[CurvePoint]:
    """Simulate every load once; `number` of the round is the seed.

    Each load has a service of its own, which has learned nothing yet. As many requests of the open
    loop are unanswered at a time as the live client has connections; the others are not sent.
    `on_load` is called after each load.

    Raises RuntimeError if there is no answer to the loose deadline in the closed loop, which leaves
    no capacity to offer multiples of; ValueError as `simulate_closed_loop` does.
    """

    def run_closed(clients: int, deadline_ms: float) -> Measurement:
        loop = ClosedLoop(clients, _classes(deadline_ms), plan.seconds_per_load)
        outcomes = simulate_closed_loop(service, loop, POLICIES[policy], name=policy, seed=number)
        on_load()
        return _summarize(outcomes, plan, deadline_ms)

    def run_open(rate_per_s: float, deadline_ms: float) -> Measurement:
        workload = draw(Poisson(), _classes(deadline_ms), rate_per_s, plan.seconds_per_load, number)
        outcomes = simulate(
            service, workload, POLICIES[policy], name=policy, seed=number,
            connections=DEFAULT_CONNECTIONS,
        )  # fmt: skip
        on_load()
        measured = _summarize(outcomes, plan, deadline_ms)
        offered = int(np.sum(workload.arrivals_s >= plan.settle_s))
        unsent = offered - measured.offered
        return measured.model_copy(update={"offered": offered, "unsent": unsent})

    deadlines_ms = {True: plan.loose_deadline_ms, False: plan.deadline_ms}
    capacity_per_s = run_closed(CAPACITY_CLIENTS, plan.loose_deadline_ms).goodput_per_s
    if not capacity_per_s:
        raise RuntimeError(f"{CAPACITY_CLIENTS} clients got no answer: the capacity is unknown")
    for clients in plan.clients:
        for is_loose, deadline_ms in deadlines_ms.items():
            measured = run_closed(clients, deadline_ms)
            yield CurvePoint(
                policy=policy, round=number, loop=Loop.CLOSED, level=clients, is_loose=is_loose,
                capacity_per_s=capacity_per_s, measured=measured,
            )  # fmt: skip
    for multiple in plan.multiples:
        for is_loose, deadline_ms in deadlines_ms.items():
            measured = run_open(multiple * capacity_per_s, deadline_ms)
            yield CurvePoint(
                policy=policy, round=number, loop=Loop.OPEN, level=multiple, is_loose=is_loose,
                capacity_per_s=capacity_per_s, measured=measured,
            )  # fmt: skip


def _classes(deadline_ms: float) -> tuple[SloClass, ...]:
    return (SloClass("all", Slo(latency_s=deadline_ms / 1e3)),)


def _summarize(outcomes: Outcomes, plan: CurvePlan, deadline_ms: float) -> Measurement:
    record = LoadRecord(
        started_s=0.0,
        due_s=outcomes.workload.arrivals_s,
        ended_s=outcomes.finished_s,
        http_status=np.array([HTTP_STATUS[RequestStatus(s)] for s in outcomes.status], np.int16),
        delays_s=np.zeros(1),
        cpu_share=0.0,
    )
    return summarize_load(record, deadline_ms, plan.settle_s, plan.seconds_per_load)
