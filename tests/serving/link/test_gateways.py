"""What one gateway cannot do to a host and to the other gateways."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from functools import partial

import numpy as np
import psutil
import pytest

from serving.dataplane.batching import Arrays
from serving.link.connection import HostConnection
from serving.link.endpoint import accept
from serving.link.gateways import Gateways
from serving.link.host import HostSocket
from serving.link.wire import HEARTBEAT, PREFIX, pack
from tests.serving.link.hosts import (
    TIMEOUT_S,
    Connect,
    GatedRunner,
    echo,
    in_time,
    numbers,
    running_host,
    wait_entered,
)
from tests.serving.link.peers import connected_socket, read_message
from tests.waiting import until

LARGE = {"x": np.zeros(8_000_000, np.uint8)}
"""A batch of which the kernel does not accept the answer at once."""


async def test_a_gateway_that_does_not_read_its_answers_does_not_delay_others(
    connect: Connect,
) -> None:
    with running_host(echo) as host, connected_socket(host.address) as silent:
        silent.sendall(b"".join(pack(1, LARGE)))
        connection = connect(host.address)
        await until(lambda: bool(host._gateways._unsent))
        for number in range(3):
            result = await in_time(connection.run(numbers(number)))
            assert result.outputs["x"].tolist() == numbers(number)["x"].tolist()
        assert host._gateways._unsent, "the answer was small"
        assert read_message(silent).tensors["x"].nbytes == LARGE["x"].nbytes


@pytest.mark.parametrize("first", ["compute", "link"])
async def test_a_gateway_that_leaves_without_reading_its_answer_is_forgotten(
    connect: Connect, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`first` is the thread of the host that notices it first."""
    if first == "compute":
        monkeypatch.setattr(Gateways, "_send_rest", lambda self, stream: time.sleep(0.01))
    with running_host(echo) as host:
        connection = connect(host.address)
        await in_time(connection.run(numbers()))
        before = psutil.Process().num_fds()
        with connected_socket(host.address) as leaving:
            leaving.sendall(b"".join(pack(1, LARGE)))
            await until(lambda: bool(host._gateways._unsent))
        await until(lambda: not host._gateways._unsent)
        await until(lambda: psutil.Process().num_fds() == before)
        await in_time(connection.run(numbers()))


async def test_a_peer_that_is_no_gateway_is_disconnected(connect: Connect) -> None:
    with running_host(echo) as host:
        with connected_socket(host.address) as peer:
            peer.sendall(b"GET / HTTP/1.1\r\nHost: 10.0.0.7\r\n\r\n"[: PREFIX.size])
            while received := peer.recv(len(HEARTBEAT), socket.MSG_WAITALL):
                assert received == HEARTBEAT
        await in_time(connect(host.address).run(numbers()))


async def test_half_a_message_does_not_delay_others(connect: Connect) -> None:
    with running_host(echo) as host, connected_socket(host.address) as peer:
        message = b"".join(pack(1, LARGE))
        peer.sendall(message[:1_000_000])
        await in_time(connect(host.address).run(numbers()))
        peer.sendall(message[1_000_000:])
        assert read_message(peer).tensors["x"].nbytes == LARGE["x"].nbytes


async def test_a_host_sends_heartbeats_while_it_computes_even_to_new_gateways(
    connect: Connect,
) -> None:
    gate = GatedRunner()
    with running_host(gate) as host:
        busy = connect(host.address)
        running = asyncio.create_task(busy.run(numbers()))
        await wait_entered(gate)
        new = connect(host.address)
        for connection in (busy, new):
            await until(partial(has_heard_twice, connection))
        gate.open.set()
        await running


def has_heard_twice(connection: HostConnection) -> bool:
    return connection._stream.received_bytes >= 2 * len(HEARTBEAT)


async def test_gateways_take_turns(connect: Connect) -> None:
    order: list[int] = []
    gate = GatedRunner()

    def run(inputs: Arrays) -> Arrays:
        order.append(int(inputs["x"][0]))
        return gate(inputs)

    with running_host(run) as host:
        eager, modest = connect(host.address), connect(host.address)
        runs = [asyncio.create_task(eager.run(numbers(0)))]
        await wait_entered(gate)
        runs += [asyncio.create_task(eager.run(numbers(0))) for _ in range(5)]
        runs.append(asyncio.create_task(modest.run(numbers(1))))
        await until(lambda: modest.in_flight == 1)
        gate.open.set()
        await in_time(asyncio.gather(*runs))
    assert order.index(1) <= 2


def test_a_host_that_cannot_accept_for_a_while_accepts_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [OSError(errno.EMFILE, os.strerror(errno.EMFILE))] * 2

    def accept_later(listener: socket.socket) -> socket.socket:
        if failures:
            raise failures.pop()
        return accept(listener)

    monkeypatch.setattr("serving.link.gateways.accept", accept_later)
    with running_host(echo) as host, connected_socket(host.address) as peer:
        peer.sendall(b"".join(pack(1, numbers())))
        assert read_message(peer).tensors["x"].tolist() == [0, 1, 2, 3]
    assert "a connection cannot be accepted" in caplog.text


async def test_a_closing_host_sends_the_rest_of_its_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.link.gateways.LINGER_S", TIMEOUT_S)
    host = HostSocket(echo)
    with connected_socket(host.address) as peer:
        peer.sendall(b"".join(pack(1, LARGE)))
        await until(lambda: bool(host._gateways._unsent))
        closing = asyncio.create_task(asyncio.to_thread(host.close))
        await until(lambda: host._gateways._closes_at is not None)
        message = await asyncio.to_thread(read_message, peer)
        assert message.tensors["x"].nbytes == LARGE["x"].nbytes
        await closing
    assert not host.is_alive
