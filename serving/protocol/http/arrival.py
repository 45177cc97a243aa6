"""When the bytes of a request arrived, although the event loop reads them later.

The kernel knows how long ago a socket received its last data, with the resolution of its timer,
mostly 4 ms. The event loop narrows it down: what it reads now was not there when it last looked.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, Final

LAST_DATA_RECEIVED: Final = slice(52, 56)
"""Place of `tcpi_last_data_recv` in `struct tcp_info` of Linux (linux/tcp.h): an unsigned 32-bit
number of milliseconds."""

RESOLUTION_S: Final = 0.004
"""Resolution of that number, in seconds, at the common 250 Hz of the kernel's timer."""


class ArrivalClock:
    """Estimates the arrival time of what is read from the sockets of one event loop."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._is_in_iteration = False
        self._first_read_at = 0.0
        """When the first socket was read in this iteration of the loop."""
        self._polled_at: float | None = None
        """When the loop looked for events before this iteration; None if that is not known."""
        self._previous_polled_at = 0.0

    def arrived_at(self, connection: Any) -> float:
        """Return when the data that were just read from a socket arrived, on the clock `now`.

        `connection` is the transport's socket, or None if there is none, as in tests.
        """
        now = self._now()
        if not self._is_in_iteration:
            self._begin_iteration(now)
        age_s = _kernel_age_s(connection)
        if self._polled_at is None:
            # The loop was waiting for these events, unless the process was stopped meanwhile.
            return min(self._first_read_at, now - age_s + RESOLUTION_S)
        # The loop did not wait: they were there when it looked, and not the time before.
        return max(self._previous_polled_at, min(self._polled_at, now - age_s))

    def _begin_iteration(self, now: float) -> None:
        self._is_in_iteration = True
        self._first_read_at = now
        # Called once this iteration is over, immediately before the loop looks for events again.
        self._loop.call_soon(self._end_iteration)

    def _end_iteration(self) -> None:
        self._is_in_iteration = False
        self._previous_polled_at = self._polled_at or self._first_read_at
        self._polled_at = self._now()
        self._loop.call_soon(self._forget, self._polled_at)

    def _forget(self, polled_at: float) -> None:
        """Forget when the loop looked if it has looked again without reading from a socket."""
        if not self._is_in_iteration and self._polled_at == polled_at:
            self._polled_at = None


def _kernel_age_s(connection: Any) -> float:
    """Return how long ago a TCP socket received its last data; 0 if it is not known."""
    try:
        info: bytes = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 56)
    except (AttributeError, OSError):
        return 0.0
    return int.from_bytes(info[LAST_DATA_RECEIVED], sys.byteorder) / 1e3
