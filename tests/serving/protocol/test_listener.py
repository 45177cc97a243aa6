from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from serving.protocol.listener import HttpListener
from tests.serving.builders import in_process, pixels
from tests.serving.protocol.calls import INFER, Gate, assert_answers, body, chunks

LOOPBACK = "127.0.0.1"
ENOUGH_S = 30
"""Nothing here takes so long, unless it hangs."""

Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class Named:
    """The least application: it answers with its name."""

    def __init__(self, name: bytes) -> None:
        self.name = name

    async def __call__(self, scope: object, receive: object, send: Send) -> None:
        length = (b"content-length", str(len(self.name)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": self.name})


async def is_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except ConnectionRefusedError:
        return False
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return True


@asynccontextmanager
async def listening(app: object, port: int = 0) -> AsyncIterator[HttpListener]:
    # However busy the machine is, a request that a test holds open is not cut off.
    listener = HttpListener(app, LOOPBACK, port, last_connections_s=ENOUGH_S)
    await listener.start()
    try:
        async with asyncio.timeout(ENOUGH_S):
            while not await is_open(listener.port):
                await asyncio.sleep(0.001)
        yield listener
    finally:
        await listener.close()


def client(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", trust_env=False, verify=False)


async def ask(port: int) -> bytes:
    async with client(port) as own:
        return (await own.get("/")).content


async def test_the_gateway_answers_over_a_real_socket() -> None:
    async with listening(in_process().protocol) as listener, client(listener.port) as own:
        assert listener.is_alive
        response = await own.post(INFER, json=body(pixels(3)))
        assert_answers(response, "dense", pixels(3))
        assert response.headers.keys() == {"content-type", "content-length"}, "no more is told"
        assert (await own.get("/v2/health/ready")).json() == {"ready": True, "live": True}


async def test_a_body_that_streams_past_the_limit_is_refused_and_the_next_is_taken() -> None:
    app = in_process(max_body_bytes=1_000).protocol
    async with listening(app) as listener, client(listener.port) as own:
        response = await own.post(INFER, content=chunks(b" " * 600, b" " * 600))
        assert response.status_code == 413
        response = await own.post(INFER, json=body())
        assert_answers(response, "dense", pixels())


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"\x00\xff nonsense\r\n\r\n", id="no HTTP at all"),
        pytest.param(b"GET /v2 HTTP/1.1\r\nbroken\r\n\r\n", id="a header without a colon"),
        pytest.param(
            b"POST /v2/models/shirts/infer HTTP/1.1\r\ncontent-length: ten\r\n\r\n",
            id="a content length that is no number",
        ),
        pytest.param(
            b"POST /v2/models/shirts/infer HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
            id="a negative content length",
        ),
        pytest.param(
            b"POST /v2/models/shirts/infer HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            id="a chunk whose size is no number",
        ),
        pytest.param(
            b"GET /v2/%ff%fe HTTP/1.1\r\nconnection: close\r\n\r\n", id="a path that is no UTF-8"
        ),
        pytest.param(
            b"POST /v2/models/shirts/infer HTTP/1.1\r\ncontent-length: 50\r\n\r\n{",
            id="a caller that leaves in the middle of its body",
        ),
    ],
)
async def test_nonsense_on_the_wire_leaves_the_gateway_alive(message: bytes) -> None:
    async with listening(in_process().protocol) as listener:
        reader, writer = await asyncio.open_connection(LOOPBACK, listener.port)
        writer.write(message)
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), ENOUGH_S)
        writer.close()
        assert b"Traceback" not in answer
        assert not answer or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404"))
        async with client(listener.port) as own:
            assert_answers(await own.post(INFER, json=body()), "dense", pixels())


async def test_two_listeners_share_a_port() -> None:
    async with (
        listening(Named(b"first")) as first,
        listening(Named(b"second"), first.port) as second,
    ):
        assert first.port == second.port
        # The kernel deals connections out at random: 64 to one of two is a chance of 2^-63.
        seen = {await ask(first.port) for _ in range(64)}
    assert seen == {b"first", b"second"}


async def test_when_one_of_two_closes_the_other_gets_every_connection() -> None:
    async with listening(Named(b"first")) as first:
        async with listening(Named(b"second"), first.port):
            pass
        assert {await ask(first.port) for _ in range(20)} == {b"first"}


def test_a_port_that_somebody_else_has_is_an_error() -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            HttpListener(Named(b"late"), LOOPBACK, port)


async def test_close_lets_an_open_request_finish_and_takes_no_other() -> None:
    gate = Gate()
    async with listening(in_process(gate).protocol) as listener, client(listener.port) as own:
        running = asyncio.create_task(own.post(INFER, json=body()))
        await gate.entered.wait()
        closing = asyncio.create_task(listener.close())
        async with asyncio.timeout(ENOUGH_S):
            while await is_open(listener.port):
                await asyncio.sleep(0.001)
        done, _ = await asyncio.wait([running, closing], timeout=0.3)
        assert not done, "it waits for the request, and the request goes on"
        gate.open.set()
        assert_answers(await running, "dense", pixels())
        await closing
        assert not listener.is_alive


async def test_close_frees_the_port_even_before_the_start() -> None:
    listener = HttpListener(Named(b"never"), LOOPBACK, 0)
    assert not listener.is_alive
    await listener.close()
    with socket.create_server((LOOPBACK, listener.port)):
        pass


async def test_signals_are_left_to_the_process() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    async with listening(Named(b"quiet")):
        during = {number: signal.getsignal(number) for number in before}
    assert during == before
