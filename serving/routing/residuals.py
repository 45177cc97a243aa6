"""How much the times of like batches differ: ratios to the typical one, the last of them.

A window is too small to hold the one batch in a thousand that matters to a deadline, so beyond its
upper eighth the tail is taken to fall like a power, with Hill's estimate of how steeply
(Hill, "A simple general approach to inference about the tail of a distribution", 1975).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import deque
from typing import Final

from serving.routing.profile import LatencyQuantiles

WINDOW: Final = 64
SEEDS: Final = 16
"""As many made-up ratios stand in for what a report card says, until real ones take their place."""

TAIL: Final = 8
"""The upper part of the values, one in so many, that the tail is estimated from."""

LEAST_TAIL: Final = 0.002
"""Of the tail's index: even where all of the values are equal."""


class Residuals:
    """The last `WINDOW` ratios of a batch's time to the typical time of such batches."""

    __slots__ = ("_by_size", "_by_time", "_index", "_knee", "_share")

    def __init__(self, seed: LatencyQuantiles) -> None:
        """Start with what a report card says: its quantiles."""
        self._by_time = deque(card_ratio((i + 0.5) / SEEDS, seed) for i in range(SEEDS))
        self._by_size = sorted(self._by_time)
        self._fit()

    def add(self, ratio: float) -> None:
        """Take one more ratio in, for the oldest once the window is full."""
        if len(self._by_time) == WINDOW:
            oldest = self._by_time.popleft()
            del self._by_size[bisect_left(self._by_size, oldest)]
        self._by_time.append(ratio)
        insort(self._by_size, ratio)
        self._fit()

    def quantile(self, q: float) -> float:
        """Return the ratio that a share `q` of batches stays within."""
        if 1 - q < self._share:
            return self._knee * math.pow(self._share / (1 - q), self._index)
        return self._by_size[int(q * len(self._by_size))]

    def beyond(self, ratio: float) -> float:
        """Return the share of batches whose ratio is above this one."""
        if ratio > self._knee:
            return self._share * math.pow(self._knee / ratio, 1 / self._index)
        values = self._by_size
        return 1 - bisect_right(values, ratio) / len(values)

    def _fit(self) -> None:
        values = self._by_size
        above = len(values) // TAIL
        self._knee = knee = values[-above - 1]
        self._share = above / len(values)
        self._index = max(LEAST_TAIL, sum(math.log(v / knee) for v in values[-above:]) / above)


def card_ratio(u: float, card: LatencyQuantiles) -> float:
    """Return the ratio at quantile `u` of a card; below the median it is taken to fall as little.

    Between the card's quantiles, and beyond the last, it is exponential: linear in -log(1 - u).
    """
    p95, p99 = card.p95_s / card.p50_s, card.p99_s / card.p50_s
    if u < 0.5:
        return 1 / (1 + (card_ratio(1 - u, card) - 1) / 4)
    depth = -math.log(1 - u)
    median, high, highest = math.log(2), math.log(20), math.log(100)
    if u < 0.95:
        return 1 + (p95 - 1) * (depth - median) / (high - median)
    return p95 + (p99 - p95) * (depth - high) / (highest - high)
