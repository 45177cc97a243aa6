"""How many requests a gateway can answer per second, also while it is not busy."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Final

MEMORY_S: Final = 0.5
"""Time constant, in seconds, with which answers and busy time are forgotten."""

MIN_BUSY_S: Final = 0.001
"""Lower bound of the busy time that answers are divided by, in seconds."""

SCHEDSTAT: Final = "/proc/thread-self/schedstat"
"""Nanoseconds that a thread has run and has waited for a processor (Linux, sched-stats.rst)."""


class BusyTime:
    """Seconds in which the calling thread ran or waited for a processor.

    All calls must come from one thread. Without Linux's statistics it is the CPU time, without the
    time in which others used the processor.
    """

    def __init__(self) -> None:
        self._file: int | None = None
        self._is_known = True

    def __call__(self) -> float:
        """Return the seconds since the thread was started."""
        if self._file is None and self._is_known:
            try:
                self._file = os.open(SCHEDSTAT, os.O_RDONLY)
            except OSError:
                self._is_known = False
        if self._file is None:
            return time.thread_time()
        ran_ns, waited_ns, _ = os.pread(self._file, 64, 0).split()
        return (int(ran_ns) + int(waited_ns)) / 1e9

    def __del__(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)


class Capacity:
    """Answers per second of the time in which the event loop is busy.

    While it is always busy, this is its throughput. Otherwise its throughput is only the rate at
    which requests happen to arrive.
    """

    def __init__(self, busy_s: Callable[[], float] | None = None) -> None:
        """`busy_s` returns for how many seconds the event loop has been busy.

        By default this is the `BusyTime` of the thread that calls the methods.
        """
        self._busy_s = busy_s or BusyTime()
        self._until_s: float | None = None
        """Busy time at the last record."""
        self._answers = 0.0
        self._spent_s = 0.0

    @property
    def per_s(self) -> float:
        """Answers per second that are possible; 0 before the first."""
        return self._answers / max(MIN_BUSY_S, self._spent_s)

    def record(self, answers: int, period_s: float) -> None:
        """Record the answers of a period that ends now."""
        before_s, self._until_s = self._until_s, self._busy_s()
        kept = math.exp(-period_s / MEMORY_S)
        self._answers = kept * self._answers + answers
        self._spent_s = kept * self._spent_s
        if before_s is not None:
            self._spent_s += self._until_s - before_s

    def forget(self) -> None:
        """Forget all answers."""
        self._until_s, self._answers, self._spent_s = self._busy_s(), 0.0, 0.0
