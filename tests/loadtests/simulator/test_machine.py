from __future__ import annotations

import math

import pytest

from loadtests.simulator.machine import BatchKey, SimulatedMachine


def ends(machine: SimulatedMachine) -> list[tuple[float, BatchKey]]:
    """Let everything come to its end; return when, and what."""
    found = []
    while (end := machine.next_completion())[0] < math.inf:
        found.append(end)
        machine.stop(end[1], end[0])
    return [(round(at, 9), batch) for at, batch in found]


def test_a_batch_on_a_core_of_its_own_takes_what_it_takes() -> None:
    machine = SimulatedMachine(2, {"dense": 2})
    assert machine.next_completion() == (math.inf, (-1, -1))
    machine.start((0, 0), "dense", 1.0, 0.0)
    machine.start((0, 1), "dense", 2.0, 0.25)
    assert ends(machine) == [(1.0, (0, 0)), (2.25, (0, 1))]


def test_three_batches_on_two_cores_get_two_thirds_of_one_each() -> None:
    machine = SimulatedMachine(2, {"dense": 1, "sparse": 1, "int8": 1})
    for number, variant in enumerate(("dense", "sparse", "int8")):
        machine.start((0, number), variant, 1.0 + number, 0.0)
    # Until 1.5 all three work, at 2/3; from then on the two that are left have a core each.
    assert ends(machine) == [(1.5, (0, 0)), (2.5, (0, 1)), (3.5, (0, 2))]


def test_what_starts_later_slows_what_is_at_work_from_then_on() -> None:
    machine = SimulatedMachine(1, {"dense": 1, "int8": 1})
    machine.start((0, 0), "dense", 1.0, 0.0)
    machine.start((0, 1), "int8", 0.2, 0.5)
    # From 0.5 both at half speed: int8 is done after 0.4 s, dense has 0.3 s to do by then.
    assert ends(machine) == [(0.9, (0, 1)), (1.2, (0, 0))]


def test_a_host_serves_the_gateways_in_the_order_in_which_they_came() -> None:
    machine = SimulatedMachine(1, {"dense": 1})
    for batch, work_s in (((0, 0), 1.0), ((1, 0), 2.0), ((2, 0), 0.5), ((0, 1), 0.25)):
        machine.start(batch, "dense", work_s, 0.0)
    assert ends(machine) == [(1.0, (0, 0)), (3.0, (1, 0)), (3.5, (2, 0)), (3.75, (0, 1))]


def test_a_batch_that_waits_for_its_host_takes_no_core() -> None:
    machine = SimulatedMachine(1, {"dense": 1, "int8": 1})
    machine.start((0, 0), "dense", 1.0, 0.0)
    machine.start((1, 0), "dense", 1.0, 0.0)
    machine.start((0, 1), "int8", 1.0, 0.0)
    # Two share the core until 2; the third began then, alone.
    assert ends(machine) == [(2.0, (0, 0)), (2.0, (0, 1)), (3.0, (1, 0))]


@pytest.mark.parametrize(
    ("stopped", "left"),
    [
        pytest.param((1, 0), [(1.0, (0, 0)), (2.0, (2, 0))], id="one that waits"),
        pytest.param((0, 0), [(1.5, (1, 0)), (2.5, (2, 0))], id="one at work"),
    ],
)
def test_what_is_stopped_makes_room(stopped: BatchKey, left: list[tuple[float, BatchKey]]) -> None:
    machine = SimulatedMachine(1, {"dense": 1})
    for gateway in range(3):
        machine.start((gateway, 0), "dense", 1.0, 0.0)
    machine.stop(stopped, 0.5)
    assert ends(machine) == left


def test_after_everything_was_stopped_there_is_room_again() -> None:
    machine = SimulatedMachine(1, {"dense": 1})
    machine.start((0, 0), "dense", 1.0, 0.0)
    machine.stop((0, 0), 0.5)
    machine.start((0, 1), "dense", 1.0, 3.0)
    assert ends(machine) == [(4.0, (0, 1))]


def test_a_slowdown_stretches_what_is_left_and_can_end() -> None:
    machine = SimulatedMachine(1, {"dense": 1})
    machine.start((0, 0), "dense", 1.0, 0.0)
    machine.slow_down(4.0, 0.5)
    assert machine.next_completion() == (2.5, (0, 0))
    machine.slow_down(1.0, 1.5)  # a quarter of a second's work was done since
    assert ends(machine) == [(1.75, (0, 0))]
