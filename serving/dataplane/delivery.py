"""How long the answers of one transport take from the return of their batch until they are written.

Each transport has its own: rendering, queues and writing differ.
"""

from __future__ import annotations

from typing import Final

from serving.routing.lag import Lag

QUANTILE: Final = 0.75
"""Quantile of the recent times from the return of a batch to the answer that is set aside for a
request."""


class Delivery:
    """Recent deliveries; 0 after a silence of 0.25 s. Times are in seconds of one clock.

    Were they remembered, a pause of the process would refuse all later requests: it would count for
    each, and none would be answered and correct it.
    """

    def __init__(self) -> None:
        self._whole = Lag()
        """From the return of a batch until an answer is written."""
        self._writing = Lag()
        """From the return of an answer by the data plane until it is written."""

    def record_written(self, now: float, took_s: float) -> None:
        """Record how long it took to render and write an answer of the data plane."""
        self._writing.add(now, took_s)

    def record(self, now: float, took_s: float) -> None:
        """Record the time from the return of a batch until one of its answers will be written."""
        self._whole.add(now, took_s)

    def writing_s(self, now: float) -> float:
        """Return the usual time to render and write an answer."""
        self._writing.expire(now)
        return self._writing.typical_s()

    def reserve_s(self, now: float) -> float:
        """Return the time to set aside between the return of a batch and a deadline."""
        self._whole.expire(now)
        return max(self.writing_s(now), self._whole.quantile_s(QUANTILE))
