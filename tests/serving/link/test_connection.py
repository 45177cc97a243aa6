from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np
import pytest

from serving.dataplane.batching import Arrays
from serving.dataplane.executor import HostLost
from serving.link.calls import BatchFailed
from serving.link.liveness import HEARTBEAT_MS
from serving.link.wire import HEARTBEAT, pack
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
from tests.serving.link.peers import answering, connected_socket, read_message
from tests.serving.link.test_wire import MALFORMED, sent
from tests.tensors import sample_array
from tests.waiting import until
from variants.catalog.datatype import NUMPY


@pytest.fixture(scope="module")
def echoing() -> Iterator[str]:
    """The address of a host that returns its inputs."""
    with running_host(echo) as host:
        yield host.address


@pytest.mark.parametrize("datatype", NUMPY)
@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (0, 5), (3, 0), ()])
async def test_tensors_are_unchanged_by_the_round_trip(
    connect: Connect, echoing: str, datatype: str, shape: tuple[int, ...]
) -> None:
    inputs = {"a": sample_array(datatype, shape), "b": np.arange(7)}
    result = await connect(echoing).run(inputs)
    assert list(result.outputs) == ["a", "b"]
    for name, array in inputs.items():
        np.testing.assert_array_equal(result.outputs[name], array, strict=True)


async def test_a_host_returns_the_outputs_and_the_compute_time(connect: Connect) -> None:
    with running_host(doubled) as host:
        result = await connect(host.address).run(numbers())
    assert result.outputs["2 * x"].tolist() == [0, 2, 4, 6]
    assert 0 < result.compute_s < TIMEOUT_S


async def test_a_large_batch_is_transferred(connect: Connect, echoing: str) -> None:
    large = np.random.default_rng(0).standard_normal((16, 3, 224, 224), np.float32)
    result = await connect(echoing).run({"x": large})
    np.testing.assert_array_equal(result.outputs["x"], large)


async def test_concurrent_batches_of_several_gateways_are_not_mixed_up(
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


async def test_in_flight_is_the_number_of_unanswered_batches(connect: Connect) -> None:
    gate = GatedRunner()
    with running_host(gate) as host:
        connection = connect(host.address)
        runs = [asyncio.create_task(connection.run(numbers())) for _ in range(3)]
        await until(lambda: connection.in_flight == 3)
        gate.open.set()
        await asyncio.gather(*runs)
        assert connection.in_flight == 0


async def test_the_answer_to_a_cancelled_batch_is_discarded(connect: Connect) -> None:
    gate = GatedRunner()
    with running_host(gate) as host:
        connection = connect(host.address)
        cancelled = asyncio.create_task(connection.run(numbers(1)))
        await wait_entered(gate)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert connection.in_flight == 0
        gate.open.set()
        result = await connection.run(numbers(2))
        assert result.outputs["x"].tolist() == [2, 3, 4, 5]


async def test_a_malformed_message_gets_an_error_and_the_host_stays_alive(
    connect: Connect,
) -> None:
    with running_host(echo) as host, connected_socket(host.address) as peer:
        for case, content in MALFORMED.items():
            peer.sendall(sent(*content))
            answer = read_message(peer)
            assert answer.number == 1, case
            assert str(answer.error).startswith("the message is malformed: "), case
            assert answer.tensors == {}
        assert host.is_alive
        result = await connect(host.address).run(numbers())
        assert result.outputs["x"].tolist() == [0, 1, 2, 3]


def fails(inputs: Arrays) -> Arrays:
    if inputs["x"][0] == 0:
        raise RuntimeError("weights at 10.0.0.7 are gone")
    return inputs


def returns_none(inputs: Arrays) -> Any:
    return inputs if inputs["x"][0] else None


def returns_complex(inputs: Arrays) -> Arrays:
    return inputs if inputs["x"][0] else {"x": np.zeros(2, np.complex64)}


@pytest.mark.parametrize("run", [fails, returns_none, returns_complex])
async def test_the_error_of_a_failed_batch_has_no_cause_and_the_host_stays_alive(
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


MALFORMED_ANSWERS: Mapping[str, bytes] = {
    "no message": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "an empty header": sent(*MALFORMED["an empty header"]),
    "a pickle": sent(b"\x80\x04\x95", b""),
    "a missing buffer": sent(*MALFORMED["a missing buffer"]),
    "a shape that exceeds the address space": sent(
        *MALFORMED["a shape that exceeds the address space"]
    ),
    "a time that is negative": sent(b'{"tensors": []}', b"", compute_s=-1.0),
}


@pytest.mark.parametrize("answer", MALFORMED_ANSWERS.values(), ids=MALFORMED_ANSWERS)
async def test_a_host_that_sends_a_malformed_answer_is_lost(
    connect: Connect, answer: bytes
) -> None:
    lost: list[str] = []
    async with answering(answer) as address:
        connection = connect(address, lambda: lost.append("lost"))
        with pytest.raises(HostLost):
            await in_time(connection.run(numbers()))
    assert (connection.is_lost, lost) == (True, ["lost"])


async def test_answers_to_unknown_or_answered_batches_are_ignored(connect: Connect) -> None:
    answers = ((7, 7.0), (1, 1.0), (1, 2.0), (2, 3.0))
    messages = (pack(number, {"x": np.array(x)}) for number, x in answers)
    async with answering(b"".join(chain.from_iterable(messages))) as address:
        connection = connect(address)
        runs = [asyncio.create_task(connection.run(numbers())) for _ in range(2)]
        assert [(await in_time(run)).outputs["x"] for run in runs] == [1.0, 3.0]
        assert not connection.is_lost


async def test_a_host_that_does_not_listen_is_lost(connect: Connect) -> None:
    with running_host(echo) as host:
        address = host.address
    lost: list[str] = []
    connection = connect(address, lambda: lost.append("lost"))
    assert (connection.is_lost, lost) == (False, [])
    with pytest.raises(HostLost):
        await in_time(connection.run(numbers()))
    assert (connection.is_lost, lost) == (True, ["lost"])


async def test_a_gateway_reads_what_has_arrived_before_it_considers_a_host_silent(
    connect: Connect, echoing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.link.liveness.SILENCE_MS", 4 * HEARTBEAT_MS)
    connection = connect(echoing)
    # As while this process is stopped, the event loop does not see that heartbeats arrive.
    asyncio.get_running_loop().remove_reader(connection._stream.fileno())
    await until(
        lambda: connection.is_lost or connection._stream.received_bytes >= 6 * len(HEARTBEAT)
    )
    assert not connection.is_lost


async def test_a_batch_that_is_not_answered_in_time_is_lost(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.link.calls.BATCH_TIMEOUT_S", 0.1)
    gate = GatedRunner()
    with running_host(gate) as host:
        with pytest.raises(HostLost):
            await in_time(connect(host.address).run(numbers()))
        gate.open.set()


async def test_a_batch_that_is_too_large_to_be_sent_fails_alone(
    connect: Connect, echoing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.link.wire.MAX_MESSAGE_BYTES", 1_000)
    connection = connect(echoing)
    with pytest.raises(ValueError, match="too large"):
        await connection.run({"x": np.zeros(1_000)})
    assert connection.in_flight == 0
    assert (await connection.run(numbers())).outputs["x"].tolist() == [0, 1, 2, 3]


async def test_a_closing_host_finishes_its_batch_and_is_then_lost(connect: Connect) -> None:
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


async def test_closing_a_connection_fails_its_batches_without_calling_on_lost(
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
