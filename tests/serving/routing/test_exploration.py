from __future__ import annotations

import pytest

from serving.routing.exploration import CHECK_INTERVAL_S, EXPLORE_AFTER_S
from serving.routing.policy import POLICIES
from serving.routing.policy.pareto import pareto
from serving.routing.step import Idle, Send, Shadow, Step
from tests.serving.routing.planner_harness import PlannerHarness


def serve(harness: PlannerHarness, payload: object = "a", **parameters: object) -> str:
    """Serve one request without a deadline, and return its variant."""
    harness.admit(payload, **parameters)  # type: ignore[arg-type]
    send = harness.send()
    harness.end(send, after=0.001)
    return send.variant


def shadows(harness: PlannerHarness) -> list[Shadow[object]]:
    """Run the shadow batches that are due, and return them."""
    ran = []
    while isinstance(step := harness.planner.step(harness.now), Shadow):
        ran.append(step)
        harness.now += CHECK_INTERVAL_S
        harness.planner.end_batch(step.number, harness.now)
        harness.now += CHECK_INTERVAL_S
    return ran


def test_a_variant_that_has_not_run_for_a_while_runs_a_copy_of_a_recent_request() -> None:
    harness = PlannerHarness(pareto, cores=1.0, dense=1, int8=1)
    assert serve(harness) == "dense"
    assert shadows(harness) == [], "int8 was calibrated a moment ago"
    harness.now += EXPLORE_AFTER_S + 1
    assert serve(harness, "b", size=3) == "dense"
    (shadow,) = shadows(harness)
    assert (shadow.variant, shadow.request.payload, shadow.request.size) == ("int8", "b", 3)
    assert harness.latency.since_last_batch_s("int8") < 1


def test_no_request_counts_as_behind_others_because_of_a_shadow_batch() -> None:
    harness = PlannerHarness(pareto, cores=1.0, dense=1, int8=1)
    harness.now += EXPLORE_AFTER_S + 1
    assert serve(harness) == "dense"
    shadow = harness.planner.step(harness.now)
    assert isinstance(shadow, Shadow)
    request = harness.admit("b", within=0.003)  # not in time after the batch, but it is tried
    assert not request.is_behind
    harness.planner.end_batch(shadow.number, harness.now)
    assert harness.send().batch == [request]
    assert harness.admit("c", within=0.003).is_behind


@pytest.mark.parametrize("policy", POLICIES)
def test_a_sparse_client_always_gets_the_variant_that_it_gets_without_exploration(
    policy: str,
) -> None:
    harness = PlannerHarness(POLICIES[policy], cores=1.0, dense=1, int8=1)
    explored = 0
    for number in range(5):
        harness.now += EXPLORE_AFTER_S + 1
        harness.admit(number, within=1.0)
        while isinstance(step := harness.planner.step(harness.now), Idle):
            harness.now = step.until  # a policy may wait for further requests
        send = step
        assert isinstance(send, Send)
        if policy == "pareto":
            assert send.variant == "dense"
        harness.end(send, after=0.001)
        explored += len(shadows(harness))
    assert explored >= 4


def test_without_requests_each_variant_is_explored_at_most_once() -> None:
    harness = PlannerHarness(pareto, cores=1.0, dense=1, int8=1)
    serve(harness)
    ran = []
    for _ in range(10):
        harness.now += EXPLORE_AFTER_S + 1
        ran += shadows(harness)
    assert sorted(shadow.variant for shadow in ran) == ["dense", "int8"]


def test_a_failed_shadow_batch_is_not_repeated_at_once() -> None:
    harness = PlannerHarness(pareto, cores=1.0, dense=1, int8=1)
    harness.now += EXPLORE_AFTER_S + 1
    serve(harness)
    step: Step[object] = harness.planner.step(harness.now)
    assert isinstance(step, Shadow)
    harness.planner.end_batch(step.number, harness.now, is_representative=False)
    harness.now += 1
    serve(harness)
    assert shadows(harness) == []
    harness.now += EXPLORE_AFTER_S
    serve(harness)
    assert [shadow.variant for shadow in shadows(harness)] == ["int8"]


def test_only_variants_that_qualify_for_requests_are_explored() -> None:
    harness = PlannerHarness(pareto, cores=1.0, dense=1, int8=1)
    harness.now += EXPLORE_AFTER_S + 1
    serve(harness, variants=("dense",))
    assert shadows(harness) == []


def test_a_variant_without_replica_is_not_explored() -> None:
    harness = PlannerHarness(pareto, cores=1.0, dense=1)
    harness.now += EXPLORE_AFTER_S + 1
    serve(harness)
    assert shadows(harness) == []


def test_a_request_that_failed_is_not_copied() -> None:
    harness = PlannerHarness(pareto, cores=1.0, dense=1, int8=1)
    harness.now += EXPLORE_AFTER_S + 1
    harness.admit("poison")
    harness.end(harness.send(), after=0.001, is_representative=False)
    assert shadows(harness) == []


def test_nothing_is_explored_while_a_batch_runs_or_requests_are_queued() -> None:
    harness = PlannerHarness(pareto, cores=2.0, dense=2, int8=1)
    harness.now += EXPLORE_AFTER_S + 1
    serve(harness)
    harness.admit("b")
    assert isinstance(harness.planner.step(harness.now), Send)
    assert isinstance(harness.planner.step(harness.now), Idle)


def test_nothing_is_explored_while_requests_would_miss_their_deadlines() -> None:
    # INT8 serves a request every 3 ms within 2 ms, so there is no time for a dense batch of 10 ms.
    harness = PlannerHarness(pareto, cores=1.0, dense=1, int8=1)
    serve(harness)
    for number in range(int(1.02 * EXPLORE_AFTER_S / 0.003)):
        harness.now += 0.001
        harness.admit(number, within=0.0025, variants=("int8",))
        harness.end(harness.send(), after=0.002)
        harness.planner.update_forecast(harness.now)
    assert isinstance(harness.planner.step(harness.now), Idle)
    harness.now += 1.0
    assert [shadow.variant for shadow in shadows(harness)] == ["dense"]
