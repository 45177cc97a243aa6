"""The speed factor of the machine: how much longer batches take now than their baselines say.

It is common to all variants and follows a change within a few batches, because what slows down a
batch is mostly a busy or throttled machine. Without recent batches it returns to the usual factor,
which follows slowly: a disturbance does not outlive its end.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Final

WINDOW: Final = 9
"""Window of the median that is the factor, in batches. The factor follows a change after half of
them."""

MIN_SILENCE_S: Final = 0.5
"""Least time, in seconds, without a batch after which the recent batches are discarded."""

SILENCE_RATIO: Final = 4.0
"""The same time as a multiple of the mean interval between the recent batches."""

USUAL_S: Final = 30.0
"""Time constant, in seconds, with which the usual factor follows the current one."""


class SpeedFactor:
    """The current speed factor, from the ratios of recent batches to their baselines."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._usual = 1.0
        self.value = 1.0

    def forget(self) -> None:
        """Return to the state without observations."""
        self._recent.clear()
        self._usual = self.value = 1.0

    def add(self, now: float, ratio: float) -> None:
        """Learn from a batch that took `ratio` times its baseline."""
        pause_s = now - self._recent[-1][0] if self._recent else 0.0
        self.expire(now)
        self._recent.append((now, ratio))
        ratios = [each for _, each in self._recent]
        recent = median(ratios)
        # As long as there are few observations, the previous factor counts as well.
        missing = WINDOW // 2 + 1 - len(ratios)
        self.value = median([*ratios, *[self.value] * missing]) if missing > 0 else recent
        weight = 1 - math.exp(-pause_s / USUAL_S)
        self._usual *= math.pow(recent / self._usual, weight)

    def expire(self, now: float) -> bool:
        """Discard the recent batches if they are too old; return whether they were."""
        if len(self._recent) < 2 or now - self._recent[-1][0] <= self._max_silence_s():
            return False
        self._recent.clear()
        self.value = self._usual
        return True

    @property
    def expires_at(self) -> float:
        """When `expire` discards the recent batches; infinite if it does not."""
        if len(self._recent) < 2:
            return math.inf
        return self._recent[-1][0] + self._max_silence_s()

    def _max_silence_s(self) -> float:
        first, last = self._recent[0][0], self._recent[-1][0]
        interval_s = (last - first) / (len(self._recent) - 1)
        return max(MIN_SILENCE_S, SILENCE_RATIO * interval_s)
