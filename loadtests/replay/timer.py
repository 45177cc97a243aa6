"""Timers for an event loop that are more precise than its own.

The timers of uvloop and asyncio have a resolution of 1 ms, and busy waiting for the rest would take
a core from the service that is measured. Linux has timers with file descriptors (timerfd), which an
event loop can wait for as for a connection.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import Final, Protocol

_CLOCK_MONOTONIC: Final = 1  # the clock of time.monotonic()
_ABSOLUTE: Final = 1
_TICKS_BYTES: Final = 8
_MIN_TIME_S: Final = 1e-6
"""Earliest time that a timerfd is set to; 0 would disarm it."""


class Timer(Protocol):
    """Calls a function once after each `set`, in the event loop in which it was created."""

    def set(self, at_s: float) -> None:
        """Expire at this time of `time.monotonic()`, or at once if it is past.

        Replaces the time that was set before.
        """

    def close(self) -> None:
        """Cancel the timer and release its resources."""


def create_timer(on_expiry: Callable[[], None]) -> Timer:
    """Return the most precise timer of this system, for the running loop."""
    return TimerfdTimer(on_expiry) if sys.platform == "linux" else LoopTimer(on_expiry)


class TimerfdTimer:
    """A timer of Linux that expires 0.03 to 0.1 ms after the time it is set to, never before."""

    def __init__(self, on_expiry: Callable[[], None]) -> None:
        self._on_expiry = on_expiry
        self._loop = asyncio.get_running_loop()
        library = ctypes.CDLL(None, use_errno=True)
        self._set = library.timerfd_settime
        self._setting = _Setting()
        self._pointer = ctypes.byref(self._setting)
        self._file: int = library.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        self._loop.add_reader(self._file, self._expire)

    def set(self, at_s: float) -> None:
        """See `Timer`."""
        at_ns = int(max(at_s, _MIN_TIME_S) * 1e9)
        self._setting.value.seconds, self._setting.value.nanoseconds = divmod(at_ns, 1_000_000_000)
        self._set(self._file, _ABSOLUTE, self._pointer, None)

    def close(self) -> None:
        """See `Timer`."""
        self._loop.remove_reader(self._file)
        os.close(self._file)

    def _expire(self) -> None:
        try:
            os.read(self._file, _TICKS_BYTES)
        except BlockingIOError:  # it was set again after it became readable
            return
        self._on_expiry()


class LoopTimer:
    """A timer of the event loop, which expires up to 1 ms before or after the time it is set to."""

    def __init__(self, on_expiry: Callable[[], None]) -> None:
        self._on_expiry = on_expiry
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at_s: float) -> None:
        """See `Timer`."""
        self.close()
        self._timer = self._loop.call_later(max(0.0, at_s - time.monotonic()), self._on_expiry)

    def close(self) -> None:
        """See `Timer`."""
        if self._timer is not None:
            self._timer.cancel()


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Time), ("value", _Time))
