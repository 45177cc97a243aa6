"""How long a simulated batch takes: drawn from what a report card says of such batches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Final

import numpy as np

from serving.routing.profile import LatencyQuantiles
from serving.routing.residuals import card_ratio

WORST: Final = 0.9999
"""Beyond this quantile, and below one minus it, nothing was measured that would tell how bad, or
good, it can get."""


class ReportCardTimes:
    """Times of one variant: quantiles at measured batch sizes, logarithms linear in between."""

    def __init__(self, card: Mapping[int, LatencyQuantiles], link_s: float = 0.0) -> None:
        """`link_s` is added to every batch: the way to the host and back."""
        self._sizes = sorted(card)
        self._card = card
        self._link_s = link_s
        self._at = cache(self._interpolated)

    def quantile_s(self, size: int, u: float) -> float:
        """Return the time of a batch of `size` samples at quantile `u`, in seconds."""
        latency = self._at(size)
        within = min(max(u, 1 - WORST), WORST)
        return self._link_s + latency.p50_s * card_ratio(within, latency)

    def _interpolated(self, size: int) -> LatencyQuantiles:
        sizes, last = self._sizes, self._sizes[-1]
        if size >= last:
            return LatencyQuantiles(*(value * size / last for value in self._card[last]))
        columns = zip(*(self._card[each] for each in sizes), strict=True)
        return LatencyQuantiles(
            *(math.exp(np.interp(size, sizes, np.log(column))) for column in columns)
        )
