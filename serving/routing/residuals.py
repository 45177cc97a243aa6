"""The distribution of batch times around the typical time, from a window of recent ratios.

A window is too small to contain the one batch in a thousand that matters for a deadline. Therefore
the tail beyond the largest eighth of the ratios is extrapolated by a power law, with Hill's
estimate of its index (Hill, "A simple general approach to inference about the tail of a
distribution", 1975).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from typing import Final

from serving.routing.profile import LatencyQuantiles

WINDOW: Final = 64
"""Maximum number of ratios in the window."""

SEED_COUNT: Final = 16
"""Number of ratios that are derived from the report card until observations replace them."""

TAIL_DIVISOR: Final = 8
"""The tail is estimated from the largest 1 / `TAIL_DIVISOR` of the ratios."""

MIN_TAIL_INDEX: Final = 0.002
"""Lower bound of the tail index, for ratios that are all equal."""


class Residuals:
    """The last `WINDOW` ratios of a batch's time to the typical time of batches of its size."""

    __slots__ = ("_by_age", "_sorted", "_tail_index", "_tail_share", "_threshold")

    def __init__(self, seed: LatencyQuantiles) -> None:
        """Fill the window with `SEED_COUNT` ratios from the quantiles of a report card."""
        self._by_age = deque(card_ratio((i + 0.5) / SEED_COUNT, seed) for i in range(SEED_COUNT))
        self._sorted = sorted(self._by_age)
        self._fit()

    def add(self, ratio: float) -> None:
        """Add a ratio. It replaces the oldest one if the window is full."""
        if len(self._by_age) == WINDOW:
            oldest = self._by_age.popleft()
            del self._sorted[bisect_left(self._sorted, oldest)]
        self._by_age.append(ratio)
        insort(self._sorted, ratio)
        self._fit()

    def quantile(self, q: float) -> float:
        """Return the ratio that a share `q` of the batches does not exceed."""
        if 1 - q < self._tail_share:
            return self._threshold * math.pow(self._tail_share / (1 - q), self._tail_index)
        return self._sorted[int(q * len(self._sorted))]

    def exceedance(self, ratio: float) -> float:
        """Return the share of batches whose ratio exceeds `ratio`."""
        if ratio > self._threshold:
            return self._tail_share * math.pow(self._threshold / ratio, 1 / self._tail_index)
        values = self._sorted
        return 1 - bisect_right(values, ratio) / len(values)

    def _fit(self) -> None:
        values = self._sorted
        above = len(values) // TAIL_DIVISOR
        self._threshold = threshold = values[-above - 1]
        self._tail_share = above / len(values)
        self._tail_index = max(
            MIN_TAIL_INDEX, sum([math.log(v / threshold) for v in values[-above:]]) / above
        )


def card_ratio(u: float, card: LatencyQuantiles) -> float:
    """Return the ratio to the median at quantile `u` of a report card.

    Between the quantiles of the card and beyond the last one, the distribution is assumed to be
    exponential: linear in -log(1 - u). Below the median, the ratio falls a quarter as
    fast as it rises above.
    """
    p95, p99 = card.p95_s / card.p50_s, card.p99_s / card.p50_s
    if u < 0.5:
        return 1 / (1 + (card_ratio(1 - u, card) - 1) / 4)
    depth = -math.log(1 - u)
    median, high, highest = math.log(2), math.log(20), math.log(100)
    if u < 0.95:
        return 1 + (p95 - 1) * (depth - median) / (high - median)
    return p95 + (p99 - p95) * (depth - high) / (highest - high)
