"""Start, ports and close of a listener, and requests over a real socket."""

from __future__ import annotations

import asyncio
import signal
import socket

import pytest

from serving.dataplane.load_shedder import LoadShedder
from serving.protocol.front_door import FrontDoor
from serving.protocol.http.connection import Connection
from serving.protocol.http.listener import HttpListener
from serving.protocol.http.site import Site
from tests.serving.builders import in_process, pixels
from tests.serving.protocol.calls import INFER, Gate, assert_answers, body, chunks
from tests.serving.protocol.http.memory import MemoryTransport
from tests.serving.protocol.http.sockets import (
    HANG_S,
    LOOPBACK,
    RawClient,
    StaticApp,
    get_body,
    http_client,
    is_open,
    listening,
)
from tests.waiting import until


async def test_the_gateway_answers_over_a_real_socket() -> None:
    async with listening(in_process()) as listener, http_client(listener.port) as client:
        assert listener.is_alive
        response = await client.post(INFER, json=body(pixels(3)))
        assert_answers(response, "dense", pixels(3))
        assert response.headers.keys() == {"content-type", "content-length"}
        assert (await client.get("/v2/health/ready")).json() == {"ready": True, "live": True}


async def test_a_streamed_body_over_the_limit_is_rejected_and_the_next_request_is_answered() -> (
    None
):
    app = in_process(max_body_bytes=1_000)
    async with listening(app) as listener, http_client(listener.port) as client:
        response = await client.post(INFER, content=chunks(b" " * 600, b" " * 600))
        assert response.status_code == 413
        response = await client.post(INFER, json=body())
        assert_answers(response, "dense", pixels())


async def test_two_listeners_share_a_port() -> None:
    async with (
        listening(StaticApp(b"first")) as first,
        listening(StaticApp(b"second"), first.port) as second,
    ):
        assert first.port == second.port
        bodies: set[bytes] = set()
        # The kernel chooses a listener at random: one of the two is missed with probability 2^-63.
        for _ in range(64):
            bodies.add(await get_body(first.port))
            if len(bodies) == 2:
                break
    assert bodies == {b"first", b"second"}


async def test_when_one_of_two_listeners_closes_the_other_gets_every_connection() -> None:
    async with listening(StaticApp(b"first")) as first:
        async with listening(StaticApp(b"second"), first.port):
            pass
        assert {await get_body(first.port) for _ in range(20)} == {b"first"}


def test_a_port_that_another_program_uses_raises() -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            HttpListener(StaticApp(b"late"), LOOPBACK, port)


async def test_close_waits_for_open_requests_and_accepts_no_connections() -> None:
    gate = Gate()
    async with (
        listening(in_process(gate)) as listener,
        http_client(listener.port) as client,
    ):
        running = asyncio.create_task(client.post(INFER, json=body()))
        await gate.entered.wait()
        closing = asyncio.create_task(listener.close())
        await wait_until_closed(listener.port)
        done, _ = await asyncio.wait([running, closing], timeout=0.1)
        assert not done, "close waits for the request, which continues"
        gate.open.set()
        assert_answers(await running, "dense", pixels())
        await closing
        assert not listener.is_alive


async def wait_until_closed(port: int) -> None:
    async with asyncio.timeout(HANG_S):
        while await is_open(port):
            await asyncio.sleep(0.001)


async def test_a_connection_that_is_accepted_while_the_listener_closes_is_closed() -> None:
    site = Site(StaticApp(b"late"), None, FrontDoor(LoadShedder(), lambda: None))
    site.is_closing = True
    transport = MemoryTransport("GET")
    connection = Connection(site)
    connection.connection_made(transport)
    assert transport.is_closing()
    connection.connection_lost(None)


async def test_a_client_that_does_not_read_its_response_is_cut() -> None:
    async with listening(StaticApp(b"x" * 50_000_000), read_timeout_s=0.1) as listener:
        raw = RawClient(listener.port)
        await raw.send(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        await until(lambda: len(listener.connections) == 1)
        await until(lambda: not listener.connections)
        raw.close()


async def test_close_frees_the_port_even_before_the_start() -> None:
    listener = HttpListener(StaticApp(b"never"), LOOPBACK, 0)
    assert not listener.is_alive
    await listener.close()
    with socket.create_server((LOOPBACK, listener.port)):
        pass


async def test_a_listener_installs_no_signal_handlers() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    async with listening(StaticApp(b"done")):
        during = {number: signal.getsignal(number) for number in before}
    assert during == before
