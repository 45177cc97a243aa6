"""Real listeners and raw sockets, for tests of the bytes on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from serving.protocol.http.listener import HttpListener
from tests.serving.builders import InProcess
from tests.serving.protocol.calls import INFER, body

LOOPBACK = "127.0.0.1"
HANG_S = 30
"""Seconds after which a test that hangs fails."""

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]


class StaticApp:
    """An application that responds with a fixed body and reads nothing."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def __call__(self, scope: object, receive: object, send: Send) -> None:
        length = (b"content-length", str(len(self.body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": self.body})


async def read_then_respond(scope: object, receive: Receive, send: Send) -> None:
    """An application that reads the whole body and then responds."""
    while (await receive()).get("more_body"):
        pass
    await StaticApp(b"done")(scope, receive, send)


async def is_open(port: int) -> bool:
    """Return whether the port accepts a connection."""
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except ConnectionError:  # a reset, if the port closes at this moment
        return False
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return True


@asynccontextmanager
async def listening(app: Any, port: int = 0, **limits: Any) -> AsyncIterator[HttpListener]:
    """Listen for an application, or for all requests of a gateway without hosts."""
    # The time-out is long, so that a busy machine does not cut requests that a test keeps open.
    if isinstance(app, InProcess):
        app, limits = app.protocol, {"endpoint": app.endpoint, **limits}
    listener = HttpListener(app, LOOPBACK, port, close_timeout_s=HANG_S, **limits)
    await listener.start()
    try:
        async with asyncio.timeout(HANG_S):
            while not await is_open(listener.port):
                await asyncio.sleep(0.001)
        yield listener
    finally:
        await listener.close()


def http_client(port: int) -> httpx.AsyncClient:
    """Return a client that loads no certificates, which takes 50 ms of CPU time."""
    return httpx.AsyncClient(
        base_url=f"http://{LOOPBACK}:{port}", trust_env=False, verify=False, timeout=HANG_S
    )


async def get_body(port: int) -> bytes:
    """Return the body of a GET over a connection of its own."""
    async with http_client(port) as client:
        return (await client.get("/")).content


class RawClient:
    """A client that sends exactly the given bytes."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((LOOPBACK, port))
        self._socket.setblocking(False)

    def send_now(self, message: bytes) -> None:
        """Send a small message without a wait, during which the event loop would run."""
        assert self._socket.send(message) == len(message)

    async def send(self, message: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, message)

    async def read_some(self) -> bytes:
        """Return what has arrived, at least one byte; nothing if the connection is closed."""
        return await asyncio.get_running_loop().sock_recv(self._socket, 65536)

    async def read(self) -> bytes:
        """Return all bytes until the server closes the connection."""
        received = b""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(HANG_S):
            while chunk := await loop.sock_recv(self._socket, 65536):
                received += chunk
        return received

    async def read_until(self, end: bytes, times: int = 1) -> bytes:
        """Return the bytes up to the read in which `end` has occurred `times` times."""
        received = b""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(HANG_S):
            while received.count(end) < times:
                chunk = await loop.sock_recv(self._socket, 65536)
                assert chunk, f"closed after {received!r}"
                received += chunk
        return received

    def close(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        """Close with a reset, as a crashed client does."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._socket.close()

    def shut_down(self) -> None:
        """Shut down the sending side; the receiving side stays open."""
        self._socket.shutdown(socket.SHUT_WR)


async def send_until_error(client: RawClient, message: bytes) -> None:
    """Send the message again and again until sending raises."""
    async with asyncio.timeout(HANG_S):
        while True:
            await client.send(message)
            await asyncio.sleep(0.001)


async def send_in_pieces(client: RawClient, message: bytes, size: int) -> None:
    """Send the message so that the server most likely reads it in pieces of `size` bytes."""
    for start in range(0, len(message), size):
        await client.send(message[start : start + size])
        await asyncio.sleep(0.001)


def get(size: int) -> bytes:
    """Return a GET whose head counts `size` bytes; method and version are not counted."""
    return b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"x" * (size - 1 - 9 - 5) + b"\r\n\r\n"


def post(content: bytes) -> bytes:
    """Return the bytes of an inference request with this body."""
    return (
        f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n".encode()
        + content
    )


SMALL = json.dumps(body()).encode()


def error_of(response: bytes, status: int) -> str:
    """Return the message of an error response, after which the connection closes."""
    head, _, content = response.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0].startswith(f"HTTP/1.1 {status} ")
    headers = dict(line.split(": ") for line in lines[1:])
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    assert int(headers["content-length"]) == len(content)
    document = json.loads(content)
    assert list(document) == ["error"]
    return str(document["error"])
