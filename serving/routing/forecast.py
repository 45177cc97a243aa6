"""The forecast: how many future requests miss their deadlines while a core is occupied.

A batch cannot be interrupted, so requests that arrive while it runs have to wait.
`expected_misses(held_s)` replays windows of recent arrivals against a core that is free only after
`held_s` and then serves each request with its fastest variant. Each window begins with an arrival,
because the next arrival is most likely after one. No model of bursts is needed this way.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

MAX_ARRIVALS: Final = 512
"""Number of arrivals that are kept."""

MIN_ARRIVALS: Final = 8
"""Smallest number of arrivals from which a rate is computed."""

MIN_SPAN_S: Final = 1e-6
"""Lower bound of time spans and occupation times, in seconds. It prevents divisions by 0."""

MAX_WINDOWS: Final = 32
"""Maximum number of windows that are replayed."""

WINDOW_ARRIVALS: Final = 64
"""Maximum number of arrivals in a window, and of samples that are waiting in it."""

DRAIN_SIZES: Final = (1, 2, 4, 8, 16, 32, WINDOW_ARRIVALS)
"""Numbers of samples for which drain times are computed; times in between are interpolated."""

REFRESH_S: Final = 0.1
"""Minimum time between two refreshes, in seconds. A refresh takes about half a millisecond."""

HOLD_MARGIN: Final = 4.0
"""Occupation times range from 1 / `HOLD_MARGIN` of the shortest drain time to `HOLD_MARGIN` times
the longest deadline."""

SLACK_QUANTILE: Final = 0.1
"""`p10_slack_s` is this quantile of the times that arrivals allow."""

HOLD_COUNT: Final = 10
"""Number of occupation times for which misses are computed; misses in between are interpolated."""

MAX_ARRIVAL_AGE_S: Final = 30.0
"""Maximum age, in seconds, of the arrivals that are replayed."""

MAX_HOLD_RATIO: Final = 32
"""Upper bound of the occupation times, as a multiple of the slowest drain time. It applies if
deadlines are far away."""

DrainTime: TypeAlias = Callable[[int], float]
"""Returns the time, in seconds, in which the fastest variant serves a number of samples in
successive batches; 0 if no variant has a live replica."""


class Arrival(NamedTuple):
    """The arrival of one request."""

    at: float
    size: int
    """Number of samples."""
    left_s: float
    """Time until its deadline, infinite if it has none."""
    variants: tuple[str, ...]
    """Names of the variants that qualify."""


class Forecast:
    """Records arrivals, and predicts from them what occupying a core costs."""

    def __init__(self) -> None:
        self._arrivals: deque[Arrival] = deque(maxlen=MAX_ARRIVALS)
        self._samples = 0
        self._holds_s: list[float] = [0.0]
        self._expected_misses: list[float] = [0.0]
        self.p10_slack_s = math.inf
        """10th percentile of the time, in seconds, that recent arrivals allow."""
        self.offered_load = 0.0
        """Recent arrivals as a share of what all cores can serve with the fastest variant of
        each."""
        self._refreshed_at = -math.inf
        self._has_new_arrivals = False
        self._refreshed_arrivals = 0
        """Number of arrivals at the last refresh."""

    def record_arrival(
        self, now: float, size: int, left_s: float, variants: tuple[str, ...]
    ) -> None:
        """Record a request of `size` samples, due in `left_s`, for which `variants` qualify."""
        if len(self._arrivals) == MAX_ARRIVALS:
            self._samples -= self._arrivals[0].size
        self._arrivals.append(Arrival(now, size, left_s, variants))
        self._samples += size
        self._has_new_arrivals = True

    def arrivals_per_s(self, now: float) -> float:
        """Return the rate of the recorded arrivals in samples per second; 0 if there are few."""
        if len(self._arrivals) < MIN_ARRIVALS:
            return 0.0
        first = self._arrivals[0]
        return (self._samples - first.size) / max(now - first.at, MIN_SPAN_S)

    def is_refresh_due(self, now: float) -> bool:
        """Return whether it is time to call `refresh`."""
        if now - self._refreshed_at >= REFRESH_S:
            return self._has_new_arrivals
        # As long as there are few arrivals, refresh whenever their number has doubled.
        return len(self._arrivals) >= max(MIN_ARRIVALS, 2 * self._refreshed_arrivals)

    def refresh(
        self, now: float, drain_time: Callable[[tuple[str, ...]], DrainTime], cores: float
    ) -> None:
        """Recompute the forecast from the recorded arrivals.

        `drain_time` returns, for the variants that qualify, the function that gives the time in
        which one core serves a number of samples. `cores` is the number of batches that run at a
        time.
        """
        self._refreshed_at, self._has_new_arrivals = now, False
        self._refreshed_arrivals = len(self._arrivals)
        arrivals = [each for each in self._arrivals if each.at > now - MAX_ARRIVAL_AGE_S]
        if len(arrivals) < 2 or all(math.isinf(each.left_s) for each in arrivals):
            self._holds_s, self._expected_misses = [0.0], [0.0]
            self.offered_load, self.p10_slack_s = 0.0, math.inf
            return
        unique = dict.fromkeys(each.variants for each in arrivals)
        rows = {variants: row for row, variants in enumerate(unique)}
        drain_s = np.empty((len(rows), WINDOW_ARRIVALS))
        sizes = np.arange(1, WINDOW_ARRIVALS + 1)
        for variants, row in rows.items():
            known_s = list(map(drain_time(variants), DRAIN_SIZES))
            drain_s[row] = np.interp(sizes, DRAIN_SIZES, known_s)
        at = np.array([each.at for each in arrivals])
        size = np.array([each.size for each in arrivals])
        left_s = np.array([each.left_s for each in arrivals])
        row_of = np.array([rows[each.variants] for each in arrivals])
        finite = left_s[np.isfinite(left_s)]
        self.p10_slack_s = float(np.quantile(finite, SLACK_QUANTILE))
        self._holds_s = _holds_s(drain_s, float(finite.max()))
        each_s = _seconds_per_sample(drain_s, left_s, row_of)
        span_s = max(MIN_SPAN_S, at[-1] - at[0])
        self.offered_load = float((each_s * size)[1:].sum() / span_s) / max(1.0, cores)
        self._expected_misses = _expected_misses(
            at, size, left_s, row_of, drain_s / max(1.0, cores), self._holds_s
        )

    def expected_misses(self, held_s: float) -> float:
        """Return how many requests are expected to be late if a core is occupied for `held_s`."""
        holds_s, misses = self._holds_s, self._expected_misses
        place = bisect_left(holds_s, held_s)
        if place == 0:
            return misses[0] * held_s / holds_s[0] if holds_s[0] else 0.0
        if place == len(holds_s):
            return misses[-1] * held_s / holds_s[-1] if holds_s[-1] else 0.0
        low, high = holds_s[place - 1], holds_s[place]
        return misses[place - 1] + (misses[place] - misses[place - 1]) * (held_s - low) / (
            high - low
        )


def _holds_s(drain_s: npt.NDArray[np.float64], farthest_s: float) -> list[float]:
    """Return the occupation times for which misses are computed, in ascending order.

    `drain_s` has a row for each set of variants and a column for each number of samples from 1;
    `farthest_s` is the longest time that an arrival allows.
    """
    live_s = drain_s[drain_s[:, 0] > 0]
    if not live_s.size:
        return [0.0]
    longest_s = max(0.0, min(HOLD_MARGIN * farthest_s, MAX_HOLD_RATIO * float(live_s.max())))
    shortest_s = min(float(live_s.min()), longest_s) / HOLD_MARGIN
    holds_s: list[float] = np.geomspace(
        MIN_SPAN_S + shortest_s, 2 * MIN_SPAN_S + longest_s, HOLD_COUNT
    ).tolist()
    return holds_s


def _seconds_per_sample(
    drain_s: npt.NDArray[np.float64],
    left_s: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Return by arrival the time per sample in batches that take half of the allowed time.

    The other half is for waiting (Nexus, SOSP'19).
    """
    sizes = np.arange(1, drain_s.shape[1] + 1)
    fitting = [np.searchsorted(row, left_s / 2, side="right") for row in drain_s]
    size = np.maximum(1, np.stack(fitting)[rows, np.arange(len(rows))])
    each_s: npt.NDArray[np.float64] = drain_s[rows, size - 1] / sizes[size - 1]
    return each_s


def _expected_misses(
    at: npt.NDArray[np.float64],
    size: npt.NDArray[np.int64],
    left_s: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64],
    drain_s: npt.NDArray[np.float64],
    holds_s: Sequence[float],
) -> list[float]:
    """Return by occupation time how many more requests are late than with a free core.

    `at`, `size`, `left_s` and `rows` have one element for each arrival; `rows` are row numbers of
    `drain_s`.
    """
    ahead = min(WINDOW_ARRIVALS, len(at) - 1)
    last = len(at) - ahead
    starts = np.unique(np.linspace(0, last - 1, MAX_WINDOWS).astype(np.int64))
    window = starts[:, None] + np.arange(1, ahead + 1)
    offset = at[window] - at[starts][:, None]
    samples = np.minimum(np.cumsum(size[window], axis=1), WINDOW_ARRIVALS) - 1
    needed = drain_s[rows[window], samples]
    alone = drain_s[rows[window], np.minimum(size[window], WINDOW_ARRIVALS) - 1]
    due = offset + left_s[window]

    def late(held_s: float) -> float:
        # Requests that arrive while the core is occupied are served together afterwards, later
        # ones after them.
        finish = np.maximum(held_s + needed, offset + alone)
        return float(np.count_nonzero(finish > due)) / len(starts)

    free = late(0.0)
    misses = [max(0.0, late(held_s) - free) for held_s in holds_s]
    for place in range(1, len(misses)):
        # A window ends but arrivals do not, so misses grow at least as fast as the time.
        least = misses[place - 1] * holds_s[place] / holds_s[place - 1]
        misses[place] = max(misses[place], least)
    return misses
