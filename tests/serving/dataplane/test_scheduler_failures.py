"""Batches that fail, and hosts that are lost."""

from __future__ import annotations

import pytest

from serving.dataplane.executor import HostLost
from serving.errors import InferenceFailed
from tests.serving.dataplane.scheduler_harness import SchedulerHarness, error_of


async def test_a_lost_batch_is_sent_once_more_elsewhere() -> None:
    harness = SchedulerHarness(dense=1, int8=1)
    task = harness.submit("a", within=0.050)
    await harness.clock.advance()
    harness.scheduler.set_slots("dense", 0)
    harness.hosts.fail(HostLost("dense"))
    await harness.clock.advance()
    assert harness.hosts.batches == [("int8", ["a"])]
    harness.hosts.finish()
    assert (await task).variant == "int8"


async def test_a_batch_that_is_lost_twice_is_an_internal_error() -> None:
    harness = SchedulerHarness(dense=2)
    task = harness.submit("a")
    for _ in range(2):
        await harness.clock.advance()
        harness.hosts.fail(HostLost("dense"))
    assert isinstance(await error_of(task), InferenceFailed)
    assert harness.scheduler.is_idle


async def test_the_error_of_a_failed_request_does_not_contain_the_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    harness = SchedulerHarness(dense=1)
    task = harness.submit("a")
    await harness.clock.advance()
    harness.hosts.fail(RuntimeError("secret"))
    error = await error_of(task)
    assert isinstance(error, InferenceFailed)
    assert "secret" not in str(error)
    assert "secret" in caplog.text
    after = harness.submit("b")
    await harness.clock.advance()
    harness.hosts.finish()
    assert (await after).outputs == "output of b"


async def test_a_failed_batch_is_run_one_by_one_and_only_the_faulty_request_fails() -> None:
    harness = SchedulerHarness(dense=1)
    tasks = {name: harness.submit(name, size=2) for name in "abc"}
    await harness.clock.advance()
    assert harness.hosts.batches == [("dense", ["a", "b", "c"])]
    harness.hosts.fail(RuntimeError("one of them"))
    await harness.clock.advance(0.003)
    for name in "abc":
        assert harness.hosts.batches == [("dense", [name])]
        if name == "b":
            harness.hosts.fail(RuntimeError("this one"))
        else:
            harness.hosts.finish()
        await harness.clock.advance(0.004)
    assert isinstance(await error_of(tasks["b"]), InferenceFailed)
    for name in "ac":
        result = await tasks[name]
        assert (result.outputs, result.batch_size) == (f"output of {name}", 2)
        assert result.compute_s > 0
    assert (await tasks["a"]).queue_s == pytest.approx(0.0, abs=1e-6)
    assert (await tasks["c"]).queue_s == pytest.approx(0.007, abs=1e-6)
    assert harness.scheduler.is_idle


async def test_a_host_lost_while_requests_run_one_by_one_repeats_only_the_unanswered() -> None:
    harness = SchedulerHarness(dense=1, int8=1)
    tasks = {name: harness.submit(name) for name in "abc"}
    await harness.clock.advance()
    harness.hosts.fail(RuntimeError("one of them"))
    await harness.clock.advance()
    harness.hosts.finish()
    harness.scheduler.set_slots("dense", 0)
    for _ in "bc":
        await harness.clock.advance()
        harness.hosts.fail(HostLost("dense"))
    await harness.clock.advance()
    assert harness.hosts.batches == [("int8", ["b", "c"])]
    harness.hosts.finish()
    assert (await tasks["a"]).variant == "dense"
    assert {(await tasks[name]).variant for name in "bc"} == {"int8"}
    assert harness.hosts.received == ["a", "b", "c", "a", "b", "c", "b", "c"]


async def test_a_request_cancelled_while_others_run_one_by_one_is_not_computed() -> None:
    harness = SchedulerHarness(dense=1)
    tasks = {name: harness.submit(name) for name in "abc"}
    await harness.clock.advance()
    harness.hosts.fail(RuntimeError("one of them"))
    await harness.clock.advance()
    tasks["b"].cancel()
    await harness.clock.advance()
    harness.hosts.finish()
    await harness.clock.advance()
    assert harness.hosts.batches == [("dense", ["c"])]
    harness.hosts.finish()
    assert (await tasks["c"]).outputs == "output of c"
