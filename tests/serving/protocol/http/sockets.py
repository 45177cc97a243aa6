"""Real listeners and real sockets, for the tests of what happens on the wire."""

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
from tests.serving.protocol.calls import INFER, body

LOOPBACK = "127.0.0.1"
HANG_S = 30
"""Nothing here takes so long, unless it hangs."""

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]


class Named:
    """The least application: it answers with its name."""

    def __init__(self, name: bytes) -> None:
        self.name = name

    async def __call__(self, scope: object, receive: object, send: Send) -> None:
        length = (b"content-length", str(len(self.name)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": self.name})


async def whole_bodies_only(scope: object, receive: Receive, send: Send) -> None:
    """An application that reads what it is sent before it answers."""
    while (await receive()).get("more_body"):
        pass
    await Named(b"taken")(scope, receive, send)


async def is_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
    except ConnectionError:  # a reset, where it closes just now
        return False
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return True


@asynccontextmanager
async def listening(app: object, port: int = 0, **limits: Any) -> AsyncIterator[HttpListener]:
    # However busy the machine is, a request that a test holds open is not cut off.
    listener = HttpListener(app, LOOPBACK, port, close_timeout_s=HANG_S, **limits)
    await listener.start()
    try:
        async with asyncio.timeout(HANG_S):
            while not await is_open(listener.port):
                await asyncio.sleep(0.001)
        yield listener
    finally:
        await listener.close()


def client(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", trust_env=False, verify=False)


class Wire:
    """A client that says exactly what it is told."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((LOOPBACK, port))
        self._socket.setblocking(False)

    async def send(self, message: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, message)

    async def read(self) -> bytes:
        """Read until the other side closes."""
        received = b""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(HANG_S):
            while part := await loop.sock_recv(self._socket, 65536):
                received += part
        return received

    async def read_until(self, end: bytes, times: int = 1) -> bytes:
        received = b""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(HANG_S):
            while received.count(end) < times:
                part = await loop.sock_recv(self._socket, 65536)
                assert part, f"closed after {received!r}"
                received += part
        return received

    def close(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        """Close as a client that crashes: without a goodbye."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self._socket.close()

    def shut_down(self) -> None:
        """Say that no more will be sent, and go on listening."""
        self._socket.shutdown(socket.SHUT_WR)


async def send_for_ever(wire: Wire, message: bytes) -> None:
    async with asyncio.timeout(HANG_S):
        while True:
            await wire.send(message)
            await asyncio.sleep(0.001)


def post(content: bytes) -> bytes:
    """A request to infer, as it goes over the wire."""
    return f"POST {INFER} HTTP/1.1\r\ncontent-length: {len(content)}\r\n\r\n".encode() + content


SMALL = json.dumps(body()).encode()


def assert_error(answer: bytes, status: int) -> str:
    """One answer, in the form of all our errors, after which the connection closes."""
    head, _, content = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0].startswith(f"HTTP/1.1 {status} ")
    headers = dict(line.split(": ") for line in lines[1:])
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    assert int(headers["content-length"]) == len(content)
    document = json.loads(content)
    assert list(document) == ["error"]
    return str(document["error"])
