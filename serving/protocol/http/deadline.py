"""A time limit that moves with every request, on a timer that does not.

Setting and cancelling a timer for each request would cost more than reading it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final

READ_FIRST_S: Final = 0.001
"""Seconds after which a time limit that is over takes effect: the next iteration of the event loop,
which has read what has arrived.

uvloop calls due timers before it reads: after an iteration that took long, a connection may have
data that have not been read yet.
"""


class Deadline:
    """Calls a function once a time is reached that may be moved until then. Times in seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_over: Callable[[], None]) -> None:
        """`on_over` is called when the time is over."""
        self._loop = loop
        self._on_over = on_over
        self._at = math.inf
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def set(self, delay_s: float) -> None:
        """Set the time to `delay_s` from now."""
        self._at = self._loop.time() + delay_s
        if self._at < self._timer_at:
            self._start(self._at)

    def clear(self) -> None:
        """Call nothing until another time is set."""
        self._at = math.inf

    def close(self) -> None:
        """Call nothing any more."""
        self._at = math.inf
        self._stop()

    def _start(self, at: float) -> None:
        self._stop()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._check)

    def _stop(self) -> None:
        self._timer_at = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        started_for = self._timer_at
        self._timer, self._timer_at = None, math.inf
        if self._at > started_for:
            if self._at < math.inf:
                self._start(self._at)
            return
        self._timer_at = self._at
        self._timer = self._loop.call_later(READ_FIRST_S, self._end, self._at)

    def _end(self, at: float) -> None:
        self._timer, self._timer_at = None, math.inf
        if self._at == at:
            self._at = math.inf
            self._on_over()
        elif self._at < math.inf:
            self._start(self._at)
