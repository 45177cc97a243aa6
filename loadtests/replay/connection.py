"""A low-overhead HTTP/1.1 keep-alive connection with one request at a time.

It implements the part of HTTP/1.1 that a server with Content-Length responses requires, and does
not parse JSON.
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
_MAX_ERROR_BYTES: Final = 1000
"""Number of bytes that are kept of a response with another status than 200, head included."""


class ConnectionOwner(Protocol):
    """Receives the events of a connection."""

    def on_open(self, connection: ClientConnection) -> None:
        """The connection is open and free."""

    def on_response(
        self, connection: ClientConnection, number: int, now_s: float, status: int, content: bytes
    ) -> None:
        """The response to request `number` is complete; the connection is free.

        `content` is the JSON part of the body of a 200 response, or the beginning of another one.
        """

    def on_lost(self, connection: ClientConnection, number: int | None) -> None:
        """The connection is closed; `number` is the request without a response, if there is one."""


class ClientConnection(asyncio.Protocol):
    """A connection to the service. `send` requires that it is free: new, or after a response."""

    def __init__(self, owner: ConnectionOwner) -> None:
        self._owner = owner
        self._number: int | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop has its own class
        self._owner.on_open(self)

    def send(self, number: int, request: bytes) -> None:
        """Send the bytes of a request; `number` identifies it in the calls to the owner."""
        self._number = number
        self._transport.write(request)

    def abort(self) -> None:
        """Close the connection at once, without waiting for a response."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Called by the transport with received bytes."""
        if self._received:
            data = self._received + data
        end = data.find(_HEAD_END)
        if end < 0:
            self._received = data
            return
        head = data[: end + 2].lower()
        length = _parse_header(head, _LENGTH)
        status = head[9:12]  # after "HTTP/1.1 "
        number = self._number
        body = end + len(_HEAD_END)
        if length is None or number is None or not status.isdigit() or len(data) > body + length:
            # not a response, unexpected, without a length, or longer than its length
            self._transport.abort()
            return
        if len(data) < body + length:
            self._received = data
            return
        now_s = time.monotonic()
        self._received = b""
        self._number = None
        if status == _OK:
            json_length = _parse_header(head, _JSON_LENGTH)
            content = data[body : body + (length if json_length is None else json_length)]
        else:
            content = data[:_MAX_ERROR_BYTES]
        self._owner.on_response(self, number, now_s, int(status), content)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the transport."""
        self._owner.on_lost(self, self._number)


def _parse_header(head: bytes, name: bytes) -> int | None:
    """Return the value of a header if it is a non-negative integer, otherwise None."""
    start = head.find(name)
    if start < 0:
        return None
    start += len(name)
    text = head[start : head.index(b"\r\n", start)]
    return int(text) if text.isdigit() else None
