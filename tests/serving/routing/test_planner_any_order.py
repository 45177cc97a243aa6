"""Whatever happens in whatever order: the planner loses nobody, and no policy breaks its rules."""

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

from serving.errors import Overloaded
from serving.routing.planner import MAX_ATTEMPTS, NO_REPLICA_TIMEOUT_S
from serving.routing.policy import POLICIES
from serving.routing.policy.state import Policy, QueuedRequest
from serving.routing.step import Expired, Idle, NoReplica, Send, Step
from tests.serving.routing.planner_harness import ANY, PlannerHarness

MAX_QUEUE = 8
MAX_BATCH = 64

kinds = st.sampled_from([ANY, ("int8", "dense"), ("dense",), ("int8",)])
withins = st.sampled_from([0.001, 0.004, 0.015, 0.060, 0.3, math.inf])
picks = st.integers(0, 999)


class PlannerMachine(RuleBasedStateMachine):
    """Requests that come and leave, hosts that answer, die and come back, time that passes."""

    def __init__(self, policy: Policy, cores: float) -> None:
        super().__init__()
        self.cores = cores
        self.desk = PlannerHarness(policy, max_queue=MAX_QUEUE, cores=cores, dense=1, int8=1)
        self.waiting: list[QueuedRequest[int]] = []
        self.running: list[Send[int]] = []
        self.fates: dict[int, str] = {}
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
        before = len(self.desk.shed)
        was_full = self.desk.planner.queued >= MAX_QUEUE
        try:
            waiting = self.desk.admit(
                self.admitted,
                within=within,
                variants=variants,
                priority=priority,
                size=size,
                signature=signature,
            )
        except Overloaded:
            return
        self.admitted += 1
        shed = self.desk.shed[before:]
        for other in shed:
            self._settle(other, "shed")
        for place, other in enumerate(shed):
            assert other.order.priority > priority
            for spared in self.waiting:
                if was_full and not place:
                    assert spared.order.priority <= other.order.priority
                is_in_the_way = set(spared.key.variants) & set(variants)
                if is_in_the_way and spared.order.due <= waiting.deadline:
                    assert spared.order.priority <= other.order.priority, (
                        "it should have been shed instead"
                    )
        self.waiting.append(waiting)

    @rule()
    def step(self) -> None:
        self._step()

    @rule()
    def look(self) -> None:
        self._look()

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.005, 0.02, 0.1, 12.0]))
    def pass_time(self, seconds: float) -> None:
        self.desk.now += seconds

    @precondition(lambda self: self.running)
    @rule(pick=picks, seconds=st.sampled_from([0.0, 0.002, 0.01, 0.05]))
    def answer(self, pick: int, seconds: float) -> None:
        send = self.running.pop(pick % len(self.running))
        self.desk.end(send, seconds + 1e-6)
        for waiting in send.batch:
            self._note(waiting, "sent")

    @precondition(lambda self: self.running)
    @rule(pick=picks)
    def lose(self, pick: int) -> None:
        send = self.running.pop(pick % len(self.running))
        self.desk.planner.end_batch(send.number, self.desk.now, is_representative=False)
        exhausted = self.desk.planner.retry(send.batch)
        for waiting in exhausted:
            assert waiting.attempts == MAX_ATTEMPTS
            self._note(waiting, "hopeless")
        self.waiting += [waiting for waiting in send.batch if waiting not in exhausted]

    @precondition(lambda self: self.waiting)
    @rule(pick=picks)
    def withdraw(self, pick: int) -> None:
        waiting = self.waiting[pick % len(self.waiting)]
        assert self.desk.planner.withdraw(waiting)
        self._settle(waiting, "withdrawn")

    @rule(variant=st.sampled_from(ANY), slots=st.integers(0, 2))
    def set_slots(self, variant: str, slots: int) -> None:
        self.desk.planner.set_slots(variant, slots)

    @invariant()
    def nobody_is_lost(self) -> None:
        assert self.desk.planner.queued == len(self.waiting)
        held = sum(len(send.batch) for send in self.running)
        assert self.admitted == len(self.waiting) + held + len(self.fates)

    def teardown(self) -> None:
        """Let everything come to an end: it does, and each request had one."""
        for variant in ANY:
            self.desk.planner.set_slots(variant, 1)
        while self.running or self.waiting:
            idle = self._look()
            if self.running:
                self.answer(0, 0.002)
            elif self.waiting:
                assert self.desk.now < idle.until < math.inf, "nothing would ever happen"
                self.desk.now = idle.until
        assert len(self.fates) == self.admitted

    def _look(self) -> Idle:
        """Take steps until there is nothing more to do."""
        while not isinstance(step := self._step(), Idle):
            pass
        return step

    def _step(self) -> Step[int]:
        step = self.desk.planner.step(self.desk.now)
        match step:
            case Send():
                self._check(step)
                self.running.append(step)
                for waiting in step.batch:
                    self._take(waiting)
            case Expired(waiting):
                assert waiting.key.has_deadline
                self._settle(waiting, "late")
            case NoReplica(batch, variants):
                assert not any(map(self.desk.planner.slots, variants))
                assert min(each.arrived for each in batch) + NO_REPLICA_TIMEOUT_S <= self.desk.now
                for waiting in batch:
                    assert not waiting.key.has_deadline
                    self._settle(waiting, "abandoned")
            case Idle(until):
                assert until == math.inf or self.desk.planner.queued
        return step

    def _check(self, send: Send[int]) -> None:
        slots = self.desk.planner.slots(send.variant)
        assert sum(other.variant == send.variant for other in self.running) < slots
        assert len(self.running) < self.cores
        assert send.batch, "nothing to send"
        assert send.size == sum(waiting.size for waiting in send.batch)
        assert send.size <= MAX_BATCH or len(send.batch) == 1
        assert send.predicted_s > 0
        assert len({waiting.key.signature for waiting in send.batch}) == 1
        for waiting in send.batch:
            assert send.variant in waiting.key.variants, "a floor or a pin was violated"

    def _take(self, waiting: QueuedRequest[int]) -> None:
        assert waiting in self.waiting
        self.waiting.remove(waiting)

    def _settle(self, waiting: QueuedRequest[int], fate: str) -> None:
        self._take(waiting)
        self._note(waiting, fate)

    def _note(self, waiting: QueuedRequest[int], fate: str) -> None:
        assert waiting.payload not in self.fates, "it had its end already"
        self.fates[waiting.payload] = fate


@pytest.mark.parametrize("cores", [1, math.inf], ids=["one core", "a core each"])
@pytest.mark.parametrize("name", POLICIES)
def test_every_request_has_one_end_and_every_batch_keeps_the_rules(name: str, cores: float) -> None:
    class Own(PlannerMachine):
        def __init__(self) -> None:
            super().__init__(POLICIES[name], cores)

    run_state_machine_as_test(
        Own,
        settings=settings(
            max_examples=30,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
