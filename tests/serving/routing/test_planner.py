from __future__ import annotations

import contextlib
import math
from typing import Any

import numpy as np
import pytest

from serving.errors import NotReady, Overloaded
from serving.routing.outage import OUTAGE_S, RESTART_S
from serving.routing.planner import MAX_ATTEMPTS
from serving.routing.policy.baselines.max_acc import max_acc
from serving.routing.policy.pareto import pareto
from serving.routing.policy.state import Decision, Dispatch, RouterState
from serving.routing.step import Expired, Idle, NoReplica, Send, Step
from tests.serving.routing.planner_harness import PlannerHarness, payloads


def test_an_empty_queue_is_idle() -> None:
    assert PlannerHarness(dense=1).steps() == [Idle(math.inf)]


def test_queued_requests_go_in_one_batch_in_the_order_of_deadlines() -> None:
    harness = PlannerHarness(dense=1)
    for payload, within in (("b", 2.0), ("c", 3.0), ("a", 1.0)):
        harness.admit(payload, within=within, size=2)
    send, idle = harness.steps()
    assert isinstance(send, Send)
    assert (send.variant, payloads(send), send.size) == ("dense", ["a", "b", "c"], 6)
    assert send.predicted_s == harness.latency.times("dense").within_s(6)
    assert send.reason == "max_acc"
    assert idle == Idle(math.inf)
    assert harness.planner.queued == 0


def test_a_policy_can_skip_the_first_requests_of_a_lane() -> None:
    def skip_one(state: RouterState) -> Decision:
        (lane,) = state.lanes
        return Dispatch("dense", ((lane, 2),), 2, 0.012, "skipped", skip=1)

    harness = PlannerHarness(skip_one, dense=1)
    for payload in "abcd":
        harness.admit(payload)
    assert payloads(harness.send()) == ["b", "c"]
    assert harness.planner.queued == 2


def test_a_host_gets_at_most_as_many_batches_as_it_has_slots() -> None:
    harness = PlannerHarness(dense=2)
    sent = []
    for payload in "abc":
        harness.admit(payload)
        sent += [step for step in harness.steps() if isinstance(step, Send)]
    assert [payloads(send) for send in sent] == [["a"], ["b"]]
    harness.end(sent[0], after=0.010)
    assert payloads(harness.send()) == ["c"]


def test_a_wait_ends_when_a_slot_is_expected_to_be_free() -> None:
    harness = PlannerHarness(dense=1)
    harness.admit("a")
    predicted_s = harness.send().predicted_s
    harness.now += 0.004
    harness.admit("b")
    (idle,) = harness.steps()
    assert isinstance(idle, Idle)
    assert idle.until == pytest.approx(100.0 + predicted_s)


def test_a_request_that_no_variant_can_answer_in_time_expires() -> None:
    harness = PlannerHarness(dense=1, int8=1)
    late = harness.admit("late", within=0.005)
    harness.admit("not yet", within=0.050)
    harness.now += 0.004
    first, second, _ = harness.steps()
    assert isinstance(first, Expired)
    assert first.request is late
    assert first.best_case_s == pytest.approx(0.002)
    assert isinstance(second, Send)
    assert payloads(second) == ["not yet"]


def test_a_lost_batch_is_queued_again_once_at_its_former_position() -> None:
    harness = PlannerHarness(dense=2)
    for payload in "ab":
        harness.admit(payload)
    for attempt in range(MAX_ATTEMPTS):
        send = harness.send()
        assert payloads(send) == (["a", "b", "c"] if attempt else ["a", "b"])
        harness.end(send, after=0.001, is_representative=False)
        exhausted = harness.planner.retry(send.batch)
        if not attempt:
            assert exhausted == []
            harness.admit("c")
    assert [request.payload for request in exhausted] == ["a", "b"]
    assert harness.planner.queued == 1


def test_the_time_of_a_batch_is_learned_only_if_it_is_representative() -> None:
    harness = PlannerHarness(dense=1)
    for is_representative, expected_s in ((False, 0.010), (True, 0.025)):
        for _ in range(20):
            harness.admit("a")
            harness.end(harness.send(), after=0.025, is_representative=is_representative)
        assert harness.latency.times("dense").typical_s(1) == pytest.approx(expected_s, rel=0.01)


class RecordingPolicy:
    """A policy that records the states it is called with."""

    def __init__(self) -> None:
        self.states: list[RouterState] = []

    def __call__(self, state: RouterState) -> Decision:
        self.states.append(state)
        return max_acc(state)


def test_a_policy_gets_the_live_variants_best_first() -> None:
    policy = RecordingPolicy()
    harness = PlannerHarness(policy, int8=1, dense=2)
    harness.admit("a")
    harness.steps()
    variants = policy.states[0].variants
    assert [(name, each.accuracy, each.slots) for name, each in variants.items()] == [
        ("dense", 0.90, 2),
        ("int8", 0.88, 1),
    ]
    harness.planner.set_slots("dense", 0)
    harness.admit("b")
    harness.steps()
    assert list(policy.states[-1].variants) == ["int8"]


def test_a_policy_gets_the_running_batches_and_the_last_variant() -> None:
    policy = RecordingPolicy()
    harness = PlannerHarness(policy, dense=2, int8=1)
    harness.admit("a")
    harness.send()
    harness.admit("b")
    harness.now += 0.004
    harness.send()
    harness.admit("c")
    harness.now += 0.001
    harness.steps()
    before, after = policy.states[0], policy.states[-1]
    assert (before.last_variant, before.variants["dense"].batches_sent) == (None, 0)
    assert (after.last_variant, after.variants["dense"].batches_sent) == ("dense", 2)
    assert after.variants["dense"].free_slots == 0
    assert after.variants["dense"].free_in_s == pytest.approx(0.005), "the typical time"
    assert after.variants["int8"].free_slots == 1
    assert after.variants["int8"].free_in_s == 0


def test_a_policy_gets_the_number_of_free_cores() -> None:
    policy = RecordingPolicy()
    harness = PlannerHarness(policy, cores=2, dense=3, int8=1)
    for payload in "abc":
        harness.admit(payload, variants=("dense",))
        harness.steps()
    none, one, two = policy.states
    assert [each.free_cores for each in (none, one, two)] == [2, 1, 0]
    assert [each.variants["dense"].free_slots for each in (none, one, two)] == [3, 2, 0]
    assert one.variants["int8"].free_in_s == 0
    assert two.variants["int8"].free_in_s == pytest.approx(0.010, rel=0.01), (
        "a free slot, but no core"
    )


def test_a_policy_gets_the_arrival_rate() -> None:
    policy = RecordingPolicy()
    harness = PlannerHarness(policy, dense=1)
    for number in range(101):
        harness.admit(number, within=0.050, size=2)
        harness.end(harness.send(), after=0.010)
    assert policy.states[-1].arrivals_per_s == pytest.approx(200, rel=0.02)


def test_a_policy_gets_the_recent_mean_accuracy() -> None:
    policy = RecordingPolicy()
    harness = PlannerHarness(policy, dense=1, int8=1)
    for variants, times in ((("int8",), 2000), (("dense",), 100)):
        for _ in range(times):
            harness.admit("a", variants=variants)
            harness.end(harness.send(), after=0.001)
    recent_accuracy = [state.recent_accuracy for state in policy.states]
    assert recent_accuracy[0] == 0.90
    assert recent_accuracy[:2000] == sorted(recent_accuracy[:2000], reverse=True)
    assert 0.88 <= recent_accuracy[2000] < 0.89 < 0.90
    assert recent_accuracy[-1] > recent_accuracy[2000]


def test_a_full_queue_refuses_with_the_time_to_drain_it() -> None:
    harness = PlannerHarness(max_queue=3, int8=1)
    for payload in "abc":
        harness.admit(payload, size=64, variants=("int8",))
    with pytest.raises(Overloaded, match="full with 3 requests") as caught:
        harness.admit("d", variants=("int8",))
    assert caught.value.retry_after_s == pytest.approx(3 * 0.020, rel=0.01)
    assert harness.planner.queued == 3


def test_a_full_queue_sheds_the_least_important_request() -> None:
    harness = PlannerHarness(max_queue=3)
    harness.admit("ordinary")
    harness.admit("lowest", priority=50)
    harness.admit("low", priority=40)
    harness.admit("important", priority=1)
    assert [request.payload for request in harness.shed] == ["lowest"]
    with pytest.raises(Overloaded):
        harness.admit("equal", priority=40)
    assert harness.planner.queued == 3


def test_requests_for_too_many_lanes_are_refused() -> None:
    harness = PlannerHarness(max_lanes=2)
    harness.admit("a", signature="one")
    harness.admit("b", signature="another")
    harness.admit("c", signature="one")
    with pytest.raises(Overloaded, match="too many different shapes"):
        harness.admit("d", signature="a third")


def test_requests_that_would_be_late_are_refused() -> None:
    harness = PlannerHarness(max_queue=1000, int8=1)
    refused = []
    for number in range(200):
        try:
            harness.admit(number, within=0.045, variants=("int8",))
        except Overloaded as error:
            refused.append(error)
    # A batch of 64 takes 20 ms, so there is time for two batches and for a few requests in a third.
    assert 128 <= harness.planner.queued <= 140
    assert len(refused) == 200 - harness.planner.queued
    assert 0 < refused[0].retry_after_s < 0.005
    assert "later" in str(refused[0])


def test_a_request_that_would_make_other_requests_late_is_refused() -> None:
    harness = PlannerHarness(int8=1)
    for number in range(64):
        harness.admit(number, within=0.025, variants=("int8",))
    with pytest.raises(Overloaded, match="64 requests are queued"):
        harness.admit("urgent", within=0.020, size=60, variants=("int8",))
    assert harness.planner.queued == 64


def test_requests_of_lower_priority_are_shed_to_make_time() -> None:
    harness = PlannerHarness(dense=1, int8=1)
    for number in range(64):
        harness.admit(number, within=0.025, variants=("int8",), priority=20)
    harness.admit("other variant", within=0.025, variants=("dense",), priority=99)
    harness.admit("urgent", within=0.020, size=32, variants=("int8",))
    assert 0 < len(harness.shed) <= 32
    assert {request.order.priority for request in harness.shed} == {20}, (
        "the request for another variant does not compete"
    )


def test_no_request_is_shed_for_one_that_is_not_admitted() -> None:
    harness = PlannerHarness(int8=1)
    harness.admit("low", within=0.030, variants=("int8",), priority=50)
    with pytest.raises(Overloaded):
        harness.admit("too late", within=0.001, size=64, variants=("int8",))
    assert harness.planner.queued == 1
    send = harness.send()
    assert payloads(send) == ["low"]


def test_a_withdrawn_request_is_not_sent() -> None:
    harness = PlannerHarness(dense=1)
    withdrawn, _ = harness.admit("withdrawn"), harness.admit("stays")
    assert harness.planner.withdraw(withdrawn)
    assert not harness.planner.withdraw(withdrawn)
    assert payloads(harness.send()) == ["stays"]


def gone(step: Step[Any]) -> tuple[list[object], tuple[str, ...], float]:
    """Return the payloads, variants and time to retry of requests for which no replica is alive."""
    assert isinstance(step, NoReplica)
    payloads = [request.payload for request in step.requests]
    return payloads, step.variants, step.error.retry_after_s


def test_requests_wait_for_a_lost_host_to_be_replaced_but_not_for_long() -> None:
    harness = PlannerHarness(int8=1)
    harness.admit("no deadline", variants=("dense",))
    harness.admit("late", within=2 * OUTAGE_S, variants=("dense",))
    harness.admit("early", within=2.0, variants=("dense",))
    assert harness.steps() == [Idle(102.0)]
    harness.now = 102.0
    early, idle = harness.steps()
    assert gone(early) == (["early"], ("dense",), 1.0)
    assert idle == Idle(100.0 + OUTAGE_S)
    harness.now = 100.0 + OUTAGE_S
    *ended, idle = harness.steps()
    assert sorted(map(gone, ended)) == [
        (["late"], ("dense",), OUTAGE_S),
        (["no deadline"], ("dense",), OUTAGE_S),
    ]
    assert idle == Idle(math.inf)


def test_a_request_that_no_replacement_can_answer_in_time_is_refused_at_once() -> None:
    harness = PlannerHarness(int8=1)
    with pytest.raises(NotReady, match="no replica of dense is alive"):
        harness.admit("due too early", within=RESTART_S - 0.01, variants=("dense",))
    harness.admit("another variant is alive", within=0.1)
    harness.admit("due later", within=RESTART_S, variants=("dense",))
    assert harness.planner.queued == 2


@pytest.mark.parametrize("within", [1.0, 3600.0, math.inf])
def test_a_variant_that_has_been_gone_for_seconds_is_refused_at_once(within: float) -> None:
    harness = PlannerHarness(dense=1)
    harness.planner.set_slots("dense", 0)
    assert harness.steps() == [Idle(math.inf)]
    harness.now += OUTAGE_S
    with pytest.raises(NotReady, match=r"for 5\.0 s now; try again in 5 s") as caught:
        harness.admit("a", within=within)
    assert caught.value.retry_after_s == OUTAGE_S
    harness.planner.set_slots("dense", 1)
    harness.admit("a", within=within)
    assert payloads(harness.send()) == ["a"]


def test_requests_of_a_lost_host_that_are_due_too_early_fail_at_once() -> None:
    harness = PlannerHarness(dense=1)
    harness.admit("running", within=0.1, variants=("dense",))
    running = harness.send()
    harness.admit("queued", within=3600.0, variants=("dense",))
    harness.planner.set_slots("dense", 0)
    harness.planner.end_batch(running.number, harness.now, is_representative=False)
    assert harness.planner.retry(running.batch) == []
    lost, idle = harness.steps()
    assert gone(lost) == (["running"], ("dense",), 1.0)
    assert idle == Idle(harness.now + OUTAGE_S)


def test_an_outage_begins_when_the_last_host_is_lost() -> None:
    harness = PlannerHarness(dense=1)
    harness.admit("running", variants=("dense",))
    running = harness.send()
    harness.admit("queued", variants=("dense",))
    harness.now += 2 * OUTAGE_S
    harness.planner.end_batch(running.number, harness.now, is_representative=False)
    harness.planner.set_slots("dense", 0)
    assert harness.steps() == [Idle(harness.now + OUTAGE_S)]
    harness.now += OUTAGE_S
    lost, idle = harness.steps()
    assert gone(lost)[0] == ["queued"]
    assert idle == Idle(math.inf)


def test_a_request_for_a_free_host_is_tried_even_if_it_is_expected_to_be_late() -> None:
    harness = PlannerHarness(pareto, int8=1)
    for _ in range(20):  # the predictions grow, the best case does not
        harness.admit("slow", variants=("int8",))
        harness.end(harness.send(), after=0.100)
    harness.admit("tried", within=0.010, variants=("int8",))
    assert payloads(harness.send()) == ["tried"]


def test_a_variant_whose_replica_is_back_is_used_again() -> None:
    harness = PlannerHarness()
    harness.admit("a")
    harness.now += OUTAGE_S / 2
    harness.planner.set_slots("dense", 1)
    assert payloads(harness.send()) == ["a"]


def test_a_backlog_without_deadlines_does_not_block_requests_with_one() -> None:
    harness = PlannerHarness(pareto, dense=1, int8=1)
    for number in range(90):
        harness.admit(f"no deadline {number}")
    harness.send()
    harness.now += 1.5
    harness.admit("urgent", within=0.050, variants=("int8",))
    assert payloads(harness.send()) == ["urgent"]


def test_requests_due_in_the_same_millisecond_count_as_ahead() -> None:
    admitted = []
    for offset in (0.0004, 0.0006):
        harness = PlannerHarness(pareto, cores=1, max_queue=1000, int8=1)
        count = 0
        for number in range(400):
            try:
                harness.admit(f"{number}", within=0.020 + offset, variants=("int8",))
            except Overloaded:
                continue
            count += 1
        admitted.append(count)
    assert admitted[0] == pytest.approx(admitted[1], abs=8)
    assert max(admitted) < 200


def test_a_batch_of_mixed_sizes_does_not_exceed_the_maximum() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        harness = PlannerHarness(pareto, cores=1, dense=1, int8=1)
        for number, size in enumerate(rng.choice([1, 1, 2, 16, 40], 30)):
            with contextlib.suppress(Overloaded):
                harness.admit(f"{number}", within=float(rng.uniform(0.005, 0.1)), size=int(size))
        sent = [step for step in harness.steps() if isinstance(step, Send)]
        assert all(send.size == sum(each.size for each in send.batch) <= 64 for send in sent)
