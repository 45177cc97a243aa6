"""Hosts in the process of the gateway. `test_connection` has the same rules for other processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from serving.dataplane.batching import Arrays
from serving.dataplane.executor import HostLost, Outcome
from serving.link.calls import BatchFailed
from serving.link.in_process import LocalConnection, LocalHost
from serving.link.pool import HostPool
from tests.serving.link.hosts import (
    TIMEOUT_S,
    GatedRunner,
    doubled,
    in_time,
    numbers,
    run_batch,
    wait_entered,
)
from tests.waiting import until


@contextmanager
def local_host(run: Callable[[Arrays], Arrays]) -> Iterator[LocalHost]:
    host = LocalHost(run, "here:v@1")
    try:
        yield host
    finally:
        host.close()


def connect(host: LocalHost, on_lost: Callable[[], None] = lambda: None) -> LocalConnection:
    return LocalConnection(host, on_lost)


async def test_it_returns_the_outputs_and_the_compute_time() -> None:
    with local_host(doubled) as host:
        connection = connect(host)
        pool = HostPool(lambda variant, count: None)
        pool.add("v", connection)
        result = await in_time(run_batch(pool, "v", numbers()))
        connection.close()
    assert result.outputs["2 * x"].tolist() == [0, 2, 4, 6]
    assert 0 < result.compute_s < TIMEOUT_S


async def test_batches_are_computed_one_after_the_other_while_the_event_loop_runs() -> None:
    gate = GatedRunner()
    with local_host(gate) as host:
        connections = [connect(host), connect(host)]
        batches = [asyncio.create_task(each.run(numbers(i))) for i, each in enumerate(connections)]
        await wait_entered(gate)
        assert [each.in_flight for each in connections] == [1, 1]
        assert not gate.entered.acquire(blocking=False)
        gate.open.set()
        results = await in_time(asyncio.gather(*batches))
        assert [result.outputs["x"][0] for result in results] == [0, 1]
        assert [each.in_flight for each in connections] == [0, 0]
        for each in connections:
            each.close()


async def test_a_runner_gets_arrays_that_it_may_use_like_those_of_a_message() -> None:
    received: list[Arrays] = []

    def run(inputs: Arrays) -> Arrays:
        received.append(inputs)
        return inputs

    body = b"?" + np.arange(4, dtype=np.float32).tobytes()
    view = np.frombuffer(memoryview(body)[1:], np.float32)
    assert not view.flags.aligned
    assert not view.flags.writeable
    own = np.arange(3)
    with local_host(run) as host:
        connection = connect(host)
        result = await in_time(connection.run({"view": view, "own": own, "turned": own[::-1]}))
        connection.close()
    assert result.outputs["view"].tolist() == [0, 1, 2, 3]
    assert result.outputs["turned"].tolist() == [2, 1, 0]
    for array in received[0].values():
        assert array.flags.aligned
        assert array.flags.writeable
        assert array.flags.c_contiguous
    assert received[0]["own"] is own, "what a batch has joined is not copied again"


async def test_a_batch_that_fails_does_not_end_the_host() -> None:
    def run(inputs: Arrays) -> Arrays:
        if "bad" in inputs:
            raise TypeError("details of the model")
        return inputs

    with local_host(run) as host:
        connection = connect(host)
        with pytest.raises(BatchFailed, match=r"^the batch failed: TypeError$"):
            await in_time(connection.run({"bad": np.arange(1)}))
        assert (await in_time(connection.run(numbers()))).outputs.keys() == {"x"}
        assert host.is_alive
        connection.close()


async def test_a_forgotten_batch_is_not_answered() -> None:
    gate = GatedRunner()
    outcomes: list[Outcome[Arrays]] = []
    with local_host(gate) as host:
        connection = connect(host)
        number = connection.send(numbers(), outcomes.append)
        connection.forget(number)
        gate.open.set()
        await in_time(connection.run(numbers()))
        connection.close()
    assert gate.finished == 2
    assert outcomes == []


async def test_to_close_the_connection_fails_its_batches_and_no_other() -> None:
    gate = GatedRunner()
    lost: list[str] = []
    with local_host(gate) as host:
        first, second = connect(host, lambda: lost.append("first")), connect(host)
        batches = [asyncio.create_task(each.run(numbers())) for each in (first, second)]
        await wait_entered(gate)
        first.close()
        first.close()
        with pytest.raises(HostLost):
            await in_time(batches[0])
        with pytest.raises(HostLost):
            first.send(numbers(), lambda outcome: None)
        gate.open.set()
        await in_time(batches[1])
        second.close()
    assert lost == []


async def test_a_host_that_takes_too_long_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.link.calls.BATCH_TIMEOUT_S", 0.01)
    monkeypatch.setattr("serving.link.liveness.HEARTBEAT_MS", 1)
    gate = GatedRunner()
    events: list[str] = []
    with local_host(gate) as host:
        connection = connect(host, lambda: events.append("lost"))
        connection.send(numbers(), lambda outcome: events.append(type(outcome).__name__))
        await until(lambda: len(events) == 2)
        assert connection.is_lost
        gate.open.set()
    assert events == ["lost", "HostLost"], "it leaves the pool before its batches are sent again"


async def test_the_thread_ends_after_the_batches_that_were_sent() -> None:
    gate = GatedRunner()
    host = LocalHost(gate, "here:v@1")
    connection = connect(host)
    batch = asyncio.create_task(connection.run(numbers()))
    await wait_entered(gate)
    host.close()
    assert host.is_alive
    gate.open.set()
    await in_time(batch)
    connection.close()
    await until(lambda: not host.is_alive)


def test_an_outcome_after_the_end_of_the_event_loop_is_dropped() -> None:
    gate = GatedRunner()

    async def leave_a_batch(host: LocalHost) -> None:
        connect(host).send(numbers(), lambda outcome: None)
        await wait_entered(gate)

    with local_host(gate) as host:
        asyncio.run(leave_a_batch(host))
        gate.open.set()
        asyncio.run(_answers(host))


async def _answers(host: LocalHost) -> None:
    """Return once the host has answered a batch."""
    connection = connect(host)
    await in_time(connection.run(numbers()))
    connection.close()
