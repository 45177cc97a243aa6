"""The end of a connection: its client gets what was written, unless it does not read.

Closing a socket whose client still sends may lose the last response (RFC 9112, section 9.6).
Therefore a connection may linger: the client can go on sending for a while, which is ignored.
"""

from __future__ import annotations

import asyncio
from typing import Final

from serving.protocol.http.deadline import Deadline

LINGER_S: Final = 2.0
"""Seconds that a client may go on sending after the last response, which closing could lose."""

MAX_LINGER_BYTES: Final = 32 * 2**20
"""Bytes that it may send in this time."""


class Closing:
    """Closes the transport of one connection, and cuts it if the client does not read."""

    def __init__(
        self, transport: asyncio.Transport, deadline: Deadline, read_timeout_s: float
    ) -> None:
        """`deadline` is that of the connection. A client must read within `read_timeout_s`."""
        self._transport = transport
        self._deadline = deadline
        self._read_timeout_s = read_timeout_s
        self._unsent_bytes = 0
        """Size of what was written and the kernel had not taken, when that was last looked at."""
        self._ignored_bytes = 0
        """What has arrived after the last request of the connection."""

    def watch(self) -> None:
        """Begin to watch whether the client reads what was written; see `abort_if_stalled`."""
        self._unsent_bytes = self._transport.get_write_buffer_size()
        self._deadline.set(self._read_timeout_s)

    def close(self) -> None:
        """Close the connection once the client has got what is written."""
        self._unsent_bytes = self._transport.get_write_buffer_size()
        self._transport.close()
        self._deadline.set(self._read_timeout_s)

    def linger(self) -> None:
        """Let the client send the rest and read, until the deadline."""
        self._transport.write_eof()
        self._deadline.set(LINGER_S)

    def allows(self, size: int) -> bool:
        """Count bytes that are ignored. Return whether the client may go on sending."""
        self._ignored_bytes += size
        return self._ignored_bytes <= MAX_LINGER_BYTES

    def abort_if_stalled(self) -> None:
        """Cut a connection whose client has read nothing since the last look."""
        unsent_bytes = self._transport.get_write_buffer_size()
        if unsent_bytes >= self._unsent_bytes:
            self._transport.abort()
        else:
            self._deadline.set(self._read_timeout_s)
        self._unsent_bytes = unsent_bytes
