"""The time that a run may take: a GPU that is lent is given back."""

from __future__ import annotations

import time
from collections.abc import Callable


class Deadline:
    """Ends a run between two measurements."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds
        self.left_out: list[str] = []
        """The measurements for which no time was left, in order."""

    def allows(self, measurement: str) -> bool:
        """Return whether there is time for a measurement; remember it if not."""
        if self._clock() < self._end:
            return True
        self.left_out.append(measurement)
        return False
