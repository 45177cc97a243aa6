"""Turns of the simulated event loop: what runs when, and how long it takes."""

from __future__ import annotations

import math
from functools import partial

import pytest

from loadtests.simulator.event_loop import EventLoop


class LoopHarness:
    """An event loop with a clock, whose callbacks write their names and times to a list."""

    def __init__(self, per_turn_s: float = 0.0) -> None:
        self.loop = EventLoop(per_turn_s)
        self.now = 0.0
        self.done: list[tuple[str, float]] = []

    def finish(self, name: str) -> None:
        self.done.append((name, self.now))

    def read(self, name: str, cost_s: float = 1.0) -> None:
        self.loop.call_when_read(cost_s, partial(self.finish, name))

    def run_until(self, end: float) -> None:
        """Run all callbacks that end by `end`."""
        self.loop.run(self.now)
        while self.loop.next_at <= end:
            self.now = self.loop.next_at
            self.loop.run(self.now)
        self.now = end


def test_callbacks_run_one_after_the_other() -> None:
    harness = LoopHarness()
    harness.read("a")
    harness.read("b", 0.5)
    harness.run_until(10.0)
    assert harness.done == [("a", 1.0), ("b", 1.5)]
    assert harness.loop.next_at == math.inf


def test_a_socket_that_becomes_ready_during_a_turn_is_read_in_the_next_one() -> None:
    harness = LoopHarness()
    harness.read("a")
    harness.read("b")
    harness.run_until(0.5)
    harness.read("late")
    harness.loop.call_soon(1.0, partial(harness.finish, "scheduled"))
    harness.loop.call_in_turn(0.0, partial(harness.finish, "end of turn"))
    harness.run_until(10.0)
    names = [name for name, _ in harness.done]
    assert names == ["a", "b", "end of turn", "scheduled", "late"]


def test_a_callback_that_is_called_next_runs_before_all_others() -> None:
    harness = LoopHarness()
    harness.read("a")
    harness.read("b")
    harness.run_until(0.5)
    harness.loop.call_next(2.0, partial(harness.finish, "polled"))
    harness.run_until(10.0)
    assert harness.done == [("a", 1.0), ("polled", 3.0), ("b", 4.0)]


def test_running_a_busy_loop_changes_nothing() -> None:
    harness = LoopHarness()
    harness.read("a")
    harness.loop.run(0.0)
    harness.read("b", 0.0)
    harness.loop.run(0.5)
    assert harness.done == []
    assert harness.loop.next_at == 1.0


def test_each_turn_has_a_cost() -> None:
    harness = LoopHarness(per_turn_s=0.25)
    harness.read("a")
    harness.read("b")
    harness.run_until(10.0)
    harness.read("c")
    harness.run_until(20.0)
    assert harness.done == [("a", 1.25), ("b", 2.25), ("c", 11.25)]


def test_a_slowdown_applies_to_callbacks_that_start_later() -> None:
    harness = LoopHarness()
    harness.read("a")
    harness.read("b")
    harness.run_until(0.5)
    harness.loop.slowdown = 3.0
    harness.run_until(10.0)
    assert harness.done == [("a", 1.0), ("b", pytest.approx(4.0))]


def test_callbacks_without_cost_take_no_time() -> None:
    harness = LoopHarness()
    harness.read("a", 0.0)
    harness.loop.call_soon(0.0, partial(harness.finish, "b"))
    harness.loop.run(0.0)
    assert harness.done == [("b", 0.0), ("a", 0.0)]
    assert harness.loop.next_at == math.inf
