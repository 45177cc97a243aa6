"""A discrete-event simulation of a service, with the gateway's planner, policy and latency code.

    workload ─▶ Planner ─▶ SimulatedMachine, with durations from report cards ─▶ Outcomes

The result is determined by the seed. The clock advances from event to event, so the computing time
depends on the number of decisions, not on the simulated time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from loadtests.simulator.machine import BatchKey, SimulatedMachine
from loadtests.simulator.record import Recorder
from loadtests.simulator.timing import ReportCardTimes
from loadtests.trials.outcomes import Outcomes, RequestStatus
from loadtests.workload.workload import Workload
from serving.dataplane.scheduler import MIN_WAIT_S
from serving.errors import Overloaded
from serving.routing.attainability import attainable_variants, lane_key
from serving.routing.latency import LatencyModel
from serving.routing.planner import Planner
from serving.routing.policy.state import Policy, QueuedRequest
from serving.routing.profile import VariantProfile, qualifying
from serving.routing.step import Expired, Idle, NoReplica, Send

DRAWS: Final = 4096
"""Random numbers that are drawn at a time."""


@dataclass(frozen=True, slots=True)
class SimulatedService:
    """The simulated variants, and the machine that their hosts share."""

    profiles: Mapping[str, VariantProfile]
    cores: float
    """Number of batches that run at the same time at full speed."""
    slots: int = 1
    """Number of batches that the hosts of a variant run at a time."""
    max_batch: int = 64
    """Maximum number of samples in a batch."""
    max_queue: int = 2000
    """Maximum number of requests in the queue of a gateway."""
    link_s: float = 0.0
    """Round trip to a host, in seconds, added to each batch, which keeps its core meanwhile."""
    gateways: int = 1
    """Number of gateways; each has its own queue and receives a random, equal share of requests."""

    def batch_times(self) -> dict[str, ReportCardTimes]:
        """Return the distribution of batch durations by variant."""
        return {
            n: ReportCardTimes(profile.latencies, self.link_s)
            for n, profile in self.profiles.items()
        }


@dataclass(frozen=True, slots=True, order=True)
class HostFailure:
    """All hosts of a variant fail at `at_s` and are available again `duration_s` later."""

    at_s: float
    variant: str
    duration_s: float


@dataclass(frozen=True, slots=True, order=True)
class Slowdown:
    """From `at_s` on, batches take `factor` times as long as the report cards state."""

    at_s: float
    factor: float


Fault = HostFailure | Slowdown


def simulate(
    service: SimulatedService,
    workload: Workload,
    policy: Policy,
    *,
    name: str,
    seed: int = 0,
    faults: Sequence[Fault] = (),
) -> Outcomes:
    """Simulate a workload under a policy and return the outcome of every request.

    Raises RuntimeError if a request has no outcome or two, which is a defect of the planner.
    """
    simulation = _Simulation(service, workload, policy, name, seed, faults)
    simulation.run()
    return simulation.recorder.outcomes()


class _Simulation:
    """The event loop of one simulation."""

    def __init__(
        self,
        service: SimulatedService,
        workload: Workload,
        policy: Policy,
        name: str,
        seed: int,
        faults: Sequence[Fault],
    ) -> None:
        self._service = service
        self._workload = workload
        self._now = 0.0
        self._gateways = [
            _Gateway(service, policy, lambda: self._now) for _ in range(service.gateways)
        ]
        self._machine = SimulatedMachine(
            service.cores, dict.fromkeys(service.profiles, service.slots)
        )
        self._batch_times = service.batch_times()
        self._rng = np.random.default_rng(seed)
        self._draws: list[float] = []
        self._sent: dict[BatchKey, Send[int]] = {}
        self._failed = Counter[str]()  # host failures in effect, by variant
        self._keys = [
            lane_key(qualifying(service.profiles, each.slo), each.slo) for each in workload.classes
        ]
        self._fault_events = sorted(  # time, number, fault, whether the fault ends
            [(each.at_s, number, each, False) for number, each in enumerate(faults)]
        )
        self.recorder = Recorder(workload, name, tuple(service.profiles))

    def run(self) -> None:
        arrivals = self._workload.arrivals_s.tolist()
        class_of = self._workload.class_of.tolist()
        gateway_of = self._rng.integers(0, len(self._gateways), len(arrivals)).tolist()
        number, count = 0, len(arrivals)
        while True:
            arrival = arrivals[number] if number < count else math.inf
            completion, batch = self._machine.next_completion()
            fault = self._fault_events[0][0] if self._fault_events else math.inf
            wake = min(gateway.wake_at for gateway in self._gateways)
            self._now = now = min(arrival, completion, wake, fault)
            if now == math.inf:
                break
            if now == fault:
                self._apply_fault()
            elif now == completion:
                self._complete(batch)
            elif now == arrival:
                to = gateway_of[number]
                self._admit(self._gateways[to], number, class_of[number])
                number += 1
                if number < count and arrivals[number] == now and gateway_of[number] == to:
                    continue  # plan once for requests that arrive at the same time
                self._plan(to)
            else:
                for to, gateway in enumerate(self._gateways):
                    if gateway.wake_at == now:
                        self._plan(to)
        self.recorder.check()

    def _admit(self, gateway: _Gateway, request: int, class_: int) -> None:
        now, key = self._now, self._keys[class_]
        each = self._workload.classes[class_]
        allowed_s = each.slo.latency_s
        if not any(
            attainable_variants(key.variants, each.size, allowed_s, gateway.latency.best_case_s)
        ):
            self.recorder.record_error(request, RequestStatus.UNATTAINABLE, now)
            return
        try:
            _, shed = gateway.planner.admit(
                request,
                key,
                size=each.size,
                deadline=now + allowed_s,
                priority=each.slo.priority,
                now=now,
            )
        except Overloaded:
            self.recorder.record_error(request, RequestStatus.SHED, now)
            return
        for other, _ in shed:
            self.recorder.record_error(other.payload, RequestStatus.SHED, now)

    def _plan(self, to: int) -> None:
        """Execute steps of the planner of one gateway until it is idle."""
        now, gateway = self._now, self._gateways[to]
        gateway.wake_at = math.inf
        while True:
            match gateway.planner.step(now):
                case Send() as send:
                    self._start((to, send.number), send)
                case Expired(expired):
                    self.recorder.record_error(expired.payload, RequestStatus.EXPIRED, now)
                case NoReplica(batch):
                    self._fail_requests(batch)
                case Idle(until):
                    gateway.planner.update_forecast(now)
                    if until < math.inf:
                        gateway.wake_at = max(until, now + MIN_WAIT_S)
                    return

    def _start(self, batch: BatchKey, send: Send[int]) -> None:
        if not self._draws:
            self._draws = self._rng.random(DRAWS).tolist()
        work_s = self._batch_times[send.variant].quantile_s(send.size, self._draws.pop())
        self._machine.start(batch, send.variant, work_s, self._now)
        self._sent[batch] = send
        self.recorder.record_dispatch(batch, self._now)

    def _complete(self, batch: BatchKey) -> None:
        to, number = batch
        self._machine.stop(batch, self._now)
        send = self._sent.pop(batch)
        self._gateways[to].planner.end_batch(number, self._now)
        self.recorder.record_answer(batch, send, self._now)
        self._plan(to)

    def _apply_fault(self) -> None:
        _, number, fault, is_end = self._fault_events.pop(0)
        match fault:
            case Slowdown(_, factor):
                self._machine.slow_down(factor, self._now)
            case HostFailure(_, variant, duration_s) if not is_end:
                self._failed[variant] += 1
                self._set_slots(variant, 0)
                for batch in [b for b, send in self._sent.items() if send.variant == variant]:
                    self._lose_batch(batch)
                self._fault_events.append((self._now + duration_s, number, fault, True))
                self._fault_events.sort()
            case HostFailure(_, variant, _):
                self._failed[variant] -= 1
                if not self._failed[variant]:
                    self._set_slots(variant, self._service.slots)
        for to in range(len(self._gateways)):
            self._plan(to)

    def _set_slots(self, variant: str, slots: int) -> None:
        for gateway in self._gateways:
            gateway.planner.set_slots(variant, slots)

    def _lose_batch(self, batch: BatchKey) -> None:
        to, number = batch
        self._machine.stop(batch, self._now)
        send = self._sent.pop(batch)
        self._gateways[to].planner.end_batch(number, self._now, is_representative=False)
        self._fail_requests(self._gateways[to].planner.retry(send.batch))

    def _fail_requests(self, batch: Sequence[QueuedRequest[int]]) -> None:
        for failed in batch:
            self.recorder.record_error(failed.payload, RequestStatus.FAILED, self._now)


class _Gateway:
    """One gateway: its latency model, its planner, and when the planner runs next."""

    def __init__(self, service: SimulatedService, policy: Policy, now: Callable[[], float]) -> None:
        self.latency = LatencyModel(
            {name: profile.latencies for name, profile in service.profiles.items()}, now
        )
        self.planner = Planner[int](
            policy,
            self.latency,
            {name: profile.tier_accuracy for name, profile in service.profiles.items()},
            max_batch=service.max_batch,
            max_queue=service.max_queue,
            cores=service.cores,
        )
        self.wake_at = math.inf
        for variant in service.profiles:
            self.planner.set_slots(variant, service.slots)
