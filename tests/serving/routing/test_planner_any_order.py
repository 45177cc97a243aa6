"""Random sequences of events: the planner loses no request, and every policy keeps the rules."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from serving.errors import NotReady, Overloaded
from serving.routing.planner import MAX_ATTEMPTS
from serving.routing.policy import POLICIES
from serving.routing.policy.state import Policy, QueuedRequest
from serving.routing.step import Expired, Idle, NoReplica, Send, Shadow, Step
from tests.serving.routing.planner_harness import ANY, PlannerHarness

MAX_QUEUE = 8
MAX_BATCH = 64

kinds = st.sampled_from([ANY, ("int8", "dense"), ("dense",), ("int8",)])
withins = st.sampled_from([0.001, 0.004, 0.015, 0.060, 0.3, math.inf])
picks = st.integers(0, 999)


class PlannerMachine(RuleBasedStateMachine):
    """Requests that arrive and are withdrawn, hosts that answer, die and return, and time."""

    def __init__(self, policy: Policy, cores: float) -> None:
        super().__init__()
        self.cores = cores
        self.harness = PlannerHarness(policy, max_queue=MAX_QUEUE, cores=cores, dense=1, int8=1)
        self.queued: list[QueuedRequest[int]] = []
        self.running: list[Send[int]] = []
        self.outcomes: dict[int, str] = {}
        self.admitted = 0

    @rule(
        variants=kinds,
        within=withins,
        priority=st.integers(1, 4),
        size=st.sampled_from([1, 1, 1, 2, 30, 64]),
        signature=st.sampled_from(["", "", "other"]),
    )
    def admit(
        self, variants: tuple[str, ...], within: float, priority: int, size: int, signature: str
    ) -> None:
        before = len(self.harness.shed)
        was_full = self.harness.planner.queued >= MAX_QUEUE
        try:
            request = self.harness.admit(
                self.admitted,
                within=within,
                variants=variants,
                priority=priority,
                size=size,
                signature=signature,
            )
        except (NotReady, Overloaded):
            return
        self.admitted += 1
        shed = self.harness.shed[before:]
        for other in shed:
            self._settle(other, "shed")
        for place, other in enumerate(shed):
            assert other.order.priority > priority
            for spared in self.queued:
                if was_full and not place:
                    assert spared.order.priority <= other.order.priority
                competes = set(spared.key.variants) & set(variants)
                if competes and spared.order.due <= request.deadline:
                    assert spared.order.priority <= other.order.priority, (
                        "this one should have been shed instead"
                    )
        self.queued.append(request)

    @rule()
    def step(self) -> None:
        self._step()

    @rule()
    def take_steps(self) -> None:
        self._take_steps()

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.005, 0.02, 0.1, 12.0]))
    def pass_time(self, seconds: float) -> None:
        self.harness.now += seconds

    @precondition(lambda self: self.running)
    @rule(pick=picks, seconds=st.sampled_from([0.0, 0.002, 0.01, 0.05]))
    def answer(self, pick: int, seconds: float) -> None:
        send = self.running.pop(pick % len(self.running))
        self.harness.end(send, seconds + 1e-6)
        for request in send.batch:
            self._record(request, "sent")

    @precondition(lambda self: self.running)
    @rule(pick=picks)
    def lose(self, pick: int) -> None:
        send = self.running.pop(pick % len(self.running))
        self.harness.planner.end_batch(send.number, self.harness.now, is_representative=False)
        exhausted = self.harness.planner.retry(send.batch)
        for request in exhausted:
            assert request.attempts == MAX_ATTEMPTS
            self._record(request, "exhausted")
        self.queued += [request for request in send.batch if request not in exhausted]

    @precondition(lambda self: self.queued)
    @rule(pick=picks)
    def withdraw(self, pick: int) -> None:
        request = self.queued[pick % len(self.queued)]
        assert self.harness.planner.withdraw(request)
        self._settle(request, "withdrawn")

    @rule(variant=st.sampled_from(ANY), slots=st.integers(0, 2))
    def set_slots(self, variant: str, slots: int) -> None:
        self.harness.planner.set_slots(variant, slots)

    @invariant()
    def no_request_is_lost(self) -> None:
        assert self.harness.planner.queued == len(self.queued)
        held = sum(len(send.batch) for send in self.running)
        assert self.admitted == len(self.queued) + held + len(self.outcomes)

    def teardown(self) -> None:
        """Run until no request is queued or running, and check that each one has an outcome."""
        for variant in ANY:
            self.harness.planner.set_slots(variant, 1)
        while self.running or self.queued:
            idle = self._take_steps()
            if self.running:
                self.answer(0, 0.002)
            elif self.queued:
                assert self.harness.now < idle.until < math.inf, "no event would ever happen"
                self.harness.now = idle.until
        assert len(self.outcomes) == self.admitted

    def _take_steps(self) -> Idle:
        """Take steps until the planner is idle."""
        while not isinstance(step := self._step(), Idle):
            pass
        return step

    def _step(self) -> Step[int]:
        step = self.harness.planner.step(self.harness.now)
        match step:
            case Send():
                self._check(step)
                self.running.append(step)
                for request in step.batch:
                    self._remove(request)
            case Shadow():
                assert not self.queued
                assert not self.running, "a shadow batch may delay no other one"
                assert step.variant in step.request.key.variants
                assert self.outcomes[step.request.payload] == "sent"
                self.running.append(
                    Send(step.number, step.variant, (), step.request.size, math.nan, "shadow")
                )
            case Expired(request, best_case_s):
                assert best_case_s > 0
                assert request.key.has_deadline
                self._settle(request, "expired")
            case NoReplica(batch, variants, error):
                assert error.retry_after_s >= 1
                assert not any(map(self.harness.planner.slots, variants))
                for request in batch:
                    self._settle(request, "no replica")
            case Idle(until):
                assert until == math.inf or self.harness.planner.queued
        return step

    def _check(self, send: Send[int]) -> None:
        slots = self.harness.planner.slots(send.variant)
        assert sum(other.variant == send.variant for other in self.running) < slots
        assert len(self.running) < self.cores
        assert send.batch, "an empty batch"
        assert send.size == sum(request.size for request in send.batch)
        assert send.size <= MAX_BATCH or len(send.batch) == 1
        assert send.predicted_s > 0
        assert len({request.key.signature for request in send.batch}) == 1
        for request in send.batch:
            assert send.variant in request.key.variants, (
                "the variant does not qualify for the request"
            )

    def _remove(self, request: QueuedRequest[int]) -> None:
        assert request in self.queued
        self.queued.remove(request)

    def _settle(self, request: QueuedRequest[int], outcome: str) -> None:
        self._remove(request)
        self._record(request, outcome)

    def _record(self, request: QueuedRequest[int], outcome: str) -> None:
        assert request.payload not in self.outcomes, "the request already has an outcome"
        self.outcomes[request.payload] = outcome


@pytest.mark.parametrize("cores", [1, math.inf], ids=["one core", "a core each"])
@pytest.mark.parametrize("name", POLICIES)
def test_every_request_has_one_outcome_and_every_batch_is_valid(name: str, cores: float) -> None:
    class Machine(PlannerMachine):
        def __init__(self) -> None:
            super().__init__(POLICIES[name], cores)

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=30,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
