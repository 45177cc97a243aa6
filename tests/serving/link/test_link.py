from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import orjson
import pytest
import zmq
import zmq.asyncio

from serving.dataplane.batching import Arrays
from serving.dataplane.executor import HostLost
from serving.link.connection import BatchFailed
from serving.link.wire import pack
from tests.serving.link.hosts import (
    TIMEOUT_S,
    Connect,
    GatedRunner,
    doubled,
    echo,
    in_time,
    numbers,
    running_host,
    wait_entered,
)
from tests.serving.link.test_frames import BAD
from tests.tensors import sample_array
from tests.waiting import until
from variants.catalog.datatype import NUMPY


@pytest.fixture(scope="module")
def echoing() -> Iterator[str]:
    """The address of a host that answers what it gets."""
    with running_host(echo) as host:
        yield host.address


@pytest.mark.parametrize("datatype", NUMPY)
@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (0, 5), (3, 0), ()])
async def test_tensors_make_the_round_trip(
    connect: Connect, echoing: str, datatype: str, shape: tuple[int, ...]
) -> None:
    inputs = {"a": sample_array(datatype, shape), "b": np.arange(7)}
    result = await connect(echoing).run(inputs)
    assert list(result.outputs) == ["a", "b"]
    for name, array in inputs.items():
        np.testing.assert_array_equal(result.outputs[name], array, strict=True)


async def test_a_host_tells_what_it_computed_and_how_long(connect: Connect) -> None:
    with running_host(doubled) as host:
        result = await connect(host.address).run(numbers())
    assert result.outputs["2 * x"].tolist() == [0, 2, 4, 6]
    assert 0 < result.compute_s < TIMEOUT_S


async def test_a_large_batch_arrives_whole(connect: Connect, echoing: str) -> None:
    large = np.random.default_rng(0).standard_normal((16, 3, 224, 224), np.float32)
    result = await connect(echoing).run({"x": large})
    np.testing.assert_array_equal(result.outputs["x"], large)


async def test_many_batches_at_a_time_of_several_gateways_are_not_mixed_up(
    connect: Connect,
) -> None:
    with running_host(doubled) as host:
        gateways = [connect(host.address) for _ in range(3)]
        starts = range(0, 30_000, 100)
        results = await in_time(
            asyncio.gather(*(gateways[start % 3].run(numbers(start)) for start in starts))
        )
    for start, result in zip(starts, results, strict=True):
        assert result.outputs["2 * x"].tolist() == (2 * numbers(start)["x"]).tolist()
    assert [gateway.in_flight for gateway in gateways] == [0, 0, 0]


async def test_in_flight_counts_the_batches_that_a_host_holds(connect: Connect) -> None:
    gate = GatedRunner()
    with running_host(gate) as host:
        connection = connect(host.address)
        runs = [asyncio.create_task(connection.run(numbers())) for _ in range(3)]
        await until(lambda: connection.in_flight == 3)
        gate.open.set()
        await asyncio.gather(*runs)
        assert connection.in_flight == 0


async def test_an_answer_that_nobody_waits_for_any_more_is_let_go(connect: Connect) -> None:
    gate = GatedRunner()
    with running_host(gate) as host:
        connection = connect(host.address)
        given_up = asyncio.create_task(connection.run(numbers(1)))
        await wait_entered(gate)
        given_up.cancel()
        await asyncio.wait([given_up])
        assert connection.in_flight == 0
        gate.open.set()
        result = await connection.run(numbers(2))
        assert result.outputs["x"].tolist() == [2, 3, 4, 5]


async def test_nonsense_gets_an_error_and_the_host_lives(
    connect: Connect, context: zmq.asyncio.Context
) -> None:
    peer = context.socket(zmq.DEALER)
    peer.rcvtimeo = int(TIMEOUT_S * 1e3)
    with running_host(echo) as host:
        peer.connect(host.address)
        for rule, frames in BAD.items():
            if not frames:
                continue  # a DEALER cannot send nothing
            await peer.send_multipart(frames)
            (answer,) = await peer.recv_multipart()
            header = orjson.loads(answer)
            assert header["error"].startswith("the message is malformed: "), rule
            assert header["tensors"] == []
        assert host.is_alive
        result = await connect(host.address).run(numbers())
        assert result.outputs["x"].tolist() == [0, 1, 2, 3]
    peer.close(linger=0)


def fails(inputs: Arrays) -> Arrays:
    if inputs["x"][0] == 0:
        raise RuntimeError("weights at 10.0.0.7 are gone")
    return inputs


def answers_nothing(inputs: Arrays) -> Any:
    return inputs if inputs["x"][0] else None


def answers_complex(inputs: Arrays) -> Arrays:
    return inputs if inputs["x"][0] else {"x": np.zeros(2, np.complex64)}


@pytest.mark.parametrize("run", [fails, answers_nothing, answers_complex])
async def test_a_batch_that_fails_is_told_without_its_cause_and_the_host_lives(
    connect: Connect, run: Callable[[Arrays], Arrays], caplog: pytest.LogCaptureFixture
) -> None:
    lost: list[str] = []
    with running_host(run) as host:
        connection = connect(host.address, lambda: lost.append("lost"))
        with pytest.raises(BatchFailed, match=r"^the batch failed: \w+Error$"):
            await connection.run(numbers())
        assert "a batch failed" in caplog.text
        result = await connection.run(numbers(1))
        assert result.outputs["x"].tolist() == [1, 2, 3, 4]
    assert lost == []


NONSENSE: Mapping[str, list[bytes | memoryview]] = {
    "no header": [b""],
    "a pickle": [b"\x80\x04\x95"],
    "a buffer that is missing": [b'{"id": 1, "tensors": [["x", "FP32", [2]]]}'],
    "a shape beyond any address": [
        b'{"id": 1, "compute_s": 0, "tensors": [["x", "FP32", [0, 4611686018427387904, 8]]]}',
        b"",
    ],
    "an id that is a list": pack({}, id=[1]),
    "a time that is text": pack({}, id=1, compute_s="soon"),
    "a time that is null": pack({}, id=1, compute_s=None),
}


@pytest.mark.parametrize("frames", NONSENSE.values(), ids=NONSENSE)
async def test_a_host_that_answers_nonsense_is_given_up(
    connect: Connect, context: zmq.asyncio.Context, frames: list[bytes | memoryview]
) -> None:
    lost: list[str] = []
    router = context.socket(zmq.ROUTER)
    router.rcvtimeo = int(TIMEOUT_S * 1e3)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    connection = connect(f"tcp://127.0.0.1:{port}", lambda: lost.append("lost"))
    running = asyncio.create_task(connection.run(numbers()))
    identity, *_ = await router.recv_multipart()
    await router.send_multipart([identity, *frames])
    with pytest.raises(HostLost):
        await in_time(running)
    assert (connection.is_lost, lost) == (True, ["lost"])
    router.close(linger=0)


async def test_an_answer_to_nothing_is_passed_over(
    connect: Connect, context: zmq.asyncio.Context
) -> None:
    router = context.socket(zmq.ROUTER)
    router.rcvtimeo = int(TIMEOUT_S * 1e3)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    connection = connect(f"tcp://127.0.0.1:{port}")
    running = asyncio.create_task(connection.run(numbers()))
    identity, *_ = await router.recv_multipart()
    for number, x in ((7, 7.0), (1, 1.0), (1, 2.0)):
        await router.send_multipart([identity, *pack({"x": np.array(x)}, id=number)])
    assert (await running).outputs["x"] == 1.0
    assert not connection.is_lost
    router.close(linger=0)


async def test_a_host_that_closes_finishes_its_batch_and_is_lost(connect: Connect) -> None:
    lost: list[str] = []
    gate = GatedRunner()
    with running_host(gate) as host:
        connection = connect(host.address, lambda: lost.append("lost"))
        running = asyncio.create_task(connection.run(numbers()))
        await wait_entered(gate)
        closing = asyncio.create_task(asyncio.to_thread(host.close))
        gate.open.set()
        await closing
        assert (gate.finished, host.is_alive) == (1, False)
        await until(lambda: connection.is_lost)
        await asyncio.wait([running])
        assert lost == ["lost"]


async def test_who_lets_go_of_a_host_loses_what_it_holds_and_hears_no_more(
    connect: Connect,
) -> None:
    lost: list[str] = []
    gate = GatedRunner()
    with running_host(gate) as host:
        connection = connect(host.address, lambda: lost.append("lost"))
        running = asyncio.create_task(connection.run(numbers()))
        await wait_entered(gate)
        connection.close()
        with pytest.raises(HostLost):
            await in_time(running)
        connection.close()
        with pytest.raises(HostLost):
            await connection.run(numbers())
        gate.open.set()
    assert lost == []
