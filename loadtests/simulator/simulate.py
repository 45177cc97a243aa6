"""A service on a virtual clock: the planner, policy and latency code of the real one.

    workload ─▶ Planner ─▶ Machine, which takes as long as report cards say ─▶ Outcomes

Deterministic by its seed. Time passes from event to event, so a simulated second costs what its
decisions do.
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


@dataclass(frozen=True, slots=True)
class SimulatedService:
    """What is simulated: variants, and the machine that their hosts share."""

    profiles: Mapping[str, VariantProfile]
    cores: float
    """Batches that run at once without slowing each other."""
    slots: int = 1
    """Batches that a variant's hosts take at a time."""
    max_batch: int = 64
    max_queue: int = 2000
    link_s: float = 0.0
    """The way to a host and back, for every batch; it keeps its core meanwhile."""
    gateways: int = 1
    """Each has a queue of its own, and gets an equal part of the requests, by chance."""

    def times(self) -> dict[str, ReportCardTimes]:
        """Return by variant how long its batches take."""
        return {
            n: ReportCardTimes(profile.latencies, self.link_s)
            for n, profile in self.profiles.items()
        }


@dataclass(frozen=True, slots=True, order=True)
class HostFailure:
    """All hosts of a variant die at `at_s`, and are back `for_s` later."""

    at_s: float
    variant: str
    for_s: float


@dataclass(frozen=True, slots=True, order=True)
class Slowdown:
    """From `at_s` on everything takes `factor` times as long as the report cards say."""

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
    """Return what becomes of every request of a workload under a policy.

    Raises `RuntimeError` if a request is answered twice, or never: a defect of the scheduler.
    """
    simulation = _Simulation(service, workload, policy, name, seed, faults)
    simulation.run()
    return simulation.recorder.outcomes()


class _Simulation:
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
        self._times = service.times()
        self._rng = np.random.default_rng(seed)
        self._draws: list[float] = []
        self._sent: dict[BatchKey, Send[int]] = {}
        self._dead = Counter[str]()
        self._keys = [
            lane_key(qualifying(service.profiles, each.slo), each.slo) for each in workload.classes
        ]
        self._happenings = sorted(
            [(each.at_s, place, each, False) for place, each in enumerate(faults)]
        )
        self.recorder = Recorder(workload, name, tuple(service.profiles))

    def run(self) -> None:
        arrivals = self._workload.arrivals_s.tolist()
        class_of = self._workload.class_of.tolist()
        gateway_of = self._rng.integers(0, len(self._gateways), len(arrivals)).tolist()
        place, count = 0, len(arrivals)
        while True:
            arrival = arrivals[place] if place < count else math.inf
            end, batch = self._machine.next_end()
            fault = self._happenings[0][0] if self._happenings else math.inf
            wake = min(gateway.wake_at for gateway in self._gateways)
            self._now = now = min(arrival, end, wake, fault)
            if now == math.inf:
                break
            if now == fault:
                self._happen()
            elif now == end:
                self._end(batch)
            elif now == arrival:
                to = gateway_of[place]
                self._arrive(self._gateways[to], place, class_of[place])
                place += 1
                if place < count and arrivals[place] == now and gateway_of[place] == to:
                    continue  # what arrives together is looked at together
                self._look(to)
            else:
                for to, gateway in enumerate(self._gateways):
                    if gateway.wake_at == now:
                        self._look(to)
        self.recorder.check()

    def _arrive(self, gateway: _Gateway, request: int, class_: int) -> None:
        now, key = self._now, self._keys[class_]
        each = self._workload.classes[class_]
        allowed_s = each.slo.latency_s
        if not any(
            attainable_variants(key.variants, each.size, allowed_s, gateway.latency.best_case_s)
        ):
            self.recorder.refused(request, RequestStatus.UNATTAINABLE, now)
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
            self.recorder.refused(request, RequestStatus.SHED, now)
            return
        for waiting, _ in shed:
            self.recorder.refused(waiting.payload, RequestStatus.SHED, now)

    def _look(self, to: int) -> None:
        now, gateway = self._now, self._gateways[to]
        gateway.wake_at = math.inf
        while True:
            match gateway.planner.step(now):
                case Send() as send:
                    self._start((to, send.number), send)
                case Expired(waiting):
                    self.recorder.refused(waiting.payload, RequestStatus.EXPIRED, now)
                case NoReplica(batch):
                    self._fail(batch)
                case Idle(until):
                    gateway.planner.update_forecast(now)
                    if until < math.inf:
                        gateway.wake_at = max(until, now + MIN_WAIT_S)
                    return

    def _start(self, batch: BatchKey, send: Send[int]) -> None:
        if not self._draws:
            self._draws = self._rng.random(DRAWS).tolist()
        work_s = self._times[send.variant].quantile_s(send.size, self._draws.pop())
        self._machine.start(batch, send.variant, work_s, self._now)
        self._sent[batch] = send
        self.recorder.sent(batch, self._now)

    def _end(self, batch: BatchKey) -> None:
        to, number = batch
        self._machine.stop(batch, self._now)
        send = self._sent.pop(batch)
        self._gateways[to].planner.end_batch(number, self._now)
        self.recorder.answered(batch, send, self._now)
        self._look(to)

    def _happen(self) -> None:
        _, place, fault, is_over = self._happenings.pop(0)
        match fault:
            case Slowdown(_, factor):
                self._machine.slow_down(factor, self._now)
            case HostFailure(_, variant, for_s) if not is_over:
                self._dead[variant] += 1
                self._set_slots(variant, 0)
                for batch in [b for b, send in self._sent.items() if send.variant == variant]:
                    self._lose(batch)
                self._happenings.append((self._now + for_s, place, fault, True))
                self._happenings.sort()
            case HostFailure(_, variant, _):
                self._dead[variant] -= 1
                if not self._dead[variant]:
                    self._set_slots(variant, self._service.slots)
        for to in range(len(self._gateways)):
            self._look(to)

    def _set_slots(self, variant: str, slots: int) -> None:
        for gateway in self._gateways:
            gateway.planner.set_slots(variant, slots)

    def _lose(self, batch: BatchKey) -> None:
        to, number = batch
        self._machine.stop(batch, self._now)
        send = self._sent.pop(batch)
        self._gateways[to].planner.end_batch(number, self._now, is_representative=False)
        self._fail(self._gateways[to].planner.retry(send.batch))

    def _fail(self, batch: Sequence[QueuedRequest[int]]) -> None:
        for waiting in batch:
            self.recorder.refused(waiting.payload, RequestStatus.FAILED, self._now)


class _Gateway:
    """One gateway: what it knows and decides, and when it wants to look again."""

    def __init__(self, service: SimulatedService, policy: Policy, now: Callable[[], float]) -> None:
        self.latency = LatencyModel(
            {name: profile.latencies for name, profile in service.profiles.items()}, now
        )
        self.planner = Planner[int](
            policy,
            self.latency,
            {name: profile.accuracy for name, profile in service.profiles.items()},
            max_batch=service.max_batch,
            max_queue=service.max_queue,
            cores=service.cores,
        )
        self.wake_at = math.inf
        for variant in service.profiles:
            self.planner.set_slots(variant, service.slots)
