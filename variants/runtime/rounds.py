"""Times a few functions in rounds: each round calls all of them once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Final

_LEAST_S: Final = 1e-9
"""Lower bound of durations that are divided by, in seconds."""


def choose_clock(threads: int) -> Callable[[], float]:
    """Return the clock for code with this number of threads, in seconds.

    CPU time, which other processes do not disturb, shows only the calling thread.
    """
    return time.thread_time if threads == 1 else time.perf_counter


def run_rounds(run: Callable[[], None], seconds: float, *, least: int, most: int) -> None:
    """Run a first round, which allocates memory, and then as many as fit into `seconds`.

    These are at least `least` and at most `most`.
    """
    run()
    before = time.perf_counter()
    run()
    round_s = max(time.perf_counter() - before, _LEAST_S)
    for _ in range(max(least, min(most, int(seconds / round_s))) - 1):
        run()


def typical_s(calls: Sequence[float]) -> float:
    """Return the median of the durations of a function by round, without that of the first."""
    return max(median(calls[1:]), _LEAST_S)
