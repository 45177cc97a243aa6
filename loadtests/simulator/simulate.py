"""A discrete-event simulation of a service, with the gateway's planner, policy and latency code.

    clients ─▶ SimulatedGateway ─▶ SimulatedMachine, with durations from report cards ─▶ Outcomes

The result is determined by the seed. The clock advances from event to event, so the computing time
depends on the number of decisions, not on the simulated time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from loadtests.simulator.clients import (
    Clients,
    ClosedLoop,
    Retries,
    Sending,
    closed_loop,
    open_loop,
)
from loadtests.simulator.faults import Fault, HostFailure, Slowdown
from loadtests.simulator.gateway import SimulatedGateway, SimulatedRequest
from loadtests.simulator.machine import BatchKey, SimulatedMachine
from loadtests.simulator.record import Recorder
from loadtests.simulator.service import SimulatedService
from loadtests.trials.outcomes import Outcomes, RequestStatus
from loadtests.workload.workload import SloClass, Workload
from serving.routing.attainability import lane_key
from serving.routing.policy.state import Policy
from serving.routing.profile import qualifying
from serving.routing.step import Send

DRAWS: Final = 4096
"""Random numbers that are drawn at a time."""

NO_RETRIES: Final = Retries()
"""Clients that never repeat a refused request."""


def simulate(
    service: SimulatedService,
    workload: Workload,
    policy: Policy,
    *,
    name: str,
    seed: int = 0,
    faults: Sequence[Fault] = (),
    retries: Retries = NO_RETRIES,
    connections: float = math.inf,
) -> Outcomes:
    """Simulate a workload under a policy and return the outcome of every request.

    The outcomes include those of repeated requests, in the order in which they are sent. A request
    is not sent, and has no outcome, if there are as many unanswered ones as `connections`.
    Raises RuntimeError if a request has no outcome or two, which is a defect of the planner.
    """
    rng = np.random.default_rng(seed)
    clients = open_loop(workload, service.gateways, rng, retries, connections)
    simulation = _Simulation(service, workload.classes, clients, policy, name, rng, faults)
    simulation.run()
    recorder = simulation.recorder
    if recorder.requests != len(workload):  # some were repeated or not sent
        workload = recorder.workload(workload.name, workload.classes, workload.seconds)
    return recorder.outcomes(workload)


def simulate_closed_loop(
    service: SimulatedService,
    loop: ClosedLoop,
    policy: Policy,
    *,
    name: str,
    seed: int = 0,
    faults: Sequence[Fault] = (),
) -> Outcomes:
    """Simulate closed-loop clients under a policy and return the outcome of every request.

    Raises ValueError as `ClosedLoop.check`, and RuntimeError as `simulate` does.
    """
    loop.check(service.costs)
    rng = np.random.default_rng(seed)
    clients = closed_loop(loop, service.gateways, rng)
    simulation = _Simulation(service, loop.classes, clients, policy, name, rng, faults)
    simulation.run()
    recorder = simulation.recorder
    return recorder.outcomes(recorder.workload(loop.name, loop.classes, loop.seconds))


class _Simulation:
    """The events of one simulation, and what is around its gateways."""

    def __init__(
        self,
        service: SimulatedService,
        classes: Sequence[SloClass],
        clients: Clients,
        policy: Policy,
        name: str,
        rng: np.random.Generator,
        faults: Sequence[Fault],
    ) -> None:
        self._service = service
        self._classes = classes
        self._clients = clients
        self._now = 0.0
        self._gateways = [
            SimulatedGateway(index, service, policy, lambda: self._now, self)
            for index in range(service.gateways)
        ]
        self._machine = SimulatedMachine(
            service.cores, dict.fromkeys(service.profiles, service.slots)
        )
        self._batch_times = service.batch_times()
        self._rng = rng
        self._draws: list[float] = []
        self._on_hosts: dict[BatchKey, Send[SimulatedRequest]] = {}
        self._sendings: dict[int, Sending] = {}  # by number of an unanswered request
        self._failed = Counter[str]()  # host failures in effect, by variant
        self._keys = [
            lane_key(qualifying(service.profiles, each.slo), each.slo) for each in classes
        ]
        self._fault_events = sorted(  # time, number, fault, whether the fault ends
            [(each.at_s, number, each, False) for number, each in enumerate(faults)]
        )
        self.recorder = Recorder(name, tuple(service.profiles))

    def run(self) -> None:
        """Process events until none is left."""
        while True:
            arrival = self._clients.next_at
            completion, batch = self._machine.next_completion()
            fault = self._fault_events[0][0] if self._fault_events else math.inf
            work = min(gateway.next_at for gateway in self._gateways)
            self._now = now = min(arrival, completion, work, fault)
            if now == math.inf:
                break
            if now == fault:
                self._apply_fault()
            elif now == completion:
                self._complete(batch)
            elif now == arrival:
                self._send_requests()
            else:
                for gateway in self._gateways:
                    if gateway.next_at == now:
                        gateway.advance()
        self.recorder.check()

    def start_batch(self, gateway: int, send: Send[SimulatedRequest]) -> None:
        """Start a batch on a host, with a random duration."""
        if not self._draws:
            self._draws = self._rng.random(DRAWS).tolist()
        batch = (gateway, send.number)
        work_s = self._batch_times[send.variant].quantile_s(send.size, self._draws.pop())
        self._machine.start(batch, send.variant, work_s, self._now)
        self._on_hosts[batch] = send
        self.recorder.record_dispatch(batch, self._now)

    def record_batch(self, gateway: int, send: Send[SimulatedRequest]) -> None:
        """Record that the gateway has received the answer of a host."""
        self.recorder.record_batch(
            (gateway, send.number), send.variant, send.size, send.predicted_s, self._now
        )

    def answer(self, request: SimulatedRequest, send: Send[SimulatedRequest]) -> None:
        """Deliver the answer to a request of a batch to the client."""
        self.recorder.record_answer(request.number, send.variant, send.size, self._now)
        self._respond(request, RequestStatus.ANSWERED)

    def fail(self, request: SimulatedRequest, status: RequestStatus) -> None:
        """Deliver an error to the client."""
        self.recorder.record_error(request.number, status, self._now)
        self._respond(request, status)

    def _respond(self, request: SimulatedRequest, status: RequestStatus) -> None:
        self._clients.receive(self._sendings.pop(request.number), status, self._now)

    def _send_requests(self) -> None:
        """Send the next request, and those that arrive with it, and so are planned with it."""
        now = self._now
        to = self._clients.next_gateway
        while self._clients.is_next(to, now):
            sending = self._clients.send()
            if sending is None:
                continue
            class_ = sending.class_
            number = self.recorder.record_arrival(class_, now)
            self._sendings[number] = sending
            self._gateways[to].arrive(
                SimulatedRequest(number, self._classes[class_], self._keys[class_], now)
            )
        self._gateways[to].run()

    def _complete(self, batch: BatchKey) -> None:
        ran_s = self._machine.stop(batch, self._now)
        gateway = self._gateways[batch[0]]
        # A host reports the time that it computed, without the way.
        gateway.return_batch(self._on_hosts.pop(batch), max(0.0, ran_s - self._service.link_s))
        gateway.run()

    def _apply_fault(self) -> None:
        _, number, fault, is_end = self._fault_events.pop(0)
        match fault:
            case Slowdown(_, factor):
                self._machine.slow_down(factor, self._now)
                for gateway in self._gateways:
                    gateway.slow_down(factor)
            case HostFailure(_, variant, duration_s) if not is_end:
                self._failed[variant] += 1
                self._set_slots(variant, 0)
                for batch in [b for b, send in self._on_hosts.items() if send.variant == variant]:
                    self._machine.stop(batch, self._now)
                    self._gateways[batch[0]].lose_batch(self._on_hosts.pop(batch))
                self._fault_events.append((self._now + duration_s, number, fault, True))
                self._fault_events.sort()
            case HostFailure(_, variant, _):
                self._failed[variant] -= 1
                if not self._failed[variant]:
                    self._set_slots(variant, self._service.slots)
        for gateway in self._gateways:
            gateway.schedule_plan()
            gateway.run()

    def _set_slots(self, variant: str, slots: int) -> None:
        for gateway in self._gateways:
            gateway.planner.set_slots(variant, slots)
