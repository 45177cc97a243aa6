"""One HTTP/1.1 connection that is kept alive: one request at a time, and as little work as can be.

It knows just enough for a server that answers with Content-Length, and parses no JSON.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, Protocol, cast

from loadtests.client.binary import JSON_LENGTH_HEADER

_HEAD_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"\r\ncontent-length: "
_JSON_LENGTH: Final = b"\r\n" + JSON_LENGTH_HEADER.lower().encode() + b": "
_OK: Final = b"200"
_KEPT_BYTES: Final = 1000
"""Of an answer that is no 200: its head, and the beginning of what it says."""


class ConnectionOwner(Protocol):
    """Who lends a connection out."""

    def on_open(self, connection: ClientConnection) -> None:
        """The connection is there, and free."""

    def on_answer(
        self, connection: ClientConnection, number: int, now_s: float, status: int, kept: bytes
    ) -> None:
        """The answer to request `number` is whole; the connection is free."""

    def on_lost(self, connection: ClientConnection, number: int | None) -> None:
        """The connection is gone, with request `number` unanswered, or none."""


class ClientConnection(asyncio.Protocol):
    """`send` when it is free, which it is from the start and again after each answer."""

    def __init__(self, owner: ConnectionOwner) -> None:
        self._owner = owner
        self._number: int | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is a class of its own
        self._owner.on_open(self)

    def send(self, number: int, request: bytes) -> None:
        """Send a whole request; its answer is told by this number."""
        self._number = number
        self._transport.write(request)

    def abort(self) -> None:
        """Close at once, whatever is under way."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Called by the transport with what came."""
        if self._received:
            data = self._received + data
        end = data.find(_HEAD_END)
        if end < 0:
            self._received = data
            return
        head = data[: end + 2].lower()
        length = _number(head, _LENGTH)
        status = head[9:12]  # after HTTP/1.1
        number = self._number
        if length is None or number is None or not status.isdigit():
            self._transport.abort()  # it is no answer, to no request, or has no known end
            return
        body = end + len(_HEAD_END)
        if len(data) < body + length:
            self._received = data
            return
        now_s = time.monotonic()
        self._received = b""
        self._number = None
        if status == _OK:
            json_length = _number(head, _JSON_LENGTH)
            kept = data[body : body + (length if json_length is None else json_length)]
        else:
            kept = data[:_KEPT_BYTES]
        self._owner.on_answer(self, number, now_s, int(status), kept)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the transport."""
        self._owner.on_lost(self, self._number)


def _number(head: bytes, name: bytes) -> int | None:
    """Return the value of a header that is a whole number, or None where there is none."""
    start = head.find(name)
    if start < 0:
        return None
    start += len(name)
    text = head[start : head.index(b"\r\n", start)]
    return int(text) if text.isdigit() else None
