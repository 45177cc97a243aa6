"""How cheap and how likely a request can be at best: what `bound` adds up.

times of batches ─▶ chance to be on time, least work for it;   windows ─▶ batch that it may share
"""

from __future__ import annotations

from typing import Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
IntArray: TypeAlias = npt.NDArray[np.int64]

SLACK_S: Final = 1e-9
"""More time for every request, so that no rounding of sums of seconds makes a bound too low."""

MIN_SHARE: Final = 2.0**-20
"""Chances below it are not counted: a start that leaves no better one is taken for no start."""

_SHARES: Final[FloatArray] = np.concatenate(
    [[MIN_SHARE], np.arange(1, 64) / 128, 1 - np.geomspace(2**-1, 2**-16, 180)]
)


class BatchTimes(Protocol):
    """How long a batch of one variant runs that has a core to itself."""

    def quantile_s(self, size: int, u: float) -> float:
        """Return the seconds that a share `u` of batches of `size` samples stays within."""


class MinimumWork:
    """Of one variant, by the number of samples in a batch: lower ends of what a batch takes."""

    def __init__(self, times: BatchTimes, max_batch: int) -> None:
        self.max_batch = max_batch
        self._times = times
        rows = [[times.quantile_s(size, u) for u in _SHARES] for size in range(1, max_batch + 1)]
        # a measured time may fall where the batch grows, and a policy may pad a batch
        self._quantiles_s = np.minimum.accumulate(np.array(rows)[::-1])[::-1]

    @property
    def shortest_s(self) -> FloatArray:
        """By batch size, from 1: what no batch of so many samples or more falls below."""
        return self._quantiles_s[:, 0]

    def success_probabilities(self, time_s: float) -> FloatArray:
        """Return by batch size, from 1, the chance of so many samples or more to be in `time_s`."""
        single = [self._chance(size, time_s) for size in range(1, self.max_batch + 1)]
        return np.maximum.accumulate(np.array(single)[::-1])[::-1]

    def per_sample_s(self, time_s: float) -> FloatArray:
        """Return by batch size, from 1, the least work of a sample for a chance of 1 to be in time.

        In core-seconds that are spent within `time_s`; infinite where no batch is so quick. A batch
        with time t left works min(D, t) and succeeds with P(D <= t), so no start, early or late,
        does better than the smallest E[min(D, t)] / P(D <= t) of all t up to `time_s`: the inverse
        of the Gittins index of a job of unknown length (Gittins, Glazebrook and Weber, Multi-armed
        Bandit Allocation Indices, 2011). Between two quantiles the expected work is taken at the
        lower, the chance at the upper one.
        """
        lower = self._quantiles_s
        steps = np.diff(_SHARES, append=1.0)
        worked_s = np.cumsum(lower * steps, axis=1) + lower * (1 - _SHARES - steps)
        likely = np.minimum(_SHARES + steps, self.success_probabilities(time_s)[:, None])
        ratios = np.full(lower.shape, np.inf)
        np.divide(worked_s, likely, out=ratios, where=lower <= time_s)
        return np.asarray(ratios.min(axis=1) / np.arange(1, self.max_batch + 1))

    def _chance(self, size: int, time_s: float) -> float:
        """Bisect for the chance; it is too high by `MIN_SHARE` at most."""
        low, high = MIN_SHARE, 1.0
        if self._times.quantile_s(size, low) > time_s:
            return 0.0
        if self._times.quantile_s(size, 1 - MIN_SHARE) <= time_s:
            return 1.0
        while high - low > MIN_SHARE:
            middle = (low + high) / 2
            if self._times.quantile_s(size, middle) <= time_s:
                low = middle
            else:
                high = middle
        return high


def largest_batches(
    arrivals_s: FloatArray, times_s: FloatArray, sizes: IntArray, shortest_s: FloatArray
) -> IntArray:
    """Return by request the most samples of a batch in which it may be on time; 0 for none.

    A batch of b samples starts at one moment that at least b samples have in common between their
    arrival and the last moment from which `shortest_s[b - 1]` seconds are in time. Requests in
    order of arrival, `times_s` finite.
    """
    largest = np.zeros(len(arrivals_s), np.int64)
    for batch, shortest in enumerate(shortest_s, start=1):
        able = np.flatnonzero((largest == batch - 1) & (times_s >= shortest))
        largest[able[_meets(arrivals_s[able], (times_s - shortest)[able], sizes[able], batch)]] = (
            batch
        )
    return largest


def _meets(starts_s: FloatArray, spans_s: FloatArray, sizes: IntArray, samples: int) -> BoolArray:
    """Return whether a request's span has a moment that spans of so many samples have in common."""
    count = len(starts_s)
    moments = np.concatenate([starts_s, starts_s + spans_s])
    order = np.argsort(moments, kind="stable")  # at the same moment starts come first
    changes = np.concatenate([sizes, -sizes])[order]
    place = np.empty(2 * count, np.int64)
    place[order] = np.arange(2 * count)
    enough = np.where(np.cumsum(changes) >= samples, np.arange(2 * count), 2 * count)
    next_enough = np.minimum.accumulate(enough[::-1])[::-1]
    return np.asarray(next_enough[place[:count]] < place[count:])
