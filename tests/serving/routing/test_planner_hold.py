"""A request without a deadline waits only while requests with deadlines are queued or arriving."""

from __future__ import annotations

import contextlib
import itertools
import math

import pytest

from serving.errors import Overloaded
from serving.routing.policy.pareto import pareto
from serving.routing.queue import AGEING_S
from serving.routing.step import Idle, Send
from tests.serving.builders import exactly
from tests.serving.routing.planner_harness import ANY, PlannerHarness, payloads

FAST_CARDS = {
    "dense": exactly({1: 0.0010, 64: 0.0030}),
    "int8": exactly({1: 0.0005, 64: 0.0020}),
}

TICK_S = 0.0005


def host_s(send: Send[object]) -> float:
    """Return the time that a host takes for a batch."""
    sizes = {size: one.p50_s for size, one in FAST_CARDS[send.variant].items()}
    return sizes[1] + (send.size - 1) * (sizes[64] - sizes[1]) / 63


def new_harness(cores: int = 1, slots: int = 1) -> PlannerHarness:
    return PlannerHarness(pareto, FAST_CARDS, cores=float(cores), dense=slots, int8=slots)


def run_load(
    harness: PlannerHarness,
    seconds: float,
    *,
    gap_s: float = TICK_S,
    within: float = 0.050,
    lag_s: float = 0.0,
    size: int = 1,
    lanes: int = 1,
) -> None:
    """Let requests with deadlines arrive at even distances; every batch ends `lag_s` late."""
    running: list[tuple[float, Send[object]]] = []
    end = harness.now + seconds
    for number in itertools.count():
        harness.now += TICK_S
        for batch in [each for each in running if each[0] <= harness.now]:
            running.remove(batch)
            harness.end(batch[1], after=0.0)
        is_loaded = harness.now < end
        if is_loaded and number % max(1, round(gap_s / TICK_S)) == 0:
            with contextlib.suppress(Overloaded):
                harness.admit(number, within=within, size=size, signature=number % lanes)
        running += [
            (harness.now + host_s(step) + lag_s, step)
            for step in harness.steps()
            if isinstance(step, Send)
        ]
        harness.planner.update_forecast(harness.now)
        if not (is_loaded or running or harness.planner.queued):
            return


def held_s(harness: PlannerHarness, variants: tuple[str, ...], size: int = 1) -> float:
    """Return how long a request without a deadline waits on an idle machine; serve it."""
    request = harness.admit("lone", variants=variants, size=size)
    while not isinstance(step := harness.planner.step(harness.now), Send):
        assert isinstance(step, Idle)
        assert step.until < math.inf
        harness.planner.update_forecast(harness.now)
        harness.now = max(step.until, harness.now + TICK_S)
    waited_s = harness.now - request.arrived
    harness.end(step, after=host_s(step))
    harness.planner.update_forecast(harness.now)
    return waited_s


@pytest.mark.parametrize("lag_s", [0.0, 0.005, 0.030])
@pytest.mark.parametrize("within", [0.020, 0.050, 0.200])
@pytest.mark.parametrize(
    ("cores", "slots", "lanes", "size"), [(1, 1, 1, 1), (2, 1, 1, 1), (2, 2, 3, 1), (1, 1, 2, 4)]
)
@pytest.mark.parametrize("variants", [ANY, ("dense",), ("int8",)], ids="-".join)
def test_after_a_load_a_request_without_a_deadline_is_served_at_once(
    lag_s: float,
    within: float,
    cores: int,
    slots: int,
    lanes: int,
    size: int,
    variants: tuple[str, ...],
) -> None:
    harness = new_harness(cores, slots)
    run_load(harness, 0.4, within=within, lag_s=lag_s, size=size, lanes=lanes)
    harness.now += 0.5
    waits_s = []
    for _ in range(4):
        waits_s.append(held_s(harness, variants))
        harness.now += TICK_S
    assert waits_s == [0.0] * 4


@pytest.mark.parametrize("gap_s", [0.0005, 0.010, 0.100])
def test_the_hold_ends_soon_after_the_arrivals_with_deadlines(gap_s: float) -> None:
    harness = new_harness()
    run_load(harness, 40 * gap_s, gap_s=gap_s, within=0.0015)
    assert held_s(harness, ("dense",), size=64) <= 3 * gap_s + TICK_S


def test_a_request_without_a_deadline_waits_while_others_arrive() -> None:
    # Requests arrive every 2 ms and are due 0.7 ms later. The lone one would take 2.3 ms.
    harness = new_harness()
    run_load(harness, 0.5, gap_s=0.002, within=0.0007)
    harness.admit("lone", variants=("dense",), size=40)
    begin, sent = harness.now, list[object]()
    for number in range(int(0.9 * AGEING_S / 0.002)):
        harness.now = begin + (number + 1) * 0.002
        harness.admit("urgent", within=0.0007)
        while isinstance(step := harness.planner.step(harness.now), Send):
            sent += payloads(step)
            harness.end(step, after=host_s(step))
        harness.planner.update_forecast(harness.now)
    assert sent == ["urgent"] * int(0.9 * AGEING_S / 0.002)
