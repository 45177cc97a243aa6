"""A simulated gateway: the planner, behind an event loop whose work takes time.

    socket ─▶ read ─▶ parse and admit ─▶ Planner ─▶ batch ─▶ end of batch ─▶ answers
                 └─▶ turned away             └─▶ expired, failed

All work but that of the hosts runs on the event loop of the gateway.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from loadtests.simulator.event_loop import Effect, EventLoop
from loadtests.simulator.service import SimulatedService
from loadtests.trials.outcomes import RequestStatus
from loadtests.workload.workload import SloClass
from serving.dataplane.capacity import Capacity
from serving.dataplane.delivery import Delivery
from serving.dataplane.gateway_delay import Admission, GatewayDelay
from serving.dataplane.load_shedder import LoadShedder
from serving.dataplane.refusal_pacer import RefusalPacer
from serving.dataplane.scheduler import MIN_WAIT_S
from serving.dataplane.step_delay import StepDelay
from serving.errors import NotReady, Overloaded
from serving.routing.attainability import is_attainable
from serving.routing.latency import LatencyModel
from serving.routing.planner import Planner
from serving.routing.policy.state import LaneKey, Policy, QueuedRequest
from serving.routing.step import Expired, Idle, NoReplica, Send, Shadow


class SimulatedRequest(NamedTuple):
    """A request as it arrives at the socket of a gateway."""

    number: int
    class_: SloClass
    key: LaneKey
    arrived_s: float

    @property
    def rank(self) -> int:
        """Its priority, 1 the highest."""
        return self.class_.slo.priority


class Surroundings(Protocol):
    """What is around a gateway: its hosts and its clients."""

    def start_batch(self, gateway: int, send: Send[SimulatedRequest]) -> None:
        """Start a batch on a host."""

    def record_batch(self, gateway: int, send: Send[SimulatedRequest]) -> None:
        """Record that the gateway has received the answer of a host."""

    def answer(self, request: SimulatedRequest, send: Send[SimulatedRequest]) -> None:
        """Deliver the answer to a request of a batch to the client."""

    def fail(self, request: SimulatedRequest, status: RequestStatus) -> None:
        """Deliver an error to the client."""


class SimulatedGateway:
    """One gateway: its load shedder, its latency model, its planner and its event loop."""

    def __init__(
        self,
        index: int,
        service: SimulatedService,
        policy: Policy,
        now: Callable[[], float],
        surroundings: Surroundings,
    ) -> None:
        """`index` identifies the gateway; `now` returns the seconds of the virtual clock."""
        self._index = index
        self._costs = service.costs
        self._is_arrival_known = service.is_arrival_known
        self._now = now
        self._surroundings = surroundings
        self._latency = LatencyModel(
            {name: profile.latencies for name, profile in service.profiles.items()}, now
        )
        self.planner = Planner[SimulatedRequest](
            policy,
            self._latency,
            {name: profile.tier_accuracy for name, profile in service.profiles.items()},
            max_batch=service.max_batch,
            max_queue=service.max_queue,
            cores=service.cores,
        )
        for variant in service.profiles:
            self.planner.set_slots(variant, service.slots)
        self._loop = EventLoop(service.costs.per_turn_s)
        self._shedder = LoadShedder(Capacity(lambda: self._loop.busy_s))
        self._delay = GatewayDelay(self._shedder)
        self._delivery = Delivery()
        self._step_delay = StepDelay(self.planner.max_batch)
        self._pacer = RefusalPacer()
        self._held: list[tuple[float, SimulatedRequest]] = []  # a heap of refusals, by time
        self._admissions: dict[int, Admission] = {}  # by number of a request
        self._sent_at: dict[int, float] = {}  # by number of a running batch
        self._timer_at = math.inf
        self._is_plan_scheduled = False

    @property
    def next_at(self) -> float:
        """When the gateway does something by itself; infinite if it waits for an event."""
        held_until = self._held[0][0] if self._held else math.inf
        return min(self._timer_at, held_until, self._loop.next_at)

    def advance(self) -> None:
        """Do what is due at `next_at`, which is now."""
        if self._timer_at == self._now():
            self._timer_at = math.inf
            self._loop.call_soon(0.0, self._plan)
        while self._held and self._held[0][0] <= self._now():
            _, request = heapq.heappop(self._held)
            self._loop.call_soon(0.0, partial(self._turn_away, request))
        self.run()

    def run(self) -> None:
        """Handle the events of now, unless the event loop is busy."""
        self._loop.run(self._now())

    def slow_down(self, factor: float) -> None:
        """Multiply the costs of the event loop by `factor` from now on; 1 is normal speed."""
        self._loop.slowdown = factor

    def arrive(self, request: SimulatedRequest) -> None:
        """Let a request arrive at its socket, without reading it yet."""
        self._loop.call_when_read(0.0, partial(self._read, request))

    def return_batch(self, send: Send[SimulatedRequest], host_s: float) -> None:
        """Let the answer of a host, which has computed for `host_s`, arrive at its socket."""
        end_batch = partial(self._end_batch, send, host_s)
        turns = self._costs.turns_per_batch
        if turns:
            self._loop.call_when_read(0.0, partial(self._pass_on, end_batch, turns - 1))
        else:
            self._loop.call_next(self._costs.per_batch_s, end_batch)

    def lose_batch(self, send: Send[SimulatedRequest]) -> None:
        """Let the host of a batch fail."""
        del self._sent_at[send.number]
        self.planner.end_batch(send.number, self._now(), is_representative=False)
        self._fail(self.planner.retry(send.batch), RequestStatus.FAILED)

    def schedule_plan(self) -> None:
        """Run the planner at the end of the current turn, in which further requests are read."""
        if not self._is_plan_scheduled:
            self._is_plan_scheduled = True
            self._step_delay.starts()
            self._loop.call_in_turn(0.0, self._plan_if_due)

    def _read(self, request: SimulatedRequest) -> None:
        """Read the head of a request from its socket, and turn the request away or parse it.

        The deadline is not known from the head.
        """
        now = self._now()
        received = request.arrived_s if self._is_arrival_known else now
        if self._shedder.is_open(now, now - received, request.rank):
            self._shedder.enter(request.rank)
            self._loop.call_next(self._costs.per_request_s, partial(self._admit, request))
            return
        hold_s = self._pacer.hold_s(now)
        if hold_s:
            heapq.heappush(self._held, (now + hold_s, request))
            self._loop.call_next(self._costs.per_shed_s, _do_nothing)
        else:
            self._loop.call_next(self._costs.per_shed_s, partial(self._turn_away, request))

    def _turn_away(self, request: SimulatedRequest) -> None:
        self._surroundings.fail(request, RequestStatus.SHED)

    def _admit(self, request: SimulatedRequest) -> None:
        now, slo = self._now(), request.class_.slo
        received = request.arrived_s if self._is_arrival_known else now
        self.schedule_plan()
        if not is_attainable(
            request.key.variants, request.class_.size, slo.latency_s, self._latency.best_case_s
        ):
            self._refuse(request, RequestStatus.UNATTAINABLE)
            return
        admission = self._delay.admit(received, slo.latency_s, now, self._delivery)
        self._admissions[request.number] = admission
        try:
            _, shed = self.planner.admit(
                request,
                request.key,
                size=request.class_.size,
                deadline=admission.deadline,
                priority=slo.priority,
                now=now,
            )
        except Overloaded:
            self._refuse(request, RequestStatus.SHED)
            return
        except NotReady:
            self._refuse(request, RequestStatus.FAILED)
            return
        self._fail([other for other, _ in shed], RequestStatus.SHED)
        if self._step_delay.record_request(now, admission.deadline - now):
            self._plan()

    def _refuse(self, request: SimulatedRequest, status: RequestStatus) -> None:
        """Answer a request with an error in the same callback that has read it."""
        self._loop.call_next(self._costs.per_refusal_s, partial(self._end_failed, request, status))

    def _fail(
        self, requests: Sequence[QueuedRequest[SimulatedRequest]], status: RequestStatus
    ) -> None:
        """Answer queued requests with an error in the same callback."""
        for request in requests:
            self._loop.call_next(
                self._costs.per_refusal_s, partial(self._end_failed, request.payload, status)
            )

    def _end_failed(self, request: SimulatedRequest, status: RequestStatus) -> None:
        admission = self._admissions.pop(request.number, None)
        if admission is not None and status in (RequestStatus.SHED, RequestStatus.EXPIRED):
            self._delay.record_failure(admission, self._now(), request.rank)
        self._shedder.leave(request.rank)
        self._surroundings.fail(request, status)

    def _pass_on(self, end_batch: Effect, turns: int) -> None:
        """Let the answer of a host cross a number of further turns."""
        if turns:
            self._loop.call_soon(0.0, partial(self._pass_on, end_batch, turns - 1))
        else:
            self._loop.call_next(self._costs.per_batch_s, end_batch)

    def _end_batch(self, send: Send[SimulatedRequest], host_s: float) -> None:
        now, sent = self._now(), self._sent_at.pop(send.number)
        self.planner.end_batch(send.number, now, host_s=host_s)
        if send.batch:
            self._surroundings.record_batch(self._index, send)
        is_urgent = self.planner.queued > 0 and not self._step_delay.is_busy
        if is_urgent:
            self._plan()
        for request in send.batch:
            self._loop.call_next(
                self._costs.per_answer_s,
                partial(self._answer, request, send, sent - request.arrived, host_s, now),
            )
        if not is_urgent:
            self.schedule_plan()

    def _answer(
        self,
        queued: QueuedRequest[SimulatedRequest],
        send: Send[SimulatedRequest],
        queue_s: float,
        compute_s: float,
        returned_at: float,
    ) -> None:
        request = queued.payload
        self._delay.record_answer(
            self._admissions.pop(request.number),
            self._now(),
            queue_s=queue_s,
            compute_s=compute_s,
            returned_at=returned_at,
        )
        self._shedder.leave(request.rank)
        self._surroundings.answer(request, send)

    def _plan_if_due(self) -> None:
        if self._step_delay.is_over(self._now(), is_full=self.planner.has_full_batch):
            self._is_plan_scheduled = False
            self._plan()
        else:
            self._loop.call_soon(0.0, self._plan_if_due)

    def _plan(self) -> None:
        """Execute steps of the planner until it is idle."""
        now = self._now()
        self._timer_at = math.inf
        while True:
            match self.planner.step(now):
                case Send() as send:
                    self._start_batch(send, now)
                case Shadow() as shadow:
                    self._start_batch(_without_requests(shadow), now)
                case Expired(expired, _):
                    self._fail([expired], RequestStatus.EXPIRED)
                case NoReplica(batch):
                    self._fail(batch, RequestStatus.FAILED)
                case Idle(until):
                    self.planner.update_forecast(now)
                    if until < math.inf:
                        self._timer_at = max(until, now + MIN_WAIT_S)
                    return

    def _start_batch(self, send: Send[SimulatedRequest], now: float) -> None:
        self._sent_at[send.number] = now
        self._surroundings.start_batch(self._index, send)


def _do_nothing() -> None:
    """The effect of reading a request whose refusal is held."""


def _without_requests(shadow: Shadow[SimulatedRequest]) -> Send[SimulatedRequest]:
    """Return a batch that takes as long as a shadow batch and contains no request."""
    return Send(shadow.number, shadow.variant, (), shadow.request.size, math.nan, "shadow")
