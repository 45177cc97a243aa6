"""A low-overhead closed-loop HTTP client: each connection sends again after each response.

It implements the part of HTTP/1.1 that a server with Content-Length responses requires. It uses
little CPU, because it usually shares a machine with the server that it measures. A run ends within
`seconds` plus a grace period, or with an error.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import uvloop

HEAD_END: Final = b"\r\n\r\n"
LENGTH: Final = b"content-length: "
GRACE_S: Final = 20.0
"""Time allowed for opening connections and for the last responses, in seconds."""


@dataclass
class LoadResult:
    """The result of one closed-loop run."""

    elapsed_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    """Latencies of the successful responses."""
    failures: int = 0
    first_failure: bytes = b""

    @property
    def requests_per_s(self) -> float:
        """Successful responses per second."""
        return len(self.latencies_s) / self.elapsed_s

    def quantile_ms(self, q: float) -> float:
        """Return a quantile of the latencies, in milliseconds."""
        return float(np.quantile(self.latencies_s, q)) * 1e3


class _ClosedLoopConnection(asyncio.Protocol):
    """Sends one request repeatedly: `open` it, `start` it, await `done`.

    `done` completes with the last response, or with the error that ended the connection.
    """

    def __init__(self, request: bytes, result: LoadResult) -> None:
        self._request = request
        self._result = result
        self._until = 0.0
        self._received = bytearray()
        self._sent = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_connection(lambda: self, "127.0.0.1", port)

    def start(self, until: float) -> None:
        self._until = until
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(HEAD_END)
        if end < 0:
            return
        start = self._received.find(LENGTH, 0, end)
        if start < 0:
            self._fail(f"response without Content-Length: {bytes(self._received[:200])!r}")
            return
        start += len(LENGTH)
        length = int(self._received[start : self._received.index(b"\r\n", start)])
        if len(self._received) < end + len(HEAD_END) + length:
            return
        now = time.perf_counter()
        if self._received.startswith(b"HTTP/1.1 200"):
            self._result.latencies_s.append(now - self._sent)
        else:
            self._result.failures += 1
            self._result.first_failure = self._result.first_failure or bytes(self._received)
        self._received.clear()
        if now < self._until:
            self._send()
        elif not self.done.done():
            self.done.set_result(None)
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail("the server closed the connection" + (f": {error}" if error else ""))

    def close(self) -> None:
        if not self.done.cancel() and not self.done.cancelled():
            self.done.exception()  # marks it as retrieved: asyncio logs an error otherwise
        self._transport.close()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def _fail(self, message: str) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(message))


def build_post_request(path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    """Return the bytes of a POST request."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def run_closed_loop(
    port: int,
    request: bytes,
    clients: int,
    seconds: float,
    grace_s: float = GRACE_S,
) -> LoadResult:
    """Send a request repeatedly over `clients` connections for `seconds`.

    Raises ConnectionError if a connection cannot be opened or is lost, TimeoutError if a response
    is missing `grace_s` after the time is up.
    """

    async def run() -> LoadResult:
        result = LoadResult()
        opened: list[_ClosedLoopConnection] = []
        try:
            async with asyncio.timeout(seconds + grace_s):
                for _ in range(clients):
                    connection = _ClosedLoopConnection(request, result)
                    await connection.open(port)
                    opened.append(connection)
                start = time.perf_counter()
                for connection in opened:
                    connection.start(start + seconds)
                await _wait_for_all(opened)
                result.elapsed_s = time.perf_counter() - start
        finally:
            for connection in opened:
                connection.close()
        return result

    return uvloop.run(run())


async def _wait_for_all(connections: list[_ClosedLoopConnection]) -> None:
    """Wait until all connections are done; raise the error of the first that fails."""
    futures = [connection.done for connection in connections]
    await asyncio.wait(futures, return_when=asyncio.FIRST_EXCEPTION)
    errors = [future.exception() for future in futures if future.done()]
    for error in errors:
        if error is not None:
            raise error
