"""Connections to one service: as many as are needed at a time, up to a limit.

    request ─▶ a free connection, or the line for one ─▶ answer ─▶ ledger

A connection that was lost is not missed: another is opened when none is free.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence

from loadtests.replay.connection import ClientConnection
from loadtests.replay.request_log import RequestLog


class ConnectionPool:
    """Sends requests by number, and notes in a ledger what becomes of each."""

    def __init__(
        self, host: str, port: int, limit: int, requests: Sequence[bytes], ledger: RequestLog
    ) -> None:
        """Take the bytes of each request, by number; `limit` is of connections."""
        self._host = host
        self._port = port
        self._limit = limit
        self._requests = requests
        self._ledger = ledger
        self._open: set[ClientConnection] = set()
        self._free: list[ClientConnection] = []
        self._line: deque[int] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self.most_open = 0
        """Connections at a time, so far."""

    async def open(self, count: int) -> None:
        """Open some connections beforehand; raises `OSError` if they do not open."""
        for _ in range(count):
            transport = await self._connect()
            if peer := transport.get_extra_info("peername"):
                self._host = peer[0]  # no longer a name: looking one up takes a thread

    def send(self, number: int, now_s: float) -> None:
        """Send a request now, or as soon as a connection is free."""
        if self._free:
            self._send(self._free.pop(), number, now_s)
        else:
            self._line.append(number)
            self._grow()

    async def close(self) -> None:
        """Close all connections; what is unanswered stays so."""
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
        self.most_open = max(self.most_open, len(self._open))
        if self._is_closed:
            connection.abort()
        else:
            self._lend(connection)

    def on_answer(
        self, connection: ClientConnection, number: int, now_s: float, status: int, kept: bytes
    ) -> None:
        """Called by a connection."""
        self._ledger.answered(number, now_s, status, kept)
        self._lend(connection)

    def on_lost(self, connection: ClientConnection, number: int | None) -> None:
        """Called by a connection."""
        self._open.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        if self._is_closed:
            return
        if number is not None:
            self._ledger.disconnected(number)
        self._grow()

    def _send(self, connection: ClientConnection, number: int, now_s: float) -> None:
        self._ledger.sent_s[number] = now_s
        connection.send(number, self._requests[number])

    def _lend(self, connection: ClientConnection) -> None:
        if self._line:
            self._send(connection, self._line.popleft(), time.monotonic())
        else:
            self._free.append(connection)

    def _grow(self) -> None:
        while (
            len(self._opening) < len(self._line)
            and len(self._open) + len(self._opening) < self._limit
        ):
            task = asyncio.create_task(self._open_another())
            self._opening.add(task)
            task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        if not self._is_closed:
            self._grow()

    async def _open_another(self) -> None:
        try:
            await self._connect()
        except OSError:
            # Opened for one that waits: to try for ever would hide that nobody listens.
            if self._line:
                self._ledger.disconnected(self._line.popleft())

    async def _connect(self) -> asyncio.Transport:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(
            lambda: ClientConnection(self), self._host, self._port
        )
        return transport
