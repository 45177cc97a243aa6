from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from serving.dataplane.executor import HostLost, Ran
from serving.dataplane.request import Served, Stage
from serving.dataplane.scheduler import Scheduler
from serving.errors import DeadlineExceeded, InferenceFailed, NotReady, Overloaded, ServingError
from serving.routing.latency import LatencyModel
from serving.routing.planner import MAX_ATTEMPTS, PATIENCE_S, Planner
from serving.routing.policy.pareto import pareto
from serving.routing.policy.state import LaneKey
from serving.telemetry.metrics import Metrics
from tests.serving.builders import exactly
from tests.serving.routing.planner_harness import ANY, new_planner


class ManualClock:
    """A clock that only a test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None], /) -> PendingRequest:
        entry = PendingRequest(callback)
        heapq.heappush(self._calls, (self.now + delay, next(self._numbers), entry.call))
        return entry

    async def advance(self, seconds: float = 0.0) -> None:
        until = self.now + seconds
        await settle()
        while self._calls and self._calls[0][0] <= until:
            at, _, call = heapq.heappop(self._calls)
            self.now = max(self.now, at)
            call()
            await settle()
        self.now = until


class PendingRequest:
    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self._callback = None

    def call(self) -> None:
        if self._callback is not None:
            self._callback()


async def settle() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


class Hosts:
    """Hosts that hold every batch until a test says what becomes of it."""

    def __init__(self) -> None:
        self.held: list[tuple[str, Sequence[Any], asyncio.Future[Ran]]] = []
        self.seen: list[Any] = []

    async def run(self, variant: str, payloads: Sequence[Any]) -> Ran:
        self.seen += payloads
        answer: asyncio.Future[Ran] = asyncio.get_running_loop().create_future()
        self.held.append((variant, payloads, answer))
        return await answer

    @property
    def batches(self) -> list[tuple[str, list[Any]]]:
        return [(variant, list(payloads)) for variant, payloads, _ in self.held]

    def finish(self, place: int = 0) -> None:
        _, payloads, answer = self.held.pop(place)
        answer.set_result(Ran([f"answer to {payload}" for payload in payloads], 0.001))

    def fail(self, error: Exception, place: int = 0) -> None:
        self.held.pop(place)[2].set_exception(error)


class Bench:
    """A scheduler with everything around it."""

    def __init__(self, max_queue: int = 100, **slots: int) -> None:
        self.clock = ManualClock()
        self.hosts = Hosts()
        planner, self.latency = new_planner(self.clock.time, max_queue=max_queue, **slots)
        self.left: list[tuple[Stage, int]] = []
        self.decisions: list[float] = []
        self.scheduler = Scheduler(
            planner,
            self.hosts.run,
            self.clock,
            on_decision=self.decisions.append,
            on_cancelled=lambda stage, samples: self.left.append((stage, samples)),
        )

    def submit(
        self,
        payload: str,
        *,
        within: float = math.inf,
        variants: tuple[str, ...] = ANY,
        priority: int = 10,
        size: int = 1,
    ) -> asyncio.Task[Served]:
        key = LaneKey(variants, has_deadline=within < math.inf)
        return asyncio.create_task(
            self.scheduler.submit(
                payload, key, size=size, deadline=self.clock.now + within, priority=priority
            )
        )


async def error_of(task: asyncio.Task[Served]) -> ServingError:
    with pytest.raises(ServingError) as caught:
        await task
    return caught.value


async def test_a_request_is_answered_and_told_how() -> None:
    bench = Bench(dense=1, int8=1)
    task = bench.submit("a", within=0.050)
    await bench.clock.advance(0.004)
    bench.hosts.finish()
    served = await task
    assert served.variant == "dense"
    assert served.answer == "answer to a"
    assert served.reason == "max_acc"
    assert served.batch_size == 1
    assert served.queue_s == 0
    assert served.predicted_s == pytest.approx(0.010, rel=0.01)
    assert served.compute_s == 0.001
    assert bench.scheduler.is_idle


async def test_what_arrives_together_travels_together() -> None:
    bench = Bench(dense=1)
    tasks = [bench.submit(name) for name in "abc"]
    await bench.clock.advance()
    assert bench.hosts.batches == [("dense", ["a", "b", "c"])]
    bench.hosts.finish()
    assert [(await task).answer for task in tasks] == [f"answer to {name}" for name in "abc"]


async def test_a_full_host_gets_no_more_until_a_slot_is_free() -> None:
    bench = Bench(dense=1)
    first = bench.submit("a")
    await bench.clock.advance()
    rest = [bench.submit(name) for name in "bcd"]
    await bench.clock.advance()
    assert bench.hosts.batches == [("dense", ["a"])]
    assert bench.scheduler.queued == 3
    bench.hosts.finish()
    await bench.clock.advance()
    assert bench.hosts.batches == [("dense", ["b", "c", "d"])]
    bench.hosts.finish()
    await asyncio.gather(first, *rest)


async def test_a_request_whose_time_ran_out_in_the_queue_is_told_so() -> None:
    bench = Bench(int8=1)
    running = bench.submit("running", variants=("int8",))
    await bench.clock.advance()
    waits = bench.submit("waits", within=0.010, variants=("int8",))
    await bench.clock.advance(0.011)
    error = await error_of(waits)
    assert isinstance(error, DeadlineExceeded)
    assert "in the queue" in str(error)
    assert bench.scheduler.queued == 0
    bench.hosts.finish()
    await running


async def test_a_lost_batch_is_sent_once_more_elsewhere() -> None:
    bench = Bench(dense=1, int8=1)
    task = bench.submit("a", within=0.050)
    await bench.clock.advance()
    bench.scheduler.set_slots("dense", 0)
    bench.hosts.fail(HostLost("dense"))
    await bench.clock.advance()
    assert bench.hosts.batches == [("int8", ["a"])]
    bench.hosts.finish()
    assert (await task).variant == "int8"


async def test_a_batch_that_is_lost_twice_is_our_fault() -> None:
    bench = Bench(dense=2)
    task = bench.submit("a")
    for _ in range(2):
        await bench.clock.advance()
        bench.hosts.fail(HostLost("dense"))
    assert isinstance(await error_of(task), InferenceFailed)
    assert bench.scheduler.is_idle


async def test_a_request_that_fails_is_told_nothing_of_the_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(dense=1)
    task = bench.submit("a")
    await bench.clock.advance()
    bench.hosts.fail(RuntimeError("secret"))
    error = await error_of(task)
    assert isinstance(error, InferenceFailed)
    assert "secret" not in str(error)
    assert "secret" in caplog.text
    after = bench.submit("b")
    await bench.clock.advance()
    bench.hosts.finish()
    assert (await after).answer == "answer to b"


async def test_a_batch_that_fails_is_run_request_by_request_and_only_the_culprit_fails() -> None:
    bench = Bench(dense=1)
    tasks = {name: bench.submit(name, size=2) for name in "abc"}
    await bench.clock.advance()
    assert bench.hosts.batches == [("dense", ["a", "b", "c"])]
    bench.hosts.fail(RuntimeError("one of them"))
    await bench.clock.advance(0.003)
    for name in "abc":
        assert bench.hosts.batches == [("dense", [name])]
        if name == "b":
            bench.hosts.fail(RuntimeError("this one"))
        else:
            bench.hosts.finish()
        await bench.clock.advance(0.004)
    assert isinstance(await error_of(tasks["b"]), InferenceFailed)
    for name in "ac":
        served = await tasks[name]
        assert (served.answer, served.batch_size) == (f"answer to {name}", 2)
        assert served.compute_s > 0
    assert (await tasks["a"]).queue_s == pytest.approx(0.0, abs=1e-6)
    assert (await tasks["c"]).queue_s == pytest.approx(0.007, abs=1e-6)
    assert bench.scheduler.is_idle


async def test_a_host_that_is_lost_in_between_costs_only_what_it_had_not_answered() -> None:
    bench = Bench(dense=1, int8=1)
    tasks = {name: bench.submit(name) for name in "abc"}
    await bench.clock.advance()
    bench.hosts.fail(RuntimeError("one of them"))
    await bench.clock.advance()
    bench.hosts.finish()
    bench.scheduler.set_slots("dense", 0)
    for _ in "bc":
        await bench.clock.advance()
        bench.hosts.fail(HostLost("dense"))
    await bench.clock.advance()
    assert bench.hosts.batches == [("int8", ["b", "c"])]
    bench.hosts.finish()
    assert (await tasks["a"]).variant == "dense"
    assert {(await tasks[name]).variant for name in "bc"} == {"int8"}
    assert bench.hosts.seen == ["a", "b", "c", "a", "b", "c", "b", "c"]


async def test_a_caller_that_leaves_in_between_is_not_computed_for() -> None:
    bench = Bench(dense=1)
    tasks = {name: bench.submit(name) for name in "abc"}
    await bench.clock.advance()
    bench.hosts.fail(RuntimeError("one of them"))
    await bench.clock.advance()
    tasks["b"].cancel()
    await bench.clock.advance()
    bench.hosts.finish()
    await bench.clock.advance()
    assert bench.hosts.batches == [("dense", ["c"])]
    bench.hosts.finish()
    assert (await tasks["c"]).answer == "answer to c"


async def test_a_full_queue_refuses() -> None:
    bench = Bench(max_queue=2)
    queued = [bench.submit(name) for name in "ab"]
    await bench.clock.advance()
    error = await error_of(bench.submit("c"))
    assert isinstance(error, Overloaded)
    assert "2 requests" in str(error)
    bench.scheduler.set_slots("dense", 1)
    await bench.clock.advance()
    bench.hosts.finish()
    await asyncio.gather(*queued)


async def test_a_full_queue_sheds_the_least_important_first() -> None:
    bench = Bench(max_queue=2)
    ordinary, lowest = bench.submit("a"), bench.submit("b", priority=50)
    await bench.clock.advance()
    important = bench.submit("c", priority=1)
    assert isinstance(await error_of(lowest), Overloaded)
    bench.scheduler.set_slots("dense", 1)
    await bench.clock.advance()
    bench.hosts.finish()
    await asyncio.gather(ordinary, important)


@pytest.mark.parametrize("load", [0.9, 1.2, 2.0])
@pytest.mark.parametrize(
    ("within", "least"),
    [(0.006, 0.5), (0.010, 0.7), (0.030, 0.95)],
    ids=["1.4 batches", "2.4 batches", "7 batches"],
)
async def test_overload_does_not_eat_the_capacity(load: float, within: float, least: float) -> None:
    """Goodput as a share of what full batches could carry, by how many fit into the deadline."""
    sizes = [1, 2, 4, 8, 16, 32, 64]
    cost_s = {size: 0.001 + 0.00005 * size for size in sizes}
    capacity = 64 / cost_s[64]
    clock = ManualClock()

    async def run(variant: str, payloads: Sequence[Any]) -> Ran:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        clock.call_later(0.001 + 0.00005 * len(payloads), lambda: done.set_result(None))
        await done
        return Ran(payloads, 0.0)

    latency = LatencyModel({"only": exactly(cost_s)}, clock.time)
    planner = Planner(pareto, latency, {"only": 0.9}, max_batch=64, max_queue=9999)
    scheduler = Scheduler(planner, run, clock)
    scheduler.set_slots("only", 1)
    on_time: list[bool] = []

    async def ask() -> None:
        deadline = clock.now + within
        with contextlib.suppress(Overloaded, DeadlineExceeded):
            key = LaneKey(("only",))
            await scheduler.submit("x", key, size=1, deadline=deadline, priority=10)
            on_time.append(clock.now <= deadline + 1e-9)

    tick_s, seconds, due = 0.0005, 0.3, 0.0
    tasks = []
    for _ in range(int(seconds / tick_s)):
        due += load * capacity * tick_s
        tasks += [asyncio.create_task(ask()) for _ in range(int(due))]
        due -= int(due)
        await clock.advance(tick_s)
    while not scheduler.is_idle:
        await clock.advance(tick_s)
    await asyncio.gather(*tasks)
    goodput = sum(on_time) / seconds / (min(load, 1.0) * capacity)
    assert goodput > least


async def test_a_request_for_a_variant_that_is_gone_waits_for_it_to_come_back() -> None:
    bench = Bench(dense=0, int8=1)
    task = bench.submit("a", variants=("dense",))
    await bench.clock.advance(PATIENCE_S / 2)
    bench.scheduler.set_slots("dense", 1)
    await bench.clock.advance()
    bench.hosts.finish()
    assert (await task).variant == "dense"


async def test_a_request_for_a_variant_that_stays_away_is_given_up() -> None:
    bench = Bench(dense=0)
    task = bench.submit("a")
    await bench.clock.advance(PATIENCE_S + 1)
    error = await error_of(task)
    assert isinstance(error, NotReady)
    assert "dense" in str(error)


async def test_a_caller_that_went_away_takes_nobody_with_it() -> None:
    bench = Bench(dense=1)
    gone, stays = bench.submit("gone"), bench.submit("stays")
    await bench.clock.advance()
    gone.cancel()
    await settle()
    bench.hosts.finish()
    assert (await stays).answer == "answer to stays"
    assert gone.cancelled()
    assert bench.left == [("running", 1)]
    assert bench.scheduler.is_idle


async def test_a_request_whose_caller_leaves_the_queue_is_never_computed() -> None:
    bench = Bench(dense=1)
    running = bench.submit("running")
    await bench.clock.advance()
    gone, stays = bench.submit("gone", size=3), bench.submit("stays")
    await bench.clock.advance()
    gone.cancel()
    await settle()
    assert bench.scheduler.queued == 1
    assert bench.left == [("queued", 3)]
    bench.hosts.finish()
    await bench.clock.advance()
    bench.hosts.finish()
    await asyncio.gather(running, stays)
    assert bench.hosts.seen == ["running", "stays"]
    assert bench.scheduler.is_idle


async def test_when_a_caller_leaves_the_policy_looks_again() -> None:
    bench = Bench(dense=1, int8=0)
    held = bench.submit("held")
    await bench.clock.advance()
    gone = bench.submit("gone", variants=("int8",))
    await bench.clock.advance()
    stays = bench.submit("stays")
    await bench.clock.advance()
    bench.decisions.clear()
    gone.cancel()
    await bench.clock.advance()
    assert len(bench.decisions) == 1
    for _ in "held", "stays":
        bench.hosts.finish()
        await bench.clock.advance()
    await asyncio.gather(held, stays)


async def test_a_caller_that_leaves_just_when_its_turn_comes_is_not_sent() -> None:
    bench = Bench(dense=1)
    running = bench.submit("running")
    await bench.clock.advance()
    gone, stays = bench.submit("gone", size=5), bench.submit("stays", size=2)
    await bench.clock.advance()
    bench.hosts.finish()  # the slot is filled before the task of the caller hears that it ended
    gone.cancel()
    await settle()
    assert bench.hosts.batches == [("dense", ["stays"])]
    bench.hosts.finish()
    assert (await stays).batch_size == 2
    await running
    assert bench.left == [("queued", 5)]


async def test_a_turn_whose_every_caller_leaves_sends_nothing() -> None:
    bench = Bench(dense=1)
    running = bench.submit("running")
    await bench.clock.advance()
    gone = bench.submit("gone")
    await bench.clock.advance()
    bench.hosts.finish()
    gone.cancel()
    await running
    await bench.clock.advance()
    assert bench.hosts.seen == ["running"]
    assert bench.scheduler.is_idle


async def test_a_lost_batch_is_sent_again_without_those_who_left() -> None:
    bench = Bench(dense=1, int8=1)
    gone, stays = bench.submit("gone"), bench.submit("stays")
    await bench.clock.advance()
    gone.cancel()
    bench.hosts.fail(HostLost("dense"))
    await bench.clock.advance()
    assert bench.hosts.batches == [("dense", ["stays"])]
    bench.hosts.finish()
    assert (await stays).answer == "answer to stays"
    assert bench.left == [("running", 1)]


async def test_who_left_does_not_wait_for_a_second_host() -> None:
    bench = Bench(dense=1)
    gone = bench.submit("gone")
    await bench.clock.advance()
    gone.cancel()
    bench.scheduler.set_slots("dense", 0)
    bench.hosts.fail(HostLost("dense"))
    await settle()
    assert bench.scheduler.is_idle
    assert bench.left == [("running", 1)]


async def test_a_request_that_waits_for_its_second_host_can_leave() -> None:
    bench = Bench(dense=1)
    task = bench.submit("a", size=4)
    await bench.clock.advance()
    bench.scheduler.set_slots("dense", 0)
    bench.hosts.fail(HostLost("dense"))
    await bench.clock.advance()
    task.cancel()
    await settle()
    assert bench.scheduler.is_idle
    assert bench.left == [("queued", 4)]


async def test_a_caller_that_leaves_just_when_it_is_shed_is_saved_and_no_error() -> None:
    bench = Bench(max_queue=1)
    low = bench.submit("low", priority=50)
    await bench.clock.advance()
    important = bench.submit("important", priority=1)
    asyncio.get_running_loop().call_soon(low.cancel)  # after the other has taken its place
    await settle()
    assert low.cancelled()
    assert bench.left == [("queued", 1)]
    assert bench.scheduler.queued == 1
    important.cancel()
    await settle()
    assert bench.scheduler.is_idle


async def test_what_leaves_is_counted() -> None:
    registry, clock, hosts = CollectorRegistry(), ManualClock(), Hosts()
    metrics = Metrics(registry, "shirts")
    planner, _ = new_planner(clock.time, dense=1)
    scheduler = Scheduler(planner, hosts.run, clock, on_cancelled=metrics.cancelled)
    for size in (4, 7):
        task = asyncio.create_task(
            scheduler.submit(
                size, LaneKey(("dense",)), size=size, deadline=clock.now + 9, priority=10
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


class Bustle:
    """Callers that come and leave, hosts that answer and die; what must hold is checked here."""

    def __init__(self) -> None:
        self.bench = Bench(max_queue=6, dense=1, int8=1)
        self.tasks: dict[str, asyncio.Task[Served]] = {}
        self.cancelled: set[str] = set()
        self.gone_for_good: set[str] = set()
        self.seen = 0

    def submit(self, number: int) -> None:
        name = f"request {len(self.tasks)}"
        self.tasks[name] = self.bench.submit(
            name,
            within=(math.inf, 0.020, 0.060)[number % 3],
            variants=(ANY, ("dense",), ("int8",))[number // 3 % 3],
            priority=1 + number % 20,
            size=1 + number % 5,
        )

    def cancel(self, number: int) -> None:
        open_ = [name for name, task in self.tasks.items() if not task.done()]
        if open_:
            name = open_[number % len(open_)]
            held = {payload for _, payloads in self.bench.hosts.batches for payload in payloads}
            self.tasks[name].cancel()
            self.cancelled.add(name)
            if name not in held:
                self.gone_for_good.add(name)

    def finish(self, number: int) -> None:
        if self.bench.hosts.held:
            self.bench.hosts.finish(number % len(self.bench.hosts.held))

    def lose(self, number: int) -> None:
        if self.bench.hosts.held:
            place = number % len(self.bench.hosts.held)
            self.bench.hosts.fail(HostLost("gone"), place)

    def fail(self, number: int) -> None:
        if self.bench.hosts.held:
            place = number % len(self.bench.hosts.held)
            self.bench.hosts.fail(RuntimeError("at fault"), place)

    def set_slots(self, number: int) -> None:
        self.bench.scheduler.set_slots(ANY[number % 2], number // 2 % 3)

    async def advance(self, number: int = 0) -> None:
        before = set(self.gone_for_good)
        await self.bench.clock.advance(number % 8 * 0.004)
        seen = self.bench.hosts.seen
        assert not before.intersection(seen[self.seen :]), "sent though its caller had left"
        self.seen = len(seen)

    async def end(self) -> None:
        for name in ANY:
            self.bench.scheduler.set_slots(name, 1)
        await self.advance()
        while not self.bench.scheduler.is_idle:
            self.finish(0)
            await self.advance(1)
        seen = self.bench.hosts.seen
        for name, task in self.tasks.items():
            assert task.done()
            assert task.cancelled() == (name in self.cancelled)
            assert seen.count(name) <= 2 * MAX_ATTEMPTS, "together and alone, twice"
            if name not in self.cancelled and task.exception() is None:
                assert task.result().answer == f"answer to {name}"
                assert name in seen
            if not task.cancelled():
                assert isinstance(task.exception(), ServingError | None)
        assert self.bench.scheduler.queued == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["submit", "submit", "cancel", "finish", "lose", "fail", "set_slots"]),
            st.integers(0, 999),
            st.booleans(),
        ),
        max_size=40,
    )
)
async def test_whoever_comes_and_leaves_nobody_is_lost_or_answered_twice(
    steps: list[tuple[str, int, bool]],
) -> None:
    complaints: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: complaints.append(context))
    bustle = Bustle()
    for what, number, then_turn in steps:
        getattr(bustle, what)(number)
        if then_turn:
            await bustle.advance(number)
    await bustle.end()
    assert complaints == []


async def test_latencies_are_learned_from_what_came_back() -> None:
    bench = Bench(dense=1)
    for _ in range(10):
        task = bench.submit("a")
        await bench.clock.advance(0.025)
        bench.hosts.finish()
        await task
    assert bench.latency.times("dense").typical_s(1) == pytest.approx(0.025, rel=0.01)


async def test_every_decision_is_timed() -> None:
    took: list[float] = []
    clock, hosts = ManualClock(), Hosts()
    planner, _ = new_planner(clock.time, dense=1)
    scheduler = Scheduler(planner, hosts.run, clock, on_decision=took.append)
    task = asyncio.create_task(
        scheduler.submit(
            "a", LaneKey(ANY, has_deadline=False), size=1, deadline=math.inf, priority=10
        )
    )
    await clock.advance()
    hosts.finish()
    await task
    assert took == [0.0]


async def test_arrivals_are_learned_from_though_every_request_is_sent_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked: list[float] = []
    monkeypatch.setattr(Planner, "look_back", lambda planner, now: looked.append(now))
    bench = Bench(dense=1)
    lone = bench.submit("y", within=0.2)
    await bench.clock.advance(0.01)
    assert bench.hosts.batches == [("dense", ["y"])]
    assert looked, "or a forecast made in an overload would last through the lull after it"
    bench.hosts.finish()
    await lone
