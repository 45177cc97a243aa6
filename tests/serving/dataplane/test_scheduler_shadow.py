"""Shadow batches: copies of answered requests that measure other variants."""

from __future__ import annotations

import asyncio

import pytest

from serving.dataplane.executor import HostLost
from serving.routing.exploration import EXPLORE_AFTER_S
from tests.serving.dataplane.scheduler_harness import SchedulerHarness


async def shadow_started(harness: SchedulerHarness) -> None:
    """Let dense answer a request after a pause, so that INT8 runs a copy of it."""
    await harness.clock.advance(EXPLORE_AFTER_S + 1)
    task = harness.submit("a")
    await harness.clock.advance(0.010)
    harness.hosts.finish()
    await harness.clock.advance()
    assert (await task).variant == "dense"
    assert harness.hosts.batches == [("int8", ["a"])]


async def test_a_shadow_batch_measures_a_variant_and_answers_nobody() -> None:
    harness = SchedulerHarness(dense=1, int8=1)
    await shadow_started(harness)
    assert not harness.scheduler.is_idle
    await harness.clock.advance(0.004)
    harness.hosts.finish()
    await harness.clock.advance()
    assert harness.scheduler.is_idle
    assert harness.latency.since_last_batch_s("int8") == pytest.approx(0, abs=1e-9)
    assert harness.hosts.batches == []


@pytest.mark.parametrize("error", [ValueError("bad input"), HostLost("int8")])
async def test_a_shadow_batch_that_fails_has_no_effect(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    harness = SchedulerHarness(dense=1, int8=1)
    await shadow_started(harness)
    harness.hosts.fail(error)
    await harness.clock.advance(0.1)
    assert harness.scheduler.is_idle
    assert harness.hosts.batches == []
    assert harness.latency.since_last_batch_s("int8") > EXPLORE_AFTER_S
    assert not caplog.records, "logged at the level of debugging only"


async def test_a_request_that_arrives_during_a_shadow_batch_is_answered() -> None:
    harness = SchedulerHarness(dense=1, int8=1)
    await shadow_started(harness)
    tasks = [harness.submit("b"), harness.submit("c", variants=("int8",))]
    await harness.clock.advance()
    assert ("dense", ["b"]) in harness.hosts.batches
    while harness.hosts.batches:
        harness.hosts.finish()
        await harness.clock.advance()
    assert [result.variant for result in await asyncio.gather(*tasks)] == ["dense", "int8"]
