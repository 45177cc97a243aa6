"""A closed-loop HTTP client that costs little: many connections, each sends when it is answered.

It knows just enough HTTP/1.1 for a server that answers with Content-Length; what it measures is
the server, on a machine that both share. It ends in good time, or with an error, whatever the
server does.
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
"""For opening connections, and for the last answers."""


@dataclass
class LoadResult:
    """What one run saw."""

    elapsed_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    failures: int = 0
    first_failure: bytes = b""

    @property
    def requests_per_s(self) -> float:
        """Answers per second."""
        return len(self.latencies_s) / self.elapsed_s

    def quantile_ms(self, q: float) -> float:
        """Return a quantile of the latencies, in milliseconds."""
        return float(np.quantile(self.latencies_s, q)) * 1e3


class _Connection(asyncio.Protocol):
    """Sends one request over and over; `done` ends with the last answer, or with why there is none.

    `open` it, `start` it, await `done`.
    """

    def __init__(self, request: bytes, outcome: LoadResult) -> None:
        self._request = request
        self._outcome = outcome
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
            self._fail(f"an answer without a length: {bytes(self._received[:200])!r}")
            return
        start += len(LENGTH)
        length = int(self._received[start : self._received.index(b"\r\n", start)])
        if len(self._received) < end + len(HEAD_END) + length:
            return
        now = time.perf_counter()
        if self._received.startswith(b"HTTP/1.1 200"):
            self._outcome.latencies_s.append(now - self._sent)
        else:
            self._outcome.failures += 1
            self._outcome.first_failure = self._outcome.first_failure or bytes(self._received)
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
            self.done.exception()  # heard, even where another connection's was raised
        self._transport.close()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def _fail(self, why: str) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(why))


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
    """Send for some seconds from so many connections.

    Raises `ConnectionError` if a connection does not open or is lost, `TimeoutError` if an answer
    is missing `grace_s` after the time is up.
    """

    async def run() -> LoadResult:
        outcome = LoadResult()
        opened: list[_Connection] = []
        try:
            async with asyncio.timeout(seconds + grace_s):
                for _ in range(clients):
                    connection = _Connection(request, outcome)
                    await connection.open(port)
                    opened.append(connection)
                start = time.perf_counter()
                for connection in opened:
                    connection.start(start + seconds)
                await _all_done(opened)
                outcome.elapsed_s = time.perf_counter() - start
        finally:
            for connection in opened:
                connection.close()
        return outcome

    return uvloop.run(run())


async def _all_done(connections: list[_Connection]) -> None:
    """Wait for all; raise what the first to fail raised, and leave none unheard."""
    futures = [connection.done for connection in connections]
    await asyncio.wait(futures, return_when=asyncio.FIRST_EXCEPTION)
    errors = [future.exception() for future in futures if future.done()]
    for error in errors:
        if error is not None:
            raise error
