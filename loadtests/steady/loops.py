"""The two ways of sending: clients that wait for responses, and requests at given times.

Both use `ClientConnection` and write to one `LoadLog`. Lost connections are counted and replaced.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from http import HTTPStatus
from itertools import cycle
from typing import Final

from loadtests.replay.connection import ClientConnection
from loadtests.steady.load import Load
from loadtests.steady.load_log import LoadLog

RECONNECT_S: Final = 0.05
"""Pause before a client tries again after a connection could not be opened, in seconds."""

_RETRY_AFTER: Final = re.compile(rb"\r\nretry-after: (\d+)\r\n", re.IGNORECASE)


class _Connections:
    """Opens connections of one owner and closes all of them at the end."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._tasks: set[asyncio.Task[None]] = set()
        self.open: set[ClientConnection] = set()
        self.is_closed = False

    @property
    def count(self) -> int:
        """Number of connections that are open or being opened."""
        return len(self.open) + len(self._tasks)

    async def connect(self, owner: ClosedLoop | OpenLoop) -> ClientConnection:
        """Open a connection; raises OSError."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: ClientConnection(owner), self._load.host, self._load.port
        )
        self.open.add(connection)
        return connection

    def start(self, task: asyncio.Task[None]) -> None:
        """Keep a reference to a task that opens a connection."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Abort all connections and tasks."""
        self.is_closed = True
        for task in self._tasks:
            task.cancel()
        for connection in self.open:
            connection.abort()
        while self.open or self._tasks:
            await asyncio.sleep(0)


class ClosedLoop:
    """Clients, each with one request at a time; owner of their connections."""

    def __init__(self, load: Load, log: LoadLog) -> None:
        self._load = load
        self._log = log
        self._connections = _Connections(load)
        self._requests: Iterator[bytes] = cycle(load.requests)
        self._pauses: dict[ClientConnection, asyncio.TimerHandle] = {}
        self._is_sending = False

    async def open(self) -> None:
        """Open the connections that are kept; raises OSError if one cannot be opened."""
        if self._load.keeps_connections:
            for _ in range(self._load.clients):
                await self._connections.connect(self)

    def start(self) -> None:
        """Send the first request of every client."""
        self._is_sending = True
        if self._load.keeps_connections:
            for connection in tuple(self._connections.open):
                self._send(connection)
        else:
            for _ in range(self._load.clients):
                self._send_on_new_connection()

    def stop(self) -> None:
        """Send no further requests."""
        self._is_sending = False

    async def close(self) -> None:
        """Abort all connections."""
        for pause in self._pauses.values():
            pause.cancel()
        await self._connections.close()

    def on_open(self, connection: ClientConnection) -> None:
        """Called by a connection."""

    def on_response(
        self, connection: ClientConnection, number: int, now_s: float, status: int, content: bytes
    ) -> None:
        """Called by a connection."""
        self._log.record_response(number, now_s, status, content)
        if not self._is_sending:
            return
        if status == HTTPStatus.TOO_MANY_REQUESTS and self._load.obeys_retry_after:
            loop = asyncio.get_running_loop()
            pause_s = _parse_retry_after_s(content)
            self._pauses[connection] = loop.call_later(pause_s, self._continue, connection)
        else:
            self._continue(connection)

    def on_lost(self, connection: ClientConnection, number: int | None) -> None:
        """Called by a connection."""
        self._connections.open.discard(connection)
        pause = self._pauses.pop(connection, None)
        if pause is not None:
            pause.cancel()
        if self._connections.is_closed:
            return
        if number is not None:
            self._log.record_disconnect(number, time.monotonic())
        elif not self._load.keeps_connections and pause is None:
            return  # closed by this client
        if self._is_sending:
            self._send_on_new_connection()

    def _continue(self, connection: ClientConnection) -> None:
        self._pauses.pop(connection, None)
        if not self._is_sending:
            return
        if self._load.keeps_connections:
            self._send(connection)
        else:
            connection.abort()
            self._send_on_new_connection()

    def _send(self, connection: ClientConnection) -> None:
        connection.send(self._log.add(time.monotonic()), next(self._requests))

    def _send_on_new_connection(self) -> None:
        task = asyncio.create_task(self._connect_and_send())
        self._connections.start(task)

    async def _connect_and_send(self) -> None:
        while self._is_sending:
            number = self._log.add(time.monotonic())
            try:
                connection = await self._connections.connect(self)
            except OSError:
                self._log.record_disconnect(number, time.monotonic())
                await asyncio.sleep(RECONNECT_S)
            else:
                connection.send(number, next(self._requests))
                return


class OpenLoop:
    """Sends a request at its arrival time if a connection is free or may be opened."""

    def __init__(self, load: Load, log: LoadLog) -> None:
        self._load = load
        self._log = log
        self._connections = _Connections(load)
        self._requests: Iterator[bytes] = cycle(load.requests)
        self._free: list[ClientConnection] = []

    async def open(self) -> None:
        """Open as many of the connections that are kept as there may be requests at a time.

        Raises OSError if one cannot be opened.
        """
        if self._load.keeps_connections:
            for _ in range(min(self._load.connections, len(self._load.arrivals_s))):
                self._free.append(await self._connections.connect(self))

    def send(self, due_s: float, now_s: float) -> None:
        """Send the next request, which was due at `due_s`."""
        if self._free:
            connection = self._free.pop()
            connection.send(self._log.add(due_s), next(self._requests))
        elif self._connections.count < self._load.connections:
            task = asyncio.create_task(self._connect_and_send(self._log.add(due_s)))
            self._connections.start(task)
        else:
            self._log.add_unsent(due_s, now_s)

    async def close(self) -> None:
        """Abort all connections."""
        await self._connections.close()

    def on_open(self, connection: ClientConnection) -> None:
        """Called by a connection."""

    def on_response(
        self, connection: ClientConnection, number: int, now_s: float, status: int, content: bytes
    ) -> None:
        """Called by a connection."""
        self._log.record_response(number, now_s, status, content)
        if self._load.keeps_connections:
            self._free.append(connection)
        else:
            connection.abort()

    def on_lost(self, connection: ClientConnection, number: int | None) -> None:
        """Called by a connection."""
        self._connections.open.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        if number is not None and not self._connections.is_closed:
            self._log.record_disconnect(number, time.monotonic())

    async def _connect_and_send(self, number: int) -> None:
        try:
            connection = await self._connections.connect(self)
        except OSError:
            self._log.record_disconnect(number, time.monotonic())
        else:
            connection.send(number, next(self._requests))


def _parse_retry_after_s(response: bytes) -> float:
    match = _RETRY_AFTER.search(response)
    return float(match[1]) if match else 0.0
