"""Times a call by repeating it."""

from __future__ import annotations

import time
from collections.abc import Callable


def microseconds_per_call(
    call: Callable[[], object], seconds: float, *, calls_per_reading: int = 1
) -> float:
    """Repeat a call for about `seconds`; return the mean time of one call, in microseconds.

    The clock is read after every `calls_per_reading` calls. Short calls need many, so that reading
    the clock does not count.
    """
    calls = 0
    start = time.perf_counter()
    while (elapsed_s := time.perf_counter() - start) < seconds:
        for _ in range(calls_per_reading):
            call()
        calls += calls_per_reading
    return elapsed_s / calls * 1e6
