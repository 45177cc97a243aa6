"""A closed-loop HTTP client that costs little: many connections, each sends when it is answered.

It knows just enough HTTP/1.1 for a server that answers with Content-Length; what it measures is
the server, on a machine that both share.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import uvloop

HEAD_END = b"\r\n\r\n"
LENGTH = b"content-length: "


@dataclass
class Outcome:
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
    def __init__(self, request: bytes, outcome: Outcome, until: float) -> None:
        self._request = request
        self._outcome = outcome
        self._until = until
        self._received = bytearray()
        self._sent = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(HEAD_END)
        if end < 0:
            return
        start = self._received.index(LENGTH) + len(LENGTH)
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
        else:
            self._transport.close()
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed the connection"))

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)


def post(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """Return the bytes of a POST request."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def drive(port: int, request: Callable[[int], bytes], clients: int, seconds: float) -> Outcome:
    """Send for some seconds from so many connections; `request` gives each its own bytes."""

    async def run() -> Outcome:
        loop = asyncio.get_running_loop()
        outcome = Outcome()
        start = time.perf_counter()
        connections = [
            _Connection(request(number), outcome, start + seconds) for number in range(clients)
        ]
        for connection in connections:
            await loop.create_connection(lambda it=connection: it, "127.0.0.1", port)
        await asyncio.gather(*(connection.done for connection in connections))
        outcome.elapsed_s = time.perf_counter() - start
        return outcome

    return uvloop.run(run())
