from __future__ import annotations

import asyncio
import contextlib
import math
import re
from collections.abc import Sequence

import pytest

from serving.dataplane.executor import BatchResult
from serving.dataplane.request import PendingRequest, RequestResult
from serving.dataplane.scheduler import RETRY_S, Scheduler
from serving.dataplane.step_delay import MAX_DELAY_S
from serving.errors import DeadlineExceeded, NotReady, Overloaded
from serving.routing.latency import LatencyModel
from serving.routing.outage import OUTAGE_S
from serving.routing.planner import Planner
from serving.routing.policy.pareto import pareto
from serving.routing.policy.state import LaneKey
from tests.serving.builders import exactly
from tests.serving.dataplane.async_run import from_async
from tests.serving.dataplane.scheduler_harness import (
    ManualClock,
    ManualHosts,
    SchedulerHarness,
    error_of,
    settle,
    submit,
)
from tests.serving.routing.planner_harness import ANY, MAX_BATCH, new_planner


async def test_a_result_has_the_outputs_and_how_they_were_computed() -> None:
    harness = SchedulerHarness(dense=1, int8=1)
    task = harness.submit("a", within=0.050)
    await harness.clock.advance(0.004)
    harness.hosts.finish()
    result = await task
    assert result.variant == "dense"
    assert result.outputs == "output of a"
    assert result.reason == "max_acc"
    assert result.batch_size == 1
    assert result.queue_s == 0
    assert result.predicted_s == pytest.approx(0.010, rel=0.01)
    assert result.compute_s == 0.001
    assert harness.scheduler.is_idle


async def test_requests_that_arrive_together_share_a_batch() -> None:
    harness = SchedulerHarness(dense=1)
    tasks = [harness.submit(name) for name in "abc"]
    await harness.clock.advance()
    assert harness.hosts.batches == [("dense", ["a", "b", "c"])]
    harness.hosts.finish()
    assert [(await task).outputs for task in tasks] == [f"output of {name}" for name in "abc"]


def bring_in_each_iteration(
    harness: SchedulerHarness, names: str, iteration_s: float = 0.0
) -> list[asyncio.Task[RequestResult[str]]]:
    """Submit a request now and one in each iteration; return their tasks, to which more come."""
    rest = iter(names)
    tasks: list[asyncio.Task[RequestResult[str]]] = []

    def bring() -> None:
        harness.clock.now += iteration_s
        name = next(rest, None)
        if name is not None:
            tasks.append(harness.submit(name))
            harness.clock.call_later(0, bring)

    bring()
    return tasks


async def test_requests_of_successive_iterations_of_a_busy_loop_share_a_batch() -> None:
    harness = SchedulerHarness(dense=1)
    tasks = bring_in_each_iteration(harness, "abcd")
    await harness.clock.advance()
    assert harness.hosts.batches == [("dense", ["a", "b", "c", "d"])]
    harness.hosts.finish()
    await asyncio.gather(*tasks)


async def test_a_slot_is_filled_at_once_unless_the_loop_is_busy() -> None:
    harness = SchedulerHarness(dense=1)
    first = harness.submit("first")
    await harness.clock.advance()
    second = harness.submit("second")
    await harness.clock.advance()
    harness.hosts.finish()
    assert harness.hosts.batches == [("dense", ["second"])]
    harness.hosts.finish()
    tasks = bring_in_each_iteration(harness, "abcdefgh", MAX_DELAY_S / 4)
    await harness.clock.advance(1.25 * MAX_DELAY_S)
    (_, batch), *_ = harness.hosts.batches
    assert 1 < len(batch) < len(tasks) < 8
    harness.hosts.finish()
    assert harness.hosts.batches == []
    await harness.clock.advance(MAX_DELAY_S)
    (_, rest), *_ = harness.hosts.batches
    assert [*batch, *rest] == [*"abcdefgh"]
    harness.hosts.finish()
    await asyncio.gather(first, second, *tasks)


async def test_a_full_batch_is_sent_before_the_iteration_ends() -> None:
    harness = SchedulerHarness(dense=1)
    key = LaneKey(ANY)
    for number in range(MAX_BATCH + 1):
        harness.scheduler.submit(
            str(number),
            key,
            size=1,
            deadline=harness.clock.now + 9,
            priority=10,
            on_end=lambda result: None,
        )
    ((_, batch),) = harness.hosts.batches
    assert len(batch) == MAX_BATCH
    assert harness.scheduler.queued == 1


async def test_a_step_that_fails_is_repeated_and_fails_no_request(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    harness = SchedulerHarness(dense=1)

    def fail(planner: object, now: float) -> None:
        raise RuntimeError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(Planner, "step", fail)
        tasks = [harness.submit(str(number), within=9) for number in range(MAX_BATCH)]
        await harness.clock.advance()
        assert "a step of the planner failed" in caplog.text
    await harness.clock.advance(RETRY_S)
    harness.hosts.finish()
    assert len(await asyncio.gather(*tasks)) == MAX_BATCH


async def test_a_host_gets_a_batch_only_when_it_has_a_free_slot() -> None:
    harness = SchedulerHarness(dense=1)
    first = harness.submit("a")
    await harness.clock.advance()
    rest = [harness.submit(name) for name in "bcd"]
    await harness.clock.advance()
    assert harness.hosts.batches == [("dense", ["a"])]
    assert harness.scheduler.queued == 3
    harness.hosts.finish()
    await harness.clock.advance()
    assert harness.hosts.batches == [("dense", ["b", "c", "d"])]
    harness.hosts.finish()
    await asyncio.gather(first, *rest)


async def test_a_request_whose_deadline_passes_in_the_queue_gets_deadline_exceeded() -> None:
    harness = SchedulerHarness(int8=1)
    running = harness.submit("running", variants=("int8",))
    await harness.clock.advance()
    waits = harness.submit("waits", within=0.010, variants=("int8",))
    await harness.clock.advance(0.011)
    error = await error_of(waits)
    assert isinstance(error, DeadlineExceeded)
    assert "in the queue" in str(error)
    assert harness.scheduler.queued == 0
    harness.hosts.finish()
    await running


@pytest.mark.parametrize(
    ("within", "held_up", "text"),
    [
        (0.001, 0.0, "1.0 ms of its deadline were left .* takes about 2.0 ms; allow more time"),
        (0.050, 0.049, "the gateway itself held it up, for 49.0 ms so far, .*; send it again"),
    ],
    ids=["too little time", "held up"],
)
async def test_an_expired_request_is_told_who_took_its_time(
    within: float, held_up: float, text: str
) -> None:
    harness = SchedulerHarness(int8=1)
    task = harness.submit("a", within=within, variants=("int8",))
    await settle()
    harness.clock.now += held_up  # nothing runs meanwhile
    await harness.clock.advance()
    error = await error_of(task)
    assert isinstance(error, DeadlineExceeded)
    assert re.search(text, str(error)), str(error)


async def test_a_full_queue_refuses_requests() -> None:
    harness = SchedulerHarness(max_queue=2)
    queued = [harness.submit(name) for name in "ab"]
    await harness.clock.advance()
    error = await error_of(harness.submit("c"))
    assert isinstance(error, Overloaded)
    assert "2 requests" in str(error)
    harness.scheduler.set_slots("dense", 1)
    await harness.clock.advance()
    harness.hosts.finish()
    await asyncio.gather(*queued)


async def test_a_full_queue_sheds_the_least_important_first() -> None:
    harness = SchedulerHarness(max_queue=2)
    ordinary, lowest = harness.submit("a"), harness.submit("b", priority=50)
    await harness.clock.advance()
    important = harness.submit("c", priority=1)
    assert isinstance(await error_of(lowest), Overloaded)
    harness.scheduler.set_slots("dense", 1)
    await harness.clock.advance()
    harness.hosts.finish()
    await asyncio.gather(ordinary, important)


@pytest.mark.parametrize("load", [0.9, 1.2, 2.0])
@pytest.mark.parametrize(
    ("within", "least"),
    [(0.006, 0.5), (0.010, 0.7), (0.030, 0.95)],
    ids=["1.4 batches", "2.4 batches", "7 batches"],
)
async def test_overload_does_not_reduce_goodput(load: float, within: float, least: float) -> None:
    """Goodput as a share of the capacity in full batches, by batches that fit into a deadline."""
    sizes = [1, 2, 4, 8, 16, 32, 64]
    cost_s = {size: 0.001 + 0.00005 * size for size in sizes}
    capacity = 64 / cost_s[64]
    clock = ManualClock()

    async def run(variant: str, inputs: Sequence[str]) -> BatchResult[Sequence[str]]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        took_s = 0.001 + 0.00005 * len(inputs)
        clock.call_later(took_s, lambda: done.set_result(None))
        await done
        return BatchResult(inputs, took_s)

    latency = LatencyModel({"only": exactly(cost_s)}, clock.time)
    planner = Planner[PendingRequest[str, str]](
        pareto, latency, {"only": 0.9}, max_batch=64, max_queue=9999
    )
    scheduler = Scheduler(planner, from_async(run), clock)
    scheduler.set_slots("only", 1)
    on_time: list[bool] = []

    async def send() -> None:
        deadline = clock.now + within
        with contextlib.suppress(Overloaded, DeadlineExceeded):
            key = LaneKey(("only",))
            await submit(scheduler, "x", key, size=1, deadline=deadline, priority=10)
            on_time.append(clock.now <= deadline + 1e-9)

    tick_s, seconds, due = 0.0005, 0.3, 0.0
    tasks = []
    for _ in range(int(seconds / tick_s)):
        due += load * capacity * tick_s
        tasks += [asyncio.create_task(send()) for _ in range(int(due))]
        due -= int(due)
        await clock.advance(tick_s)
    while not scheduler.is_idle:
        await clock.advance(tick_s)
    await asyncio.gather(*tasks)
    goodput = sum(on_time) / seconds / (min(load, 1.0) * capacity)
    assert goodput > least


async def test_a_request_without_a_deadline_waits_for_a_replica_of_its_variant() -> None:
    harness = SchedulerHarness(dense=0, int8=1)
    task = harness.submit("a", variants=("dense",))
    await harness.clock.advance(OUTAGE_S / 2)
    harness.scheduler.set_slots("dense", 1)
    await harness.clock.advance()
    harness.hosts.finish()
    assert (await task).variant == "dense"


async def test_a_request_without_a_live_replica_for_too_long_gets_not_ready() -> None:
    harness = SchedulerHarness(dense=0)
    task = harness.submit("a")
    await harness.clock.advance(OUTAGE_S + 1)
    error = await error_of(task)
    assert isinstance(error, NotReady)
    assert "dense" in str(error)


async def test_latencies_are_learned_from_answered_batches() -> None:
    harness = SchedulerHarness(dense=1)
    for _ in range(10):
        task = harness.submit("a")
        await harness.clock.advance(0.025)
        harness.hosts.finish()
        await task
    assert harness.latency.times("dense").typical_s(1) == pytest.approx(0.025, rel=0.01)


async def test_every_decision_is_timed() -> None:
    took: list[float] = []
    clock, hosts = ManualClock(), ManualHosts()
    planner, _ = new_planner(clock.time, dense=1)
    scheduler = Scheduler(planner, hosts.run, clock, on_decision=took.append)
    task = asyncio.create_task(
        submit(
            scheduler, "a", LaneKey(ANY, has_deadline=False), size=1, deadline=math.inf, priority=10
        )
    )
    await clock.advance()
    hosts.finish()
    await task
    assert took == [0.0]


async def test_the_forecast_is_updated_though_every_request_is_sent_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    updates: list[float] = []
    monkeypatch.setattr(Planner, "update_forecast", lambda planner, now: updates.append(now))
    harness = SchedulerHarness(dense=1)
    task = harness.submit("y", within=0.2)
    await harness.clock.advance(0.01)
    assert harness.hosts.batches == [("dense", ["y"])]
    assert updates, "the forecast of an overload would remain in use after the overload"
    harness.hosts.finish()
    await task
