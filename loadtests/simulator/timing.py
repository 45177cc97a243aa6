"""How long a simulated batch takes: drawn from what a report card says of such batches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Final

import numpy as np

from serving.offer import Latency
from serving.spread import card_ratio

POINTS: Final = 400
"""Quantiles that means are taken over."""

WORST: Final = 0.9999
"""Beyond this quantile, and below one minus it, nothing was measured that would tell how bad, or
good, it can get."""


class CardTimes:
    """Times of one variant's batches: quantiles at measured sizes, their logarithms linear between."""

    def __init__(self, card: Mapping[int, Latency], link_s: float = 0.0) -> None:
        """`link_s` is added to every batch: the way to the host and back."""
        self._sizes = sorted(card)
        self._card = card
        self._link_s = link_s
        self._at = cache(self._interpolated)

    def draw_s(self, size: int, u: float) -> float:
        """Return the time of a batch of `size` samples at quantile `u`, in seconds."""
        latency = self._at(size)
        within = min(max(u, 1 - WORST), WORST)
        return self._link_s + latency.p50_s * card_ratio(within, latency)

    def mean_s(self, size: int) -> float:
        """Return the mean time of a batch of `size` samples."""
        return float(np.mean([self.draw_s(size, (i + 0.5) / POINTS) for i in range(POINTS)]))

    def low_s(self, size: int) -> float:
        """Return what hardly any batch of `size` samples is quicker than: the 1 % quantile."""
        return self.draw_s(size, 0.01)

    def within(self, size: int, time_s: float) -> float:
        """Return the probability that a batch of `size` samples takes no longer than `time_s`."""
        if time_s >= self.draw_s(size, WORST):
            return 1.0
        low, high = 0.0, WORST
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self.draw_s(size, middle) <= time_s else (low, middle)
        return low

    def _interpolated(self, size: int) -> Latency:
        sizes, last = self._sizes, self._sizes[-1]
        if size >= last:
            return Latency(*(value * size / last for value in self._card[last]))
        columns = zip(*(self._card[each] for each in sizes), strict=True)
        return Latency(*(math.exp(np.interp(size, sizes, np.log(column))) for column in columns))
