"""Variants that are added to a planner and removed from it while it works."""

from __future__ import annotations

import math
from typing import Any

import pytest

from serving.routing.exploration import EXPLORE_AFTER_S
from serving.routing.latency import LatencyModel
from serving.routing.planner import Planner
from serving.routing.policy.pareto import pareto
from serving.routing.policy.state import LaneKey
from serving.routing.step import Idle, Send, Shadow
from tests.serving.builders import exactly

CARD = exactly({1: 0.010, 8: 0.020})
BOTH = {"dense@1": 0.9, "int8@1": 0.8}


class ChangingPlanner:
    """A planner and its latency model, as a gateway changes them."""

    def __init__(self) -> None:
        self.now = 100.0
        self.latency = LatencyModel({}, lambda: self.now)
        self.planner = Planner[str](pareto, self.latency, {}, max_batch=8, max_queue=10)
        for name in BOTH:
            self.latency.add(name, CARD)
        self.set_variants(BOTH)

    def set_variants(self, accuracies: dict[str, float]) -> None:
        self.planner.set_variants(accuracies)
        for name in accuracies:
            self.planner.set_slots(name, 1)

    def admit(self, *variants: str, within: float = 1.0) -> None:
        self.planner.admit(
            "request",
            LaneKey(variants, has_deadline=within < math.inf),
            size=1,
            deadline=self.now + within,
            priority=10,
            now=self.now,
        )

    def send(self) -> Send[Any]:
        step = self.planner.step(self.now)
        assert isinstance(step, Send)
        return step

    def serve(self, *variants: str) -> str:
        """Serve a request, and return its variant."""
        self.admit(*variants)
        send = self.send()
        self.now += 0.01
        self.planner.end_batch(send.number, self.now)
        return send.variant


def test_an_added_variant_gets_requests_and_a_removed_one_none() -> None:
    harness = ChangingPlanner()
    assert harness.serve("dense@1", "int8@1") == "dense@1"
    harness.latency.add("better@1", CARD)
    harness.set_variants({**BOTH, "better@1": 0.95})
    assert harness.serve("better@1", "dense@1", "int8@1") == "better@1"
    harness.set_variants(BOTH)
    harness.latency.remove("better@1")
    assert harness.planner.slots("better@1") == 0
    assert harness.serve("dense@1", "int8@1") == "dense@1"


def test_a_variant_cannot_be_removed_while_requests_or_batches_need_it() -> None:
    harness = ChangingPlanner()
    harness.admit("int8@1")
    assert harness.planner.is_in_use("int8@1")
    assert not harness.planner.is_in_use("dense@1")
    with pytest.raises(ValueError, match="int8@1 are in progress"):
        harness.set_variants({"dense@1": 0.9})
    send = harness.send()
    assert harness.planner.is_in_use("int8@1")
    with pytest.raises(ValueError, match="int8@1 are in progress"):
        harness.set_variants({"dense@1": 0.9})
    harness.planner.end_batch(send.number, harness.now + 0.01)
    assert not harness.planner.is_in_use("int8@1")
    harness.set_variants({"dense@1": 0.9})


def test_a_request_of_a_lost_host_is_queued_again_and_still_needs_its_variant() -> None:
    harness = ChangingPlanner()
    harness.admit("int8@1")
    send = harness.send()
    harness.planner.end_batch(send.number, harness.now, is_representative=False)
    assert harness.planner.retry(send.batch) == []
    assert harness.planner.is_in_use("int8@1")


def test_two_generations_of_a_variant_learn_apart() -> None:
    harness = ChangingPlanner()
    harness.latency.add("int8@2", CARD)
    harness.set_variants({**BOTH, "int8@2": 0.8})
    harness.latency.calibrate("int8@2", {1: [0.001], 8: [0.002]})
    assert harness.latency.times("int8@2").typical_s(1) == pytest.approx(0.001)
    assert harness.latency.times("int8@1").typical_s(1) == pytest.approx(0.010)
    assert harness.latency.since_last_batch_s("int8@1") == math.inf
    assert harness.serve("int8@2") == "int8@2"
    assert harness.latency.since_last_batch_s("int8@1") == math.inf


def test_the_batches_of_a_variant_that_stays_keep_running() -> None:
    harness = ChangingPlanner()
    harness.admit("dense@1")
    send = harness.send()
    harness.latency.add("int8@2", CARD)
    harness.set_variants({"dense@1": 0.9, "int8@2": 0.8})
    harness.admit("dense@1")
    assert isinstance(harness.planner.step(harness.now), Idle), "its only slot was freed"
    harness.planner.end_batch(send.number, harness.now + 0.01)
    assert harness.send().variant == "dense@1"


def test_the_forecast_expects_the_same_requests_for_the_next_generation() -> None:
    harness = ChangingPlanner()
    for number in range(64):
        harness.now = 100.0 + 0.005 * number
        harness.admit("int8@1", within=0.015)
        while isinstance(step := harness.planner.step(harness.now), Send):
            harness.planner.end_batch(step.number, harness.now + 0.001)
    harness.planner.update_forecast(harness.now)
    expected = harness.planner._forecast.expected_misses(harness.now)(0.02)
    assert expected > 0
    harness.latency.add("int8@2", CARD)
    harness.set_variants({"dense@1": 0.9, "int8@2": 0.8})
    harness.latency.remove("int8@1")
    arrivals = harness.planner._forecast._offered.recent()
    assert {each.variants for each in arrivals} == {("int8@2",)}
    harness.set_variants({"dense@1": 0.9})
    arrivals = harness.planner._forecast._offered.recent()
    assert {each.variants for each in arrivals} == {()}, "nobody asks for a removed variant"
    harness.now += 0.2
    harness.admit("dense@1")
    harness.planner.update_forecast(harness.now)


def test_a_removed_variant_is_not_explored() -> None:
    harness = ChangingPlanner()
    harness.serve("dense@1", "int8@1")
    harness.admit("dense@1", "int8@1")
    send = harness.send()
    harness.set_variants({"dense@1": 0.9})
    harness.latency.remove("int8@1")
    harness.planner.end_batch(send.number, harness.now + 0.01)
    assert list(harness.planner._exploration._recent) == ["dense@1"]
    harness.now += EXPLORE_AFTER_S + 1
    step = harness.planner.step(harness.now)
    assert not isinstance(step, Shadow) or step.variant == "dense@1"


def test_slots_of_a_variant_that_is_not_routed_to_are_an_error() -> None:
    with pytest.raises(KeyError, match="int8@7"):
        ChangingPlanner().planner.set_slots("int8@7", 1)
