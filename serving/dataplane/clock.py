"""The clock of the scheduler: an interface, and its implementation on the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A scheduled call, as `Clock.call_later` returns it."""

    def cancel(self) -> None:
        """Prevent the call, unless it has been made already."""


class Clock(Protocol):
    """Source of time and timers. Tests use one that they move themselves."""

    def time(self) -> float:
        """Return the seconds of a monotonic clock with a resolution below one millisecond."""

    def call_later(self, delay: float, callback: Callable[[], None], /) -> Timer:
        """Call `callback` after `delay` seconds, never before this method returns."""


class LoopClock:
    """The clock of the running event loop.

    `time` does not come from the loop, because uvloop's time has a resolution of a millisecond.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def time(self) -> float:
        """Return the seconds of a monotonic clock."""
        return time.monotonic()

    def call_later(self, delay: float, callback: Callable[[], None], /) -> Timer:
        """Call `callback` from the event loop after `delay` seconds."""
        return self._loop.call_later(delay, callback)
