"""Durations of simulated batches, drawn from the latency quantiles of a report card."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Final

import numpy as np

from serving.routing.profile import LatencyQuantiles
from serving.routing.residuals import card_ratio

MAX_QUANTILE: Final = 0.9999
"""Quantiles above it, and below 1 minus it, are not extrapolated from the report card."""


class ReportCardTimes:
    """Batch durations of one variant.

    Quantiles are those of the report card at measured batch sizes. Between two sizes their
    logarithms are interpolated linearly; above the largest size they are proportional to the size.
    """

    def __init__(self, card: Mapping[int, LatencyQuantiles], link_s: float = 0.0) -> None:
        """`link_s` is added to every batch: the round trip to the host, in seconds."""
        self._sizes = sorted(card)
        self._card = card
        self._link_s = link_s
        self._latency_at = cache(self._interpolate)

    def quantile_s(self, size: int, u: float) -> float:
        """Return the duration of a batch of `size` samples at quantile `u`, in seconds."""
        latency = self._latency_at(size)
        q = min(max(u, 1 - MAX_QUANTILE), MAX_QUANTILE)
        return self._link_s + latency.p50_s * card_ratio(q, latency)

    def _interpolate(self, size: int) -> LatencyQuantiles:
        sizes, last = self._sizes, self._sizes[-1]
        if size >= last:
            return LatencyQuantiles(*(value * size / last for value in self._card[last]))
        columns = zip(*(self._card[each] for each in sizes), strict=True)
        return LatencyQuantiles(
            *(math.exp(np.interp(size, sizes, np.log(column))) for column in columns)
        )
