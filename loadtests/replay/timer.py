"""Alarms for a running event loop, that ring within a tenth of a millisecond where they can.

The timers of uvloop and of asyncio count whole milliseconds, and to wait for the rest in a loop
would take a core from the service that is measured. Linux has timers that are files: the event
loop waits for one as it waits for a connection.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections.abc import Callable
from typing import Final, Protocol

_CLOCK_MONOTONIC: Final = 1  # that of time.monotonic()
_ABSOLUTE: Final = 1
_TICKS_BYTES: Final = 8
_AT_ONCE_S: Final = 1e-6
"""The kernel takes a time of 0 as "never"."""


class Timer(Protocol):
    """Rings once after every `set`, in the loop it was made in; `close` it in the end."""

    def set(self, at_s: float) -> None:
        """Ring at this time of `time.monotonic()`, at once if it has passed; replaces the last."""

    def close(self) -> None:
        """Ring no more."""


def create_timer(on_ring: Callable[[], None]) -> Timer:
    """Return the most exact alarm of this system, for the running loop."""
    return TimerfdTimer(on_ring) if sys.platform == "linux" else LoopTimer(on_ring)


class TimerfdTimer:
    """Rings 0.03 to 0.1 ms after the time it is set to, never before; a timer of Linux."""

    def __init__(self, on_ring: Callable[[], None]) -> None:
        self._on_ring = on_ring
        self._loop = asyncio.get_running_loop()
        library = ctypes.CDLL(None, use_errno=True)
        self._set = library.timerfd_settime
        self._setting = _Setting()
        self._pointer = ctypes.byref(self._setting)
        self._file: int = library.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        self._loop.add_reader(self._file, self._ring)

    def set(self, at_s: float) -> None:
        """See `Timer`."""
        at_ns = int(max(at_s, _AT_ONCE_S) * 1e9)
        self._setting.value.seconds, self._setting.value.nanoseconds = divmod(at_ns, 1_000_000_000)
        self._set(self._file, _ABSOLUTE, self._pointer, None)

    def close(self) -> None:
        """See `Timer`."""
        self._loop.remove_reader(self._file)
        os.close(self._file)

    def _ring(self) -> None:
        try:
            os.read(self._file, _TICKS_BYTES)
        except BlockingIOError:  # set again since it became readable
            return
        self._on_ring()


class LoopTimer:
    """Rings within a millisecond of the time it is set to, before or after; a timer of the loop."""

    def __init__(self, on_ring: Callable[[], None]) -> None:
        self._on_ring = on_ring
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def set(self, at_s: float) -> None:
        """See `Timer`."""
        self.close()
        self._timer = self._loop.call_later(max(0.0, at_s - time.monotonic()), self._on_ring)

    def close(self) -> None:
        """See `Timer`."""
        if self._timer is not None:
            self._timer.cancel()


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Time), ("value", _Time))
