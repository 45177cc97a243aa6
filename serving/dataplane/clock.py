"""Time as the scheduler needs it: an argument, so that a test can bring its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """What `Clock.call_later` returns."""

    def cancel(self) -> None:
        """Make sure that the callback is not called any more."""


class Clock(Protocol):
    """Time as the scheduler needs it; a test brings its own."""

    def time(self) -> float:
        """Return seconds on a monotonic clock, finer than a millisecond."""

    def call_later(self, delay: float, callback: Callable[[], None], /) -> Timer:
        """Call `callback` after `delay` seconds, never at once."""


class LoopClock:
    """The clock of the running event loop, which itself counts only milliseconds under uvloop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def time(self) -> float:
        """Return seconds on a monotonic clock."""
        return time.monotonic()

    def call_later(self, delay: float, callback: Callable[[], None], /) -> Timer:
        """Call `callback` from the loop, after `delay` seconds."""
        return self._loop.call_later(delay, callback)
