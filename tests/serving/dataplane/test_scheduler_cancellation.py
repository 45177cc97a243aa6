"""Requests whose callers disconnect, in every stage."""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry

from serving.dataplane.executor import HostLost
from serving.dataplane.scheduler import Scheduler
from serving.routing.policy.state import LaneKey
from serving.telemetry.metrics import Metrics
from tests.serving.dataplane.scheduler_harness import (
    ManualClock,
    ManualHosts,
    SchedulerHarness,
    settle,
    submit,
)
from tests.serving.routing.planner_harness import new_planner


async def test_cancelling_one_request_does_not_affect_others_in_its_batch() -> None:
    harness = SchedulerHarness(dense=1)
    cancelled, other = harness.submit("cancelled"), harness.submit("other")
    await harness.clock.advance()
    cancelled.cancel()
    await settle()
    harness.hosts.finish()
    assert (await other).outputs == "output of other"
    assert cancelled.cancelled()
    assert harness.cancelled == [("running", 1)]
    assert harness.scheduler.is_idle


async def test_a_request_cancelled_in_the_queue_is_never_computed() -> None:
    harness = SchedulerHarness(dense=1)
    running = harness.submit("running")
    await harness.clock.advance()
    cancelled, other = harness.submit("cancelled", size=3), harness.submit("other")
    await harness.clock.advance()
    cancelled.cancel()
    await settle()
    assert harness.scheduler.queued == 1
    assert harness.cancelled == [("queued", 3)]
    harness.hosts.finish()
    await harness.clock.advance()
    harness.hosts.finish()
    await asyncio.gather(running, other)
    assert harness.hosts.received == ["running", "other"]
    assert harness.scheduler.is_idle


async def test_a_cancellation_triggers_a_new_decision() -> None:
    harness = SchedulerHarness(dense=1, int8=0)
    held = harness.submit("held")
    await harness.clock.advance()
    cancelled = harness.submit("cancelled", variants=("int8",))
    await harness.clock.advance()
    other = harness.submit("other")
    await harness.clock.advance()
    harness.decisions.clear()
    cancelled.cancel()
    await harness.clock.advance()
    assert len(harness.decisions) == 1
    for _ in "held", "other":
        harness.hosts.finish()
        await harness.clock.advance()
    await asyncio.gather(held, other)


async def test_a_lost_batch_is_sent_again_without_cancelled_requests() -> None:
    harness = SchedulerHarness(dense=1, int8=1)
    cancelled, other = harness.submit("cancelled"), harness.submit("other")
    await harness.clock.advance()
    cancelled.cancel()
    await settle()
    harness.hosts.fail(HostLost("dense"))
    await harness.clock.advance()
    assert harness.hosts.batches == [("dense", ["other"])]
    harness.hosts.finish()
    assert (await other).outputs == "output of other"
    assert harness.cancelled == [("running", 1)]


async def test_a_cancelled_request_is_not_queued_again_after_its_host_is_lost() -> None:
    harness = SchedulerHarness(dense=1)
    cancelled = harness.submit("cancelled")
    await harness.clock.advance()
    cancelled.cancel()
    await settle()
    harness.scheduler.set_slots("dense", 0)
    harness.hosts.fail(HostLost("dense"))
    await settle()
    assert harness.scheduler.is_idle
    assert harness.cancelled == [("running", 1)]


async def test_a_request_queued_again_can_be_cancelled() -> None:
    harness = SchedulerHarness(dense=1)
    task = harness.submit("a", size=4)
    await harness.clock.advance()
    harness.scheduler.set_slots("dense", 0)
    harness.hosts.fail(HostLost("dense"))
    await harness.clock.advance()
    task.cancel()
    await settle()
    assert harness.scheduler.is_idle
    assert harness.cancelled == [("queued", 4)]


async def test_a_request_cancelled_after_it_was_shed_does_not_count_as_cancelled() -> None:
    harness = SchedulerHarness(max_queue=1)
    low = harness.submit("low", priority=50)
    await harness.clock.advance()
    important = harness.submit("important", priority=1)
    # After the important request has taken its place:
    asyncio.get_running_loop().call_soon(low.cancel)
    await settle()
    assert low.cancelled()
    assert harness.cancelled == []
    assert harness.scheduler.queued == 1
    important.cancel()
    await settle()
    assert harness.scheduler.is_idle


async def test_cancelled_requests_are_counted_by_stage() -> None:
    registry, clock, hosts = CollectorRegistry(), ManualClock(), ManualHosts()
    metrics = Metrics(registry, "shirts")
    planner, _ = new_planner(clock.time, dense=1)
    scheduler = Scheduler(planner, hosts.run, clock, on_cancelled=metrics.cancelled)
    for size in (4, 7):
        task = asyncio.create_task(
            submit(
                scheduler, "a", LaneKey(("dense",)), size=size, deadline=clock.now + 9, priority=10
            )
        )
        await clock.advance()
        task.cancel()
        await settle()
    stages = {
        stage: registry.get_sample_value(
            "paretoserve_cancelled_total", {"model": "shirts", "stage": stage}
        )
        for stage in ("queued", "running")
    }
    assert stages == {"queued": 1, "running": 1}
    saved = registry.get_sample_value("paretoserve_saved_samples_total", {"model": "shirts"})
    assert saved == 7
    hosts.finish()
    await settle()
