"""Runs that are repeated with more time, as a busy machine needs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

Result = TypeVar("Result")

DURATIONS_S: Final = (0.2, 3.0, 30.0)


def repeat_longer(run: Callable[[float], Result], is_enough: Callable[[Result], bool]) -> Result:
    """Call `run` with each of `DURATIONS_S` until its result is enough; return the last result."""
    for seconds in DURATIONS_S:
        result = run(seconds)
        if is_enough(result):
            break
    return result
