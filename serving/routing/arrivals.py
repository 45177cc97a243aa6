"""A record of recent arrivals: their rate, the gaps between them, and whether they continue.

All estimates are only as old as the record: it holds the arrivals of the last two seconds, or the
last few if fewer have arrived. An arrival after a long pause starts a new record.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from operator import sub
from typing import Final, NamedTuple

MAX_ARRIVALS: Final = 512
"""Maximum number of arrivals that are kept."""

RECENT_S: Final = 2.0
"""Age, in seconds, up to which arrivals are kept."""

KEPT_ARRIVALS: Final = 16
"""Number of arrivals that are kept even if they are older than `RECENT_S`."""

MAX_ARRIVAL_AGE_S: Final = 30.0
"""Age, in seconds, above which no arrival is kept."""

MIN_ARRIVALS: Final = 8
"""Smallest number of arrivals from which a rate is computed."""

MIN_SPAN_S: Final = 1e-6
"""Lower bound of time spans, in seconds. It prevents divisions by 0."""

MIN_PAUSE_S: Final = 1.0
"""Shortest pause, in seconds, after which an arrival starts a new record. Bursts with shorter
pauses are one load."""

PAUSE_RATIO: Final = 2.0
"""Silence, as a multiple of the longest gap of the record, after which the arrivals have ended."""


class Arrival(NamedTuple):
    """The arrival of one request."""

    at: float
    size: int
    """Number of samples."""
    left_s: float
    """Time until its deadline, infinite if it has none."""
    variants: tuple[str, ...]
    """Names of the variants that qualify."""


class ArrivalRecord:
    """The recent arrivals, oldest first. `len()` returns their number."""

    def __init__(self) -> None:
        self._arrivals: deque[Arrival] = deque()
        self._samples = 0
        self._longest_gap_s = 0.0

    def __len__(self) -> int:
        return len(self._arrivals)

    def add(self, arrival: Arrival) -> None:
        """Record an arrival."""
        arrivals, at = self._arrivals, arrival.at
        if arrivals:
            gap_s = at - arrivals[-1].at
            if gap_s > MIN_PAUSE_S and len(arrivals) > 1:
                self.update_longest_gap()
                if gap_s > PAUSE_RATIO * self._longest_gap_s:
                    self._clear()
            if len(arrivals) == MAX_ARRIVALS:
                self._discard_first()
        arrivals.append(arrival)
        self._samples += arrival.size
        if arrivals[0].at < at - RECENT_S:
            self.discard_old(at)

    def discard_old(self, now: float) -> None:
        """Discard the arrivals that are too old at `now`."""
        arrivals = self._arrivals
        while arrivals and (
            (len(arrivals) > KEPT_ARRIVALS and arrivals[0].at < now - RECENT_S)
            or arrivals[0].at < now - MAX_ARRIVAL_AGE_S
        ):
            self._discard_first()

    def replace_variants(self, replace: Callable[[tuple[str, ...]], tuple[str, ...]]) -> None:
        """Replace the qualifying variants of all recorded arrivals."""
        self._arrivals = deque(
            each._replace(variants=replace(each.variants)) for each in self._arrivals
        )

    def recent(self) -> list[Arrival]:
        """Return the recorded arrivals."""
        return list(self._arrivals)

    def update_longest_gap(self) -> None:
        """Recompute the longest gap, which `continuity` uses."""
        times = [each.at for each in self._arrivals]
        self._longest_gap_s = max(map(sub, times[1:], times), default=0.0)

    def silence_s(self, now: float) -> float:
        """Return the time since the last arrival; infinite if there was none."""
        return now - self._arrivals[-1].at if self._arrivals else math.inf

    def continuity(self, now: float) -> float:
        """Return to what degree the arrivals still continue, from 1 to 0.

        It is 1 up to a silence as long as the longest gap, 0 from `PAUSE_RATIO` times that, and
        linear in between. The gap is that of the last call of `update_longest_gap`.
        """
        silence_s, longest_s = self.silence_s(now), self._longest_gap_s
        if silence_s <= longest_s:
            return 1.0
        end_s = PAUSE_RATIO * longest_s
        return (end_s - silence_s) / (end_s - longest_s) if silence_s < end_s else 0.0

    def samples_per_s(self, now: float) -> float:
        """Return the rate of the arrivals, in samples per second; 0 if there are few."""
        if len(self._arrivals) < MIN_ARRIVALS:
            return 0.0
        first = self._arrivals[0]
        return (self._samples - first.size) / max(now - first.at, MIN_SPAN_S)

    def _discard_first(self) -> None:
        self._samples -= self._arrivals.popleft().size

    def _clear(self) -> None:
        self._arrivals.clear()
        self._samples, self._longest_gap_s = 0, 0.0
