from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from serving.errors import DeadlineExceeded, InferenceFailed, NotReady, Overloaded, ServingError
from serving.latency import LatencyModel
from serving.policy.situation import LaneKey
from serving.policy.slack import slack
from serving.scheduler import PATIENCE_S, HostLost, Ran, Scheduler, Served

CARDS = {"dense": {1: 0.010, 4: 0.016, 64: 0.100}, "int8": {1: 0.002, 4: 0.003, 64: 0.020}}
ANY = ("dense", "int8")


class ManualClock:
    """A clock that only a test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], None], /) -> Entry:
        entry = Entry(callback)
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


class Entry:
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

    async def run(self, variant: str, payloads: Sequence[Any]) -> Ran:
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
        self.latency = LatencyModel(CARDS, self.clock.time)
        self.scheduler = Scheduler(
            slack, self.latency, self.hosts.run, self.clock, max_batch=64, max_queue=max_queue
        )
        for variant, count in slots.items():
            self.scheduler.set_slots(variant, count)

    def submit(
        self,
        payload: str,
        *,
        within: float = math.inf,
        variants: tuple[str, ...] = ANY,
        priority: int = 10,
    ) -> asyncio.Task[Served]:
        key = LaneKey(variants, has_deadline=within < math.inf)
        return asyncio.create_task(
            self.scheduler.submit(
                payload, key, size=1, deadline=self.clock.now + within, priority=priority
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
    assert served.reason == "preferred"
    assert served.batch_size == 1
    assert served.queue_s == 0
    assert served.predicted_s == pytest.approx(0.010)
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


async def test_two_slots_take_two_batches() -> None:
    bench = Bench(dense=2)
    tasks = []
    for name in "ab":
        tasks.append(bench.submit(name))
        await bench.clock.advance()
    assert len(bench.hosts.held) == 2
    bench.hosts.finish()
    bench.hosts.finish()
    await asyncio.gather(*tasks)


async def test_a_request_moves_on_when_the_variant_it_waits_for_is_late() -> None:
    bench = Bench(dense=1, int8=1)
    stuck = bench.submit("stuck", variants=("dense",))
    await bench.clock.advance()
    waits = bench.submit("waits", within=0.030)
    await bench.clock.advance(0.012)
    assert bench.hosts.batches == [("dense", ["stuck"])]  # expected back any moment: worth it
    await bench.clock.advance(0.012)
    assert bench.hosts.batches[1] == ("int8", ["waits"])
    bench.hosts.finish(1)
    assert (await waits).reason == "in time"
    bench.hosts.finish()
    await stuck


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


async def test_a_failed_batch_fails_its_requests_without_the_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(dense=1)
    tasks = [bench.submit(name) for name in "ab"]
    await bench.clock.advance()
    bench.hosts.fail(RuntimeError("secret"))
    for task in tasks:
        error = await error_of(task)
        assert isinstance(error, InferenceFailed)
        assert "secret" not in str(error)
    assert "secret" in caplog.text
    after = bench.submit("c")
    await bench.clock.advance()
    bench.hosts.finish()
    await after


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


async def test_requests_that_the_queue_leaves_no_time_for_are_refused() -> None:
    bench = Bench(max_queue=1000, int8=1)
    tasks = [bench.submit("a", within=0.042, variants=("int8",)) for _ in range(200)]
    await settle()
    # A batch of 64 takes 20 ms: behind 64 others there is time for the second, and for no third.
    assert bench.scheduler.queued == 65
    error = await error_of(tasks[-1])
    assert isinstance(error, Overloaded)
    assert error.retry_after_s == pytest.approx(0.018)
    assert "later" in str(error)
    while not bench.scheduler.is_idle:
        await bench.clock.advance(0.018)
        if bench.hosts.held:
            bench.hosts.finish()
    assert sum(isinstance(task.exception(), Overloaded) for task in tasks) == 135


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

    scheduler = Scheduler(
        slack, LatencyModel({"only": cost_s}, clock.time), run, clock, max_batch=64, max_queue=9999
    )
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


async def test_latencies_are_learned_from_what_came_back() -> None:
    bench = Bench(dense=1)
    for _ in range(10):
        task = bench.submit("a")
        await bench.clock.advance(0.025)
        bench.hosts.finish()
        await task
    assert bench.latency.predict_s("dense", 1) == pytest.approx(0.025)


async def test_every_decision_is_timed() -> None:
    took: list[float] = []
    clock, hosts = ManualClock(), Hosts()
    scheduler = Scheduler(
        slack,
        LatencyModel(CARDS, clock.time),
        hosts.run,
        clock,
        max_batch=64,
        max_queue=10,
        on_decision=took.append,
    )
    scheduler.set_slots("dense", 1)
    task = asyncio.create_task(
        scheduler.submit(
            "a", LaneKey(ANY, has_deadline=False), size=1, deadline=math.inf, priority=10
        )
    )
    await clock.advance()
    hosts.finish()
    await task
    assert took == [0.0]
