"""The lag: how much longer batches were on the way recently than on an idle machine.

It is the time in which a busy event loop of the gateway had other work to do. It is the same for
all variants and batch sizes, so it is added to the time of a batch, and it ends with the load that
caused it, so it is forgotten quickly.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from typing import Final

WINDOW: Final = 64
"""Maximum number of batches in the window."""

MAX_AGE_S: Final = 0.25
"""Age, in seconds, after which the lag of a batch does not count."""


class Lag:
    """The lags, in seconds, of the batches of the last `MAX_AGE_S`, at most `WINDOW`.

    The methods that return a lag return 0 if there was no batch.
    """

    def __init__(self) -> None:
        self._by_age: deque[tuple[float, float]] = deque()
        self._sorted: list[float] = []
        self._typical_s = 0.0

    def add(self, now: float, lag_s: float) -> None:
        """Record the lag of a batch; a negative one counts as 0."""
        self.expire(now)
        if len(self._by_age) == WINDOW:
            self._remove_oldest()
        lag_s = max(0.0, lag_s)
        self._by_age.append((now, lag_s))
        insort(self._sorted, lag_s)
        self._typical_s = self.quantile_s(0.5)

    def expire(self, now: float) -> bool:
        """Discard the batches that are too old; return whether there were any."""
        is_changed = False
        while self._by_age and now - self._by_age[0][0] > MAX_AGE_S:
            self._remove_oldest()
            is_changed = True
        if is_changed:
            self._typical_s = self.quantile_s(0.5)
        return is_changed

    def typical_s(self) -> float:
        """Return the median lag."""
        return self._typical_s

    @property
    def expires_at(self) -> float:
        """When `expire` discards the next batch; infinite if there is none."""
        return self._by_age[0][0] + MAX_AGE_S if self._by_age else math.inf

    def quantile_s(self, q: float) -> float:
        """Return the lag that a share `q` of the batches does not exceed."""
        values = self._sorted
        return values[int(q * len(values))] if values else 0.0

    def exceedance(self, lag_s: float) -> float:
        """Return the share of batches whose lag exceeds `lag_s`."""
        values = self._sorted
        return 1 - bisect_right(values, lag_s) / len(values) if values else 0.0

    def _remove_oldest(self) -> None:
        _, lag_s = self._by_age.popleft()
        del self._sorted[bisect_left(self._sorted, lag_s)]
