from __future__ import annotations

import math

import pytest

from loadtests.simulator.machine import BatchKey, SimulatedMachine


def completions(machine: SimulatedMachine) -> list[tuple[float, BatchKey]]:
    """Run all batches to completion; return the times and the keys."""
    completed = []
    while (completion := machine.next_completion())[0] < math.inf:
        completed.append(completion)
        machine.stop(completion[1], completion[0])
    return [(round(at, 9), batch) for at, batch in completed]


def test_a_batch_alone_on_a_core_takes_its_work() -> None:
    machine = SimulatedMachine(2, {"dense": 2})
    assert machine.next_completion() == (math.inf, (-1, -1))
    machine.start((0, 0), "dense", 1.0, 0.0)
    machine.start((0, 1), "dense", 2.0, 0.25)
    assert completions(machine) == [(1.0, (0, 0)), (2.25, (0, 1))]


def test_three_batches_on_two_cores_get_two_thirds_of_one_each() -> None:
    machine = SimulatedMachine(2, {"dense": 1, "sparse": 1, "int8": 1})
    for number, variant in enumerate(("dense", "sparse", "int8")):
        machine.start((0, number), variant, 1.0 + number, 0.0)
    # Until 1.5 all three run at 2/3; then the other two have a core each.
    assert completions(machine) == [(1.5, (0, 0)), (2.5, (0, 1)), (3.5, (0, 2))]


def test_a_later_batch_slows_down_running_batches() -> None:
    machine = SimulatedMachine(1, {"dense": 1, "int8": 1})
    machine.start((0, 0), "dense", 1.0, 0.0)
    machine.start((0, 1), "int8", 0.2, 0.5)
    # From 0.5 both run at half speed: int8 completes after 0.4 s, when dense has 0.3 s left.
    assert completions(machine) == [(0.9, (0, 1)), (1.2, (0, 0))]


def test_a_host_runs_batches_in_order_of_arrival() -> None:
    machine = SimulatedMachine(1, {"dense": 1})
    for batch, work_s in (((0, 0), 1.0), ((1, 0), 2.0), ((2, 0), 0.5), ((0, 1), 0.25)):
        machine.start(batch, "dense", work_s, 0.0)
    assert completions(machine) == [(1.0, (0, 0)), (3.0, (1, 0)), (3.5, (2, 0)), (3.75, (0, 1))]


def test_a_waiting_batch_uses_no_core() -> None:
    machine = SimulatedMachine(1, {"dense": 1, "int8": 1})
    machine.start((0, 0), "dense", 1.0, 0.0)
    machine.start((1, 0), "dense", 1.0, 0.0)
    machine.start((0, 1), "int8", 1.0, 0.0)
    # Two share the core until 2; then the third starts alone.
    assert completions(machine) == [(2.0, (0, 0)), (2.0, (0, 1)), (3.0, (1, 0))]


@pytest.mark.parametrize(
    ("stopped", "left"),
    [
        pytest.param((1, 0), [(1.0, (0, 0)), (2.0, (2, 0))], id="waiting"),
        pytest.param((0, 0), [(1.5, (1, 0)), (2.5, (2, 0))], id="running"),
    ],
)
def test_a_stopped_batch_frees_its_place(
    stopped: BatchKey, left: list[tuple[float, BatchKey]]
) -> None:
    machine = SimulatedMachine(1, {"dense": 1})
    for gateway in range(3):
        machine.start((gateway, 0), "dense", 1.0, 0.0)
    machine.stop(stopped, 0.5)
    assert completions(machine) == left


def test_a_slot_is_free_again_after_its_batch_is_stopped() -> None:
    machine = SimulatedMachine(1, {"dense": 1})
    machine.start((0, 0), "dense", 1.0, 0.0)
    machine.stop((0, 0), 0.5)
    machine.start((0, 1), "dense", 1.0, 3.0)
    assert completions(machine) == [(4.0, (0, 1))]


def test_a_slowdown_applies_to_the_remaining_work_and_can_end() -> None:
    machine = SimulatedMachine(1, {"dense": 1})
    machine.start((0, 0), "dense", 1.0, 0.0)
    machine.slow_down(4.0, 0.5)
    assert machine.next_completion() == (2.5, (0, 0))
    machine.slow_down(1.0, 1.5)  # 0.25 s of work were done meanwhile
    assert completions(machine) == [(1.75, (0, 0))]


def test_stopping_a_batch_returns_how_long_it_has_run() -> None:
    machine = SimulatedMachine(cores=1, slots={"dense": 1})
    machine.start((0, 0), "dense", 1.0, now=0.0)
    machine.start((1, 0), "dense", 1.0, now=0.25)
    machine.start((2, 0), "dense", 1.0, now=0.5)
    assert machine.stop((2, 0), now=0.75) == 0.0, "it was waiting for a slot"
    assert machine.stop((0, 0), now=1.0) == 1.0
    assert machine.stop((1, 0), now=1.5) == 0.5
