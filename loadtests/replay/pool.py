"""A pool of connections to one service that grows on demand up to a limit.

    request ─▶ free connection, or queue for one ─▶ response ─▶ request log

A lost connection is not replaced until a request finds no free one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence

from loadtests.replay.connection import ClientConnection
from loadtests.replay.request_log import RequestLog


class ConnectionPool:
    """Sends requests by number and records their results in a request log."""

    def __init__(
        self, host: str, port: int, limit: int, requests: Sequence[bytes], log: RequestLog
    ) -> None:
        """`requests` are the bytes of each request; `limit` is the maximum of connections."""
        self._host = host
        self._port = port
        self._limit = limit
        self._requests = requests
        self._log = log
        self._open: set[ClientConnection] = set()
        self._free: list[ClientConnection] = []
        self._queue: deque[int] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self.max_open = 0
        """Largest number of open connections so far."""

    async def open(self, count: int) -> None:
        """Open `count` connections in advance; raises OSError if one cannot be opened."""
        for _ in range(count):
            transport = await self._connect()
            if peer := transport.get_extra_info("peername"):
                self._host = peer[0]  # an address: later connections need no name resolution

    def send(self, number: int, now_s: float) -> None:
        """Send a request now, or as soon as a connection is free."""
        if self._free:
            self._send(self._free.pop(), number, now_s)
        else:
            self._queue.append(number)
            self._open_missing()

    async def close(self) -> None:
        """Close all connections; requests without a response remain without one."""
        self._is_closed = True
        for task in self._opening:
            task.cancel()
        for connection in self._open:
            connection.abort()
        while self._open or self._opening:
            await asyncio.sleep(0)

    def on_open(self, connection: ClientConnection) -> None:
        """Called by a connection."""
        self._open.add(connection)
        self.max_open = max(self.max_open, len(self._open))
        if self._is_closed:
            connection.abort()
        else:
            self._assign(connection)

    def on_response(
        self, connection: ClientConnection, number: int, now_s: float, status: int, content: bytes
    ) -> None:
        """Called by a connection."""
        self._log.record_response(number, now_s, status, content)
        self._assign(connection)

    def on_lost(self, connection: ClientConnection, number: int | None) -> None:
        """Called by a connection."""
        self._open.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        if self._is_closed:
            return
        if number is not None:
            self._log.record_disconnect(number)
        self._open_missing()

    def _send(self, connection: ClientConnection, number: int, now_s: float) -> None:
        self._log.sent_s[number] = now_s
        connection.send(number, self._requests[number])

    def _assign(self, connection: ClientConnection) -> None:
        """Use a free connection for the next request in the queue."""
        if self._queue:
            self._send(connection, self._queue.popleft(), time.monotonic())
        else:
            self._free.append(connection)

    def _open_missing(self) -> None:
        """Open a connection for each queued request, up to the limit."""
        while (
            len(self._opening) < len(self._queue)
            and len(self._open) + len(self._opening) < self._limit
        ):
            task = asyncio.create_task(self._open_another())
            self._opening.add(task)
            task.add_done_callback(self._on_opened)

    def _on_opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        if not self._is_closed:
            self._open_missing()

    async def _open_another(self) -> None:
        try:
            await self._connect()
        except OSError:
            # Fails the request that it was opened for: endless retries would hide a dead service.
            if self._queue:
                self._log.record_disconnect(self._queue.popleft())

    async def _connect(self) -> asyncio.Transport:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(
            lambda: ClientConnection(self), self._host, self._port
        )
        return transport
