"""The reconciler with the real store, interrupted at every change that it makes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from serving.control.cluster import App
from serving.control.reconciler import LEASE, MAX_PROBES
from tests.serving.control.simulated import KEPT_HISTORY, RECIPE, CrashPoint, World
from variants.catalog import generations

Scenario = Callable[[World], None]
START = {("dense", 1), ("int8", 1)}


def add(world: World) -> None:
    world.settle()
    world.store.submit_build("new", RECIPE, "me", must_exist=False)
    world.settle()
    assert world.running == START | {("new", 1)}


def replace_and_roll_back(world: World) -> None:
    world.settle()
    world.store.submit_build("int8", RECIPE, "me", must_exist=True)
    world.settle()
    assert world.running == {("dense", 1), ("int8", 2)}
    world.store.submit_publish("int8", 1, "me")
    world.settle()
    assert world.running == START
    assert world.store.generation("int8", 2).state == "kept"


def remove_and_publish_again(world: World) -> None:
    world.settle()
    world.store.submit_remove("int8", "me")
    world.settle()
    assert world.running == {("dense", 1)}
    assert world.store.variant("int8").generations[0].state == "kept"
    world.store.submit_publish("int8", 1, "me")
    world.settle()
    assert world.running == START


def replace_with_broken_files(world: World) -> None:
    world.settle()
    world.cluster.broken = {("int8", 2)}
    job = world.store.submit_build("int8", RECIPE, "me", must_exist=True)
    world.settle()
    assert world.running == START
    failed = world.store.job(job.id)
    assert (failed.status, failed.error) == ("failed", "model.onnx is damaged")
    assert world.store.generation("int8", 2).state == "failed"
    assert world.cluster.deployed.count(("int8", 2)) == 1


def rejected_by_the_gate(world: World) -> None:
    world.settle()
    world.verdict = "fail"
    job = world.store.submit_build("new", RECIPE, "me", must_exist=False)
    world.settle()
    assert world.running == START
    assert world.store.job(job.id).status == "rejected"


def cancelled_while_it_is_built(world: World) -> None:
    world.settle()
    world.builder_steps = 1000
    job = world.store.submit_build("new", RECIPE, "me", must_exist=False)
    for _ in range(4):
        world.step()
    world.store.cancel(job.id, "me")
    world.settle()
    assert world.running == START
    assert world.cluster.building == {}
    assert world.store.job(job.id).status == "cancelled"


def cancelled_while_it_warms_up(world: World) -> None:
    world.settle()
    job = world.store.submit_build("new", RECIPE, "me", must_exist=False)
    while world.store.job(job.id).stage != "warming":
        world.step()
    world.store.cancel(job.id, "me")
    world.settle()
    assert world.running == START
    assert world.store.job(job.id).status == "cancelled"


SCENARIOS = (
    add,
    replace_and_roll_back,
    remove_and_publish_again,
    replace_with_broken_files,
    rejected_by_the_gate,
    cancelled_while_it_is_built,
    cancelled_while_it_warms_up,
)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: str(each.__name__))
def test_the_cluster_becomes_as_desired_wherever_the_reconciler_is_killed(
    scenario: Scenario, tmp_path: Path
) -> None:
    whole = CrashPoint()
    (tmp_path / "whole").mkdir()
    scenario(World(tmp_path / "whole", whole))
    assert whole.changes > 4
    for number in range(1, whole.changes + 1):
        (tmp_path / str(number)).mkdir()
        crash = CrashPoint(after=number)
        scenario(World(tmp_path / str(number), crash))
        assert crash.changes >= number, "the process was not killed"


def test_a_rollback_in_the_window_takes_back_hosts_that_still_run(tmp_path: Path) -> None:
    world = World(tmp_path, rollback_window_s=20.0)
    world.settle()
    for number in (2, 3):
        job = world.store.submit_build("int8", RECIPE, "me", must_exist=True)
        for _ in range(60):
            world.step()
            if world.store.job(job.id).status == "succeeded":
                break
        assert {gateway.routed["int8"] for gateway in world.gateways} == {number}
    world.store.submit_publish("int8", 2, "me")
    world.settle()
    assert world.store.lineup().published == {"dense": 1, "int8": 2}
    assert world.cluster.deployed.count(("int8", 2)) == 1
    for _ in range(60):  # 30 s
        world.step()
    assert world.running == {("dense", 1), ("int8", 2)}


def test_a_lost_builder_is_started_once_more_and_then_the_job_fails(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.settle()
    world.builder_steps = 1000
    job = world.store.submit_build("new", RECIPE, "me", must_exist=False)
    for attempt in (1, 2):
        while job.id not in world.cluster.building:
            world.step()
        assert world.store.job(job.id).attempts == attempt
        world.cluster.building.clear()  # its process was killed
        world.step()
    world.settle()
    failed = world.store.job(job.id)
    assert (failed.status, failed.error) == ("failed", "the builder was lost 2 times")
    assert [each.state for each in world.store.variant("new").generations] == ["failed"]


def test_builds_run_one_at_a_time_in_the_order_of_submission(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.settle()
    names = ["c", "a", "b"]
    jobs = [world.store.submit_build(name, RECIPE, "me", must_exist=False) for name in names]
    order: list[str] = []
    for _ in range(60):
        world.step()
        assert len(world.cluster.building) <= 1
        order += [each for each in world.cluster.building if each not in order]
    assert order == [job.id for job in jobs]
    assert set(world.store.lineup().published) == {"dense", "int8", *names}


def test_hosts_of_a_published_generation_that_fail_are_started_with_growing_pauses(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    world.cluster.broken = {("int8", 1)}
    for _ in range(400):  # 200 s
        world.step()
    assert 4 <= world.cluster.deployed.count(("int8", 1)) <= 6
    assert world.store.generation("int8", 1).error == "model.onnx is damaged"
    assert world.running - {("int8", 1)} == {("dense", 1)}
    world.cluster.broken = set()
    for _ in range(700):
        world.step()
    assert world.running == START
    assert world.store.generation("int8", 1).error is None


def test_nobody_waits_for_a_gateway_that_was_killed(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.settle()
    world.gateways[0].is_alive = False  # it holds the lease
    job = world.store.submit_build("int8", RECIPE, "me", must_exist=True)
    world.settle()
    assert world.store.job(job.id).status == "succeeded"
    assert world.running == {("dense", 1), ("int8", 2)}


def test_everything_published_is_deployed_on_a_new_cluster(tmp_path: Path) -> None:
    world = World(tmp_path)
    add(world)
    world.cluster.running.clear()
    world.settle()
    assert world.running == START | {("new", 1)}


def test_an_application_that_nobody_knows_is_stopped(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.cluster.running["old", 7] = App("running")
    world.settle()
    assert world.running == START


def test_old_generations_are_deleted_from_disk(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.settle()
    for number in range(2, 5):
        world.store.submit_build("int8", RECIPE, "me", must_exist=True)
        folder = generations.folder(tmp_path, "int8", number - 1)
        folder.mkdir(parents=True)
        world.settle()
    states = [each.state for each in world.store.variant("int8").generations]
    assert states == ["deleted", "kept", "kept", "published"]
    assert generations.on_disk(tmp_path) == {("int8", 2), ("int8", 3)}


def test_what_the_gate_rejects_is_deleted_from_disk_when_later_builds_begin(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.settle()
    world.verdict = "fail"
    for _ in range(4):
        world.store.submit_build("new", RECIPE, "me", must_exist=False)
        world.settle()
    states = [each.state for each in world.store.variant("new").generations]
    assert states == ["deleted", "rejected", "rejected", "rejected"]


def test_a_reconciler_that_has_released_the_lease_does_not_act_any_more(tmp_path: Path) -> None:
    world = World(tmp_path)
    reconciler = world.new_reconciler("c")
    assert reconciler.step()
    reconciler.release()
    world.cluster.running.clear()
    assert not reconciler.step()
    assert world.cluster.running == {}
    assert world.store.acquire_lease(LEASE, "a", 5.0)


def test_a_generation_that_is_not_served_here_does_not_keep_the_hosts_of_its_predecessor(
    tmp_path: Path,
) -> None:
    world = World(tmp_path, excluded=frozenset({("int8", 2)}))
    world.settle()
    world.store.adopt("int8", "other digest", RECIPE)
    world.settle()
    assert world.running == {("dense", 1)}


def test_old_entries_of_the_history_are_deleted_while_nothing_else_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.control.reconciler.CLEANING_S", 10.0)
    world = World(tmp_path)
    world.settle()
    for _ in range(KEPT_HISTORY + 50):
        world.store.record("unknown", "login failed", "10.0.0.1")
    for _ in range(25):  # 12.5 s, in which the lease is never lost
        world.step()
    assert len(world.store.history(1000)) == KEPT_HISTORY


def test_a_generation_is_probed_before_it_is_published(tmp_path: Path) -> None:
    world = World(tmp_path)
    add(world)
    assert world.probed == [("new", 1)]
    assert world.store.generation("new", 1).probe_s == 1.5


def test_hosts_that_answer_no_probe_fail_their_job_and_leave_what_is_served(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.settle()
    world.mute = {("int8", 2)}
    job = world.store.submit_build("int8", RECIPE, "me", must_exist=True)
    world.settle()
    failed = world.store.job(job.id)
    assert failed.status == "failed"
    assert "did not answer a test request: TimeoutError()" in (failed.error or "")
    assert world.probed == [("int8", 2)] * MAX_PROBES
    assert world.running == START
