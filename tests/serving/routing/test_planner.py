from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest

from serving.errors import Overloaded
from serving.routing.planner import MAX_ATTEMPTS, NO_REPLICA_TIMEOUT_S
from serving.routing.policy.baselines.max_acc import max_acc
from serving.routing.policy.pareto import pareto
from serving.routing.policy.state import Decision, Dispatch, RouterState
from serving.routing.step import Expired, Idle, NoReplica, Send
from tests.serving.routing.planner_harness import PlannerHarness, entries


def test_an_empty_queue_leaves_nothing_to_do() -> None:
    assert PlannerHarness(dense=1).steps() == [Idle(math.inf)]


def test_what_waits_goes_in_one_batch_in_the_order_of_its_deadlines() -> None:
    desk = PlannerHarness(dense=1)
    for entry, within in (("b", 2.0), ("c", 3.0), ("a", 1.0)):
        desk.admit(entry, within=within, size=2)
    send, idle = desk.steps()
    assert isinstance(send, Send)
    assert (send.variant, entries(send), send.size) == ("dense", ["a", "b", "c"], 6)
    assert send.predicted_s == desk.latency.times("dense").within_s(6)
    assert send.reason == "max_acc"
    assert idle == Idle(math.inf)
    assert desk.planner.queued == 0


def test_a_policy_can_leave_out_the_first_of_a_lane() -> None:
    def leave_one_out(state: RouterState) -> Decision:
        (lane,) = state.lanes
        return Dispatch("dense", ((lane, 2),), 2, 0.012, "left out", skip=1)

    desk = PlannerHarness(leave_one_out, dense=1)
    for entry in "abcd":
        desk.admit(entry)
    assert entries(desk.send()) == ["b", "c"]
    assert desk.planner.queued == 2


def test_a_host_gets_no_more_batches_than_it_has_slots() -> None:
    desk = PlannerHarness(dense=2)
    sent = []
    for entry in "abc":
        desk.admit(entry)
        sent += [step for step in desk.steps() if isinstance(step, Send)]
    assert [entries(send) for send in sent] == [["a"], ["b"]]
    desk.end(sent[0], after=0.010)
    assert entries(desk.send()) == ["c"]


def test_waiting_ends_when_a_slot_is_expected_to_be_free() -> None:
    desk = PlannerHarness(dense=1)
    desk.admit("a")
    predicted_s = desk.send().predicted_s
    desk.now += 0.004
    desk.admit("b")
    (idle,) = desk.steps()
    assert isinstance(idle, Idle)
    assert idle.until == pytest.approx(100.0 + predicted_s)


def test_a_request_that_no_variant_can_answer_in_time_any_more_is_late() -> None:
    desk = PlannerHarness(dense=1, int8=1)
    late = desk.admit("late", within=0.005)
    desk.admit("not yet", within=0.050)
    desk.now += 0.004
    first, second, _ = desk.steps()
    assert first == Expired(late)
    assert isinstance(second, Send)
    assert entries(second) == ["not yet"]


def test_a_lost_batch_is_queued_again_once_at_the_place_it_had() -> None:
    desk = PlannerHarness(dense=2)
    for entry in "ab":
        desk.admit(entry)
    for attempt in range(MAX_ATTEMPTS):
        send = desk.send()
        assert entries(send) == (["a", "b", "c"] if attempt else ["a", "b"])
        desk.end(send, after=0.001, is_representative=False)
        exhausted = desk.planner.retry(send.batch)
        if not attempt:
            assert exhausted == []
            desk.admit("c")
    assert [waiting.payload for waiting in exhausted] == ["a", "b"]
    assert desk.planner.queued == 1


def test_what_a_batch_took_is_learned_only_if_it_tells() -> None:
    desk = PlannerHarness(dense=1)
    for is_representative, expected_s in ((False, 0.010), (True, 0.025)):
        for _ in range(20):
            desk.admit("a")
            desk.end(desk.send(), after=0.025, is_representative=is_representative)
        assert desk.latency.times("dense").typical_s(1) == pytest.approx(expected_s, rel=0.01)


class Look:
    """A policy that notes what it is shown."""

    def __init__(self) -> None:
        self.seen: list[RouterState] = []

    def __call__(self, state: RouterState) -> Decision:
        self.seen.append(state)
        return max_acc(state)


def test_a_policy_is_shown_the_variants_that_are_alive_best_first() -> None:
    look = Look()
    desk = PlannerHarness(look, int8=1, dense=2)
    desk.admit("a")
    desk.steps()
    shown = look.seen[0].variants
    assert [(name, each.accuracy, each.slots) for name, each in shown.items()] == [
        ("dense", 0.90, 2),
        ("int8", 0.88, 1),
    ]
    desk.planner.set_slots("dense", 0)
    desk.admit("b")
    desk.steps()
    assert list(look.seen[-1].variants) == ["int8"]


def test_a_policy_is_shown_what_runs_and_what_ran() -> None:
    look = Look()
    desk = PlannerHarness(look, dense=2, int8=1)
    desk.admit("a")
    desk.send()
    desk.admit("b")
    desk.now += 0.004
    desk.send()
    desk.admit("c")
    desk.now += 0.001
    desk.steps()
    before, after = look.seen[0], look.seen[-1]
    assert (before.last_variant, before.variants["dense"].batches_sent) == (None, 0)
    assert (after.last_variant, after.variants["dense"].batches_sent) == ("dense", 2)
    assert after.variants["dense"].free_slots == 0
    assert after.variants["dense"].free_in_s == pytest.approx(0.005), "typically"
    assert after.variants["int8"].free_slots == 1
    assert after.variants["int8"].free_in_s == 0


def test_a_policy_is_shown_how_scarce_cores_are() -> None:
    look = Look()
    desk = PlannerHarness(look, cores=2, dense=3, int8=1)
    for entry in "abc":
        desk.admit(entry, variants=("dense",))
        desk.steps()
    none, one, two = look.seen
    assert [each.free_cores for each in (none, one, two)] == [2, 1, 0]
    assert [each.variants["dense"].free_slots for each in (none, one, two)] == [3, 2, 0]
    assert one.variants["int8"].free_in_s == 0
    assert two.variants["int8"].free_in_s == pytest.approx(0.010, rel=0.01), "a slot, no core"


def test_a_policy_is_shown_how_much_arrives() -> None:
    look = Look()
    desk = PlannerHarness(look, dense=1)
    for number in range(101):
        desk.admit(number, within=0.050, size=2)
        desk.end(desk.send(), after=0.010)
    assert look.seen[-1].arrivals_per_s == pytest.approx(200, rel=0.02)


def test_a_policy_is_shown_the_mean_accuracy_of_late() -> None:
    look = Look()
    desk = PlannerHarness(look, dense=1, int8=1)
    for variants, times in ((("int8",), 2000), (("dense",), 100)):
        for _ in range(times):
            desk.admit("a", variants=variants)
            desk.end(desk.send(), after=0.001)
    recent_accuracy = [state.recent_accuracy for state in look.seen]
    assert recent_accuracy[0] == 0.90
    assert recent_accuracy[:2000] == sorted(recent_accuracy[:2000], reverse=True)
    assert 0.88 <= recent_accuracy[2000] < 0.89 < 0.90
    assert recent_accuracy[-1] > recent_accuracy[2000]


def test_a_full_queue_refuses_and_says_when_it_will_be_drained() -> None:
    desk = PlannerHarness(max_queue=3, int8=1)
    for entry in "abc":
        desk.admit(entry, size=64, variants=("int8",))
    with pytest.raises(Overloaded, match="full with 3 requests") as caught:
        desk.admit("d", variants=("int8",))
    assert caught.value.retry_after_s == pytest.approx(3 * 0.020, rel=0.01)
    assert desk.planner.queued == 3


def test_a_full_queue_sheds_the_least_important_first() -> None:
    desk = PlannerHarness(max_queue=3)
    desk.admit("ordinary")
    desk.admit("lowest", priority=50)
    desk.admit("low", priority=40)
    desk.admit("important", priority=1)
    assert [waiting.payload for waiting in desk.shed] == ["lowest"]
    with pytest.raises(Overloaded):
        desk.admit("as low", priority=40)
    assert desk.planner.queued == 3


def test_requests_of_too_many_kinds_are_refused() -> None:
    desk = PlannerHarness(max_lanes=2)
    desk.admit("a", signature="one")
    desk.admit("b", signature="another")
    desk.admit("c", signature="one")
    with pytest.raises(Overloaded, match="too many different shapes"):
        desk.admit("d", signature="a third")


def test_requests_that_the_queue_leaves_no_time_for_are_refused() -> None:
    desk = PlannerHarness(max_queue=1000, int8=1)
    refused = []
    for number in range(200):
        try:
            desk.admit(number, within=0.045, variants=("int8",))
        except Overloaded as error:
            refused.append(error)
    # A batch of 64 takes 20 ms: there is time for two, and for a few more in a third.
    assert 128 <= desk.planner.queued <= 140
    assert len(refused) == 200 - desk.planner.queued
    assert 0 < refused[0].retry_after_s < 0.005
    assert "later" in str(refused[0])


def test_a_request_that_would_make_others_late_is_refused() -> None:
    desk = PlannerHarness(int8=1)
    for number in range(64):
        desk.admit(number, within=0.025, variants=("int8",))
    with pytest.raises(Overloaded, match="64 requests are queued"):
        desk.admit("urgent", within=0.020, size=60, variants=("int8",))
    assert desk.planner.queued == 64


def test_requests_of_lower_priority_are_shed_to_make_time() -> None:
    desk = PlannerHarness(dense=1, int8=1)
    for number in range(64):
        desk.admit(number, within=0.025, variants=("int8",), priority=20)
    desk.admit("elsewhere", within=0.025, variants=("dense",), priority=99)
    desk.admit("urgent", within=0.020, size=32, variants=("int8",))
    assert 0 < len(desk.shed) <= 32
    assert {waiting.order.priority for waiting in desk.shed} == {20}, "the other is in nobody's way"


def test_nobody_is_shed_in_vain() -> None:
    desk = PlannerHarness(int8=1)
    desk.admit("low", within=0.030, variants=("int8",), priority=50)
    with pytest.raises(Overloaded):
        desk.admit("hopeless", within=0.001, size=64, variants=("int8",))
    assert desk.planner.queued == 1
    send = desk.send()
    assert entries(send) == ["low"]


def test_who_leaves_the_queue_is_not_sent() -> None:
    desk = PlannerHarness(dense=1)
    gone, _ = desk.admit("gone"), desk.admit("stays")
    assert desk.planner.withdraw(gone)
    assert not desk.planner.withdraw(gone)
    assert entries(desk.send()) == ["stays"]


def test_without_a_deadline_requests_wait_for_the_dead_for_a_while_and_are_then_given_up() -> None:
    desk = PlannerHarness(int8=1)
    first = desk.admit("first", variants=("dense",))
    assert desk.steps() == [Idle(100.0 + NO_REPLICA_TIMEOUT_S)]
    desk.now += 10
    second = desk.admit("second", variants=("dense",))
    assert desk.steps() == [Idle(100.0 + NO_REPLICA_TIMEOUT_S)]
    desk.now = 100.0 + NO_REPLICA_TIMEOUT_S
    assert desk.steps() == [NoReplica([first], ("dense",)), Idle(110.0 + NO_REPLICA_TIMEOUT_S)]
    desk.now = 110.0 + NO_REPLICA_TIMEOUT_S
    assert desk.steps() == [NoReplica([second], ("dense",)), Idle(math.inf)]


def test_however_long_a_request_has_waited_its_patience_begins_when_the_last_host_goes() -> None:
    desk = PlannerHarness(dense=1)
    desk.admit("running", variants=("dense",))
    running = desk.send()
    waits = desk.admit("waits", variants=("dense",))
    desk.now += 2 * NO_REPLICA_TIMEOUT_S
    desk.planner.end_batch(running.number, desk.now, is_representative=False)
    desk.planner.set_slots("dense", 0)
    assert desk.steps() == [Idle(desk.now + NO_REPLICA_TIMEOUT_S)]
    desk.now += NO_REPLICA_TIMEOUT_S
    assert desk.steps() == [NoReplica([waits], ("dense",)), Idle(math.inf)]


def test_what_was_dead_is_used_again() -> None:
    desk = PlannerHarness()
    desk.admit("a")
    desk.now += NO_REPLICA_TIMEOUT_S / 2
    desk.planner.set_slots("dense", 1)
    assert entries(desk.send()) == ["a"]


def test_a_backlog_without_deadlines_shuts_nobody_out_who_has_one() -> None:
    desk = PlannerHarness(pareto, dense=1, int8=1)
    for number in range(90):
        desk.admit(f"patient {number}")
    desk.send()
    desk.now += 1.5
    desk.admit("urgent", within=0.050, variants=("int8",))
    assert entries(desk.send()) == ["urgent"]


def test_who_is_due_in_the_same_millisecond_counts_as_being_ahead() -> None:
    admitted = []
    for offset in (0.0004, 0.0006):
        desk = PlannerHarness(pareto, cores=1, max_queue=1000, int8=1)
        count = 0
        for number in range(400):
            try:
                desk.admit(f"{number}", within=0.020 + offset, variants=("int8",))
            except Overloaded:
                continue
            count += 1
        admitted.append(count)
    assert admitted[0] == pytest.approx(admitted[1], abs=8)
    assert max(admitted) < 200


def test_a_batch_of_mixed_sizes_never_exceeds_the_largest() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        desk = PlannerHarness(pareto, cores=1, dense=1, int8=1)
        for number, size in enumerate(rng.choice([1, 1, 2, 16, 40], 30)):
            with contextlib.suppress(Overloaded):
                desk.admit(f"{number}", within=float(rng.uniform(0.005, 0.1)), size=int(size))
        sent = [step for step in desk.steps() if isinstance(step, Send)]
        assert all(send.size == sum(each.size for each in send.batch) <= 64 for send in sent)
