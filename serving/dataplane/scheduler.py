"""Executes the steps of the planner: sends queued requests to hosts in batches and answers them.

    submit ─▶ planner, whenever something changes ─▶ run(variant, batch, callback) ─▶ result

Independent of protocols and Ray; the clock is an argument. Everything runs on one event loop. A
batch is sent, its result is processed and its requests are answered in callbacks, without tasks:
each task would wait for another iteration of the loop, which first serves all sockets that are
ready.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Generic, TypeAlias

from serving.dataplane.clock import Clock, Timer
from serving.dataplane.executor import BatchResult, HostLost, Outcome, Run
from serving.dataplane.request import (
    Input,
    OnEnd,
    Output,
    PendingRequest,
    RequestResult,
    Stage,
)
from serving.dataplane.step_delay import StepDelay
from serving.errors import DeadlineExceeded, InferenceFailed, ServingError
from serving.routing.planner import Planner
from serving.routing.policy.state import LaneKey, QueuedRequest
from serving.routing.step import Expired, Idle, NoReplica, Send, Shadow

logger = logging.getLogger(__name__)

MIN_WAIT_S: Final = 0.0005
"""Minimum delay, in seconds, between two steps of the planner if no event occurs in between."""

RETRY_S: Final = 0.05
"""Seconds after which a step is repeated that failed by an error of this service."""

Request: TypeAlias = QueuedRequest[PendingRequest[Input, Output]]


class Scheduler(Generic[Input, Output]):
    """Carries out the decisions of the planner: runs batches and answers requests."""

    def __init__(
        self,
        planner: Planner[PendingRequest[Input, Output]],
        run: Run[Input, Output],
        clock: Clock,
        *,
        on_decision: Callable[[float], None] = lambda took_s: None,
        on_cancelled: Callable[[Stage, int], None] = lambda stage, samples: None,
        on_expired: Callable[[int], None] = lambda samples: None,
    ) -> None:
        """The callbacks report decisions, and requests that are cancelled or expire, for metrics.

        They are called with the seconds that a decision took, the stage and the samples of a
        cancelled request, and the samples of an expired one.
        """
        self._planner = planner
        self._run = run
        self._clock = clock
        self._on_decision = on_decision
        self._on_cancelled = on_cancelled
        self._on_expired = on_expired
        self._timer: Timer | None = None
        self._is_step_scheduled = False
        self._delay = StepDelay(planner.max_batch)
        self._is_stepping = False
        self._running = 0
        """Number of batches that have not ended."""

    @property
    def queued(self) -> int:
        """Number of queued requests."""
        return self._planner.queued

    @property
    def is_idle(self) -> bool:
        """True if no request is queued and no batch is running."""
        return not self._planner.queued and not self._running

    def slots(self, variant: str) -> int:
        """Return how many batches the live replicas of a variant accept at a time."""
        return self._planner.slots(variant)

    def is_in_use(self, variant: str) -> bool:
        """Return whether a batch runs on a variant, or it qualifies for a queued request."""
        return self._planner.is_in_use(variant)

    def set_variants(self, accuracies: Mapping[str, float], slots: Mapping[str, int]) -> None:
        """Route to these variants from now on; see `Planner.set_variants`.

        `slots` has the slots of each; see `set_slots`.
        """
        self._planner.set_variants(accuracies)
        for variant in accuracies:
            self._planner.set_slots(variant, slots[variant])
        self._schedule_step()

    def set_slots(self, variant: str, slots: int) -> None:
        """Set how many batches the live replicas of a variant accept at a time, 0 for none."""
        self._planner.set_slots(variant, slots)
        self._schedule_step()

    def submit(
        self,
        inputs: Input,
        key: LaneKey,
        *,
        size: int,
        deadline: float,
        priority: int,
        on_end: OnEnd[RequestResult[Output]],
    ) -> Request[Input, Output]:
        """Queue one request of `size` samples; `on_end` is called once with its result.

        Raises `Overloaded` or `NotReady` if the request cannot be queued. `on_end` may get
        `Overloaded` too, if a request of higher priority takes the place of this one, or
        `DeadlineExceeded`, `NotReady` or `InferenceFailed`, perhaps before this returns. Returns
        the request, for `cancel`.
        """
        now = self._clock.time()
        request, shed = self._planner.admit(
            PendingRequest(inputs, on_end),
            key,
            size=size,
            deadline=deadline,
            priority=priority,
            now=now,
        )
        for other, error in shed:
            other.payload.end(error)
        is_due = self._delay.record_request(now, deadline - now)
        self._schedule_step()
        if is_due and not self._is_stepping:
            self._step()
        return request

    def cancel(self, request: Request[Input, Output]) -> bool:
        """Forget a request whose caller has gone; return False if it has ended already.

        A queued one leaves the queue and is never computed.
        """
        stage = request.payload.stage
        if stage == "ended":
            return False
        request.payload.drop()
        if self._planner.withdraw(request):
            self._schedule_step()  # without this request another decision may be better
        self._on_cancelled(stage, request.size)
        return True

    def _schedule_step(self) -> None:
        """Run the planner once all requests that have arrived by now are queued."""
        if not self._is_step_scheduled:
            self._is_step_scheduled = True
            self._delay.starts()
            self._clock.call_later(0, self._step_if_due)

    def _step_if_due(self) -> None:
        if self._delay.is_over(self._clock.time(), is_full=self._planner.has_full_batch):
            self._is_step_scheduled = False
            self._step()
        else:
            self._clock.call_later(0, self._step_if_due)

    def _step(self) -> None:
        """Execute steps of the planner until it is idle, then set the timer."""
        self._is_stepping = True
        try:
            self._take_steps()
        except Exception:  # the requests are still queued, and nothing else may cause a step
            logger.exception("a step of the planner failed")
            self._timer = self._clock.call_later(RETRY_S, self._step)
        finally:
            self._is_stepping = False
        try:
            self._planner.update_forecast(self._clock.time())
        except Exception:  # the forecast improves decisions, but is not necessary for them
            logger.exception("the forecast of arrivals could not be updated")

    def _take_steps(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._planner.queued:
            now = self._clock.time()
            step = self._planner.step(now)
            self._on_decision(self._clock.time() - now)
            match step:
                case Send():
                    self._send(step, now)
                case Expired(request, best_case_s):
                    self._expire(request, now, best_case_s)
                case NoReplica(batch, _, error):
                    self._fail(batch, error)
                case Idle(until):
                    if until < math.inf:
                        delay_s = max(until - now, MIN_WAIT_S)
                        self._timer = self._clock.call_later(delay_s, self._step)
                    break
        if not self._planner.queued:
            step = self._planner.step(self._clock.time())
            if isinstance(step, Shadow):
                self._send_shadow(step)

    def _send(self, send: Send[PendingRequest[Input, Output]], now: float) -> None:
        for request in send.batch:
            request.payload.stage = "running"
        self._running += 1
        self._run_batch(send.variant, send.batch, partial(self._end_batch, send, now))

    def _send_shadow(self, shadow: Shadow[PendingRequest[Input, Output]]) -> None:
        self._running += 1
        self._run_batch(shadow.variant, [shadow.request], partial(self._end_shadow, shadow))

    def _end_shadow(
        self,
        shadow: Shadow[PendingRequest[Input, Output]],
        outcome: Outcome[Sequence[Output]],
    ) -> None:
        now = self._clock.time()
        if isinstance(outcome, BatchResult):
            self._free_slot(shadow.number, now, host_s=outcome.compute_s)
        else:
            variant = shadow.variant
            logger.debug("a shadow batch failed", extra={"variant": variant}, exc_info=outcome)
            self._free_slot(shadow.number, now, is_representative=False)
        self._schedule_step()

    def _run_batch(
        self,
        variant: str,
        batch: Sequence[Request[Input, Output]],
        on_outcome: Callable[[Outcome[Sequence[Output]]], None],
    ) -> None:
        """Run requests as one batch; pass on an exception at the start like any other outcome."""
        try:
            self._run(variant, [request.payload.inputs for request in batch], on_outcome)
        except Exception as error:
            self._clock.call_later(0, partial(on_outcome, error))

    def _end_batch(
        self,
        send: Send[PendingRequest[Input, Output]],
        sent: float,
        outcome: Outcome[Sequence[Output]],
    ) -> None:
        now = self._clock.time()
        outcome = _checked(outcome, len(send.batch))
        if isinstance(outcome, BatchResult):
            # The slot is filled again before the answers are rendered, if there is something to
            # fill it with and the event loop is not the bottleneck.
            is_urgent = self._planner.queued > 0 and not self._delay.is_busy
            if is_urgent:
                self._free_slot(send.number, now, host_s=outcome.compute_s)
                self._step()
            self._answer(send, send.batch, outcome, sent, now)
            if not is_urgent:
                self._free_slot(send.number, now, host_s=outcome.compute_s)
                self._schedule_step()
        elif _is_of_one_request(outcome) and len(send.batch) > 1:
            logger.error("a batch failed", extra={"variant": send.variant}, exc_info=outcome)
            self._run_singly(send, list(send.batch))
        else:
            self._settle_failure(send, send.batch, outcome)
            self._free_slot(send.number, now, is_representative=False)
            self._step()

    def _run_singly(
        self, send: Send[PendingRequest[Input, Output]], rest: list[Request[Input, Output]]
    ) -> None:
        """Run the remaining requests of a failed batch one by one.

        One request may have caused the failure; the others should not fail with it.
        """
        while rest:
            request = rest.pop(0)
            if request.payload.stage != "ended":
                on_outcome = partial(self._end_single, send, request, self._clock.time(), rest)
                self._run_batch(send.variant, [request], on_outcome)
                return
        self._free_slot(send.number, self._clock.time(), is_representative=False)
        self._step()

    def _end_single(
        self,
        send: Send[PendingRequest[Input, Output]],
        request: Request[Input, Output],
        sent: float,
        rest: list[Request[Input, Output]],
        outcome: Outcome[Sequence[Output]],
    ) -> None:
        outcome = _checked(outcome, 1)
        if isinstance(outcome, BatchResult):
            self._answer(send, [request], outcome, sent, self._clock.time())
        else:
            self._settle_failure(send, [request], outcome)
        self._run_singly(send, rest)

    def _free_slot(
        self,
        number: int,
        now: float,
        *,
        is_representative: bool = True,
        host_s: float | None = None,
    ) -> None:
        """Record the end of a batch; see `Planner.end_batch`."""
        self._running -= 1
        self._planner.end_batch(number, now, host_s=host_s, is_representative=is_representative)

    def _settle_failure(
        self,
        send: Send[PendingRequest[Input, Output]],
        batch: Sequence[Request[Input, Output]],
        failure: Exception,
    ) -> None:
        match failure:
            case HostLost():
                self._send_again(batch)
            case ServingError():
                self._fail(batch, failure)
            case _:
                logger.error("a batch failed", extra={"variant": send.variant}, exc_info=failure)
                self._fail(batch, InferenceFailed("inference failed; the cause was logged"))

    def _answer(
        self,
        send: Send[PendingRequest[Input, Output]],
        batch: Sequence[Request[Input, Output]],
        result: BatchResult[Sequence[Output]],
        sent: float,
        now: float,
    ) -> None:
        """Pass on the outputs of a batch that was sent at `sent` and was back at `now`."""
        input_s, compute_s = result.input_s, result.compute_s
        output_s = max(0.0, now - sent - input_s - compute_s)
        samples = sum(request.size for request in batch)
        for request, outputs in zip(batch, result.outputs, strict=True):
            queue_s = sent - request.arrived
            request.payload.end(
                RequestResult(  # by position, which takes half the time of keywords
                    send.variant,
                    outputs,
                    send.reason,
                    samples,
                    queue_s,
                    queue_s + send.predicted_s,
                    input_s,
                    compute_s,
                    output_s,
                    now,
                )
            )

    def _fail(self, batch: Sequence[Request[Input, Output]], error: ServingError) -> None:
        for request in batch:
            request.payload.end(error)

    def _send_again(self, batch: Sequence[Request[Input, Output]]) -> None:
        """Queue the requests of a lost host again, except those whose callers disconnected."""
        connected = [request for request in batch if request.payload.stage != "ended"]
        for request in connected:
            request.payload.stage = "queued"
        exhausted = self._planner.retry(connected)
        self._fail(exhausted, InferenceFailed("two hosts in succession were lost"))

    def _expire(self, request: Request[Input, Output], now: float, best_case_s: float) -> None:
        self._on_expired(request.size)
        waited_ms = (now - request.arrived) * 1e3
        left_ms = max(0.0, request.deadline - request.arrived) * 1e3
        if request.attempts:
            text = (
                "the host that computed it was lost, and no variant can answer in the rest of the "
                "time; send it again"
            )
        elif request.is_behind:
            text = (
                f"after {waited_ms:.1f} ms in the queue no variant could answer in time any more; "
                "allow more time, or send fewer requests at once"
            )
        elif left_ms < best_case_s * 1e3:
            text = (
                f"{left_ms:.1f} ms of its deadline were left when it had been read, and the "
                f"fastest variant takes about {best_case_s * 1e3:.1f} ms; allow more time"
            )
        else:
            text = (
                f"the gateway itself held it up, for {waited_ms:.1f} ms so far, and no variant can "
                "answer in the rest of the time; send it again"
            )
        request.payload.end(DeadlineExceeded(text))


def _checked(outcome: Outcome[Sequence[Output]], requests: int) -> Outcome[Sequence[Output]]:
    """Return the outcome of a batch, or a failure if it has not one output per request."""
    if isinstance(outcome, BatchResult) and len(outcome.outputs) != requests:
        return ValueError(f"{len(outcome.outputs)} outputs for {requests} requests")
    return outcome


def _is_of_one_request(failure: Exception) -> bool:
    """Return whether a single request may have caused the failure of its batch."""
    return not isinstance(failure, HostLost | ServingError)
