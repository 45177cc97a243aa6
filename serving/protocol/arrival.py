"""When the bytes of a request arrived, although the event loop reads them later.

The kernel knows how long ago a socket received its last data, with the resolution of its timer,
mostly 4 ms. The event loop narrows it down: what it reads now was not there when it last looked.
A transport that hides its sockets knows only how many iterations of the loop ago it read them.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Final

LAST_DATA_RECEIVED: Final = 13
"""Place of `tcpi_last_data_recv` in `struct tcp_info` of Linux (linux/tcp.h), in 32-bit numbers:
an unsigned number of milliseconds."""

RESOLUTION_S: Final = 0.004
"""Resolution of that number, in seconds, at the common 250 Hz of the kernel's timer."""

MAX_ITERATIONS: Final = 8
"""Number of successive iterations of the event loop whose beginnings are kept."""


class ArrivalClock:
    """Estimates the arrival time of what is read from the sockets of one event loop.

    It follows an iteration of the loop if something is read in it or in the one before.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._loop = asyncio.get_running_loop()
        self._is_in_iteration = False
        self._first_read_at = 0.0
        """When the first socket was read in this iteration of the loop."""
        self._polled_at: float | None = None
        """When the loop looked for events before this iteration; None if that is not known."""
        self._previous_polled_at = 0.0
        self._begun = deque[float](maxlen=MAX_ITERATIONS)
        """When the iterations up to this one began, as far as all of them were followed."""

    def arrived_at(self, descriptor: int | None) -> float:
        """Return when the data that were just read from a socket arrived, on the clock `now`.

        `descriptor` is that of the transport's socket, or None if there is none, as in tests.
        """
        # What was read between two looks that were close to each other needs no better estimate.
        is_precise = self._polled_at is not None and self._gap_s < RESOLUTION_S
        # Before the clock: a pause must not make data older.
        age_s = 0.0 if is_precise else _kernel_age_s(descriptor)
        now = self._now()
        self._follow(now)
        if self._polled_at is None:
            # The loop was waiting for these events, unless the process was stopped meanwhile.
            return min(self._first_read_at, now - age_s + RESOLUTION_S)
        # The loop did not wait: they were there when it looked, and not the time before.
        return max(self._previous_polled_at, min(self._polled_at, now - age_s))

    @property
    def _gap_s(self) -> float:
        """Time between the last two looks for events, in seconds, if both are known."""
        return (self._polled_at or 0.0) - self._previous_polled_at

    def arrived_before(self, iterations: int) -> float:
        """Return a time before which an event arrived, on the clock `now`.

        The loop has begun at least `iterations` iterations since it read the event; at most
        `MAX_ITERATIONS` of them count. Iterations that were not followed do not count either: the
        event may be older, but is never more recent.
        """
        self._follow(self._now())
        return self._begun[-min(iterations, len(self._begun))]

    def _follow(self, now: float) -> None:
        """Note that something is read in this iteration."""
        if self._is_in_iteration:
            return
        if self._polled_at is None:
            self._begun.clear()
            self._begun.append(now)
        self._is_in_iteration = True
        self._first_read_at = now
        # Called once this iteration is over, immediately before the loop looks for events again.
        self._loop.call_soon(self._end_iteration)

    def _end_iteration(self) -> None:
        self._is_in_iteration = False
        self._previous_polled_at = self._polled_at or self._first_read_at
        self._polled_at = self._now()
        self._begun.append(self._polled_at)
        self._loop.call_soon(self._forget, self._polled_at)

    def _forget(self, polled_at: float) -> None:
        """Forget when the loop looked if it has looked again without reading from a socket."""
        if not self._is_in_iteration and self._polled_at == polled_at:
            self._polled_at = None


_libc: Final = ctypes.CDLL(None)
_info: Final = (ctypes.c_uint32 * (LAST_DATA_RECEIVED + 1))()
_length: Final = ctypes.c_uint32()


def _kernel_age_s(descriptor: int | None) -> float:
    """Return how long ago a TCP socket received its last data; 0 if it is not known.

    The event loops of asyncio and uvloop give access to the options of a socket only by a copy of
    it, which takes three calls of the kernel instead of one.
    """
    if descriptor is None:
        return 0.0
    _length.value = size = ctypes.sizeof(_info)
    failed: int = _libc.getsockopt(
        descriptor, socket.IPPROTO_TCP, socket.TCP_INFO, _info, ctypes.byref(_length)
    )
    return 0.0 if failed or _length.value < size else _info[LAST_DATA_RECEIVED] / 1e3
