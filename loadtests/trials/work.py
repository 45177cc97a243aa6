"""Bounds for single requests, which `bound` combines: success probability, work, batch size.

batch times ─▶ probability to be on time, minimum work;   time windows ─▶ largest possible batch
"""

from __future__ import annotations

from typing import Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
IntArray: TypeAlias = npt.NDArray[np.int64]

SLACK_S: Final = 1e-9
"""Time added to every deadline, so that rounding of seconds does not make a bound too low."""

MIN_SHARE: Final = 2.0**-20
"""Resolution of probabilities; lower ones count as 0."""

_SHARES: Final[FloatArray] = np.concatenate(
    [[MIN_SHARE], np.arange(1, 64) / 128, 1 - np.geomspace(2**-1, 2**-16, 180)]
)


class BatchTimes(Protocol):
    """Durations of the batches of one variant alone on a core."""

    def quantile_s(self, size: int, u: float) -> float:
        """Return the duration of a batch of `size` samples at quantile `u`, in seconds."""


class MinimumWork:
    """Lower bounds of the work of one variant, by number of samples in a batch."""

    def __init__(self, times: BatchTimes, max_batch: int) -> None:
        self.max_batch = max_batch
        self._times = times
        rows = [[times.quantile_s(size, u) for u in _SHARES] for size in range(1, max_batch + 1)]
        # measured times may fall as the size grows, and a policy may pad a batch
        self._quantiles_s = np.minimum.accumulate(np.array(rows)[::-1])[::-1]

    @property
    def shortest_s(self) -> FloatArray:
        """Shortest duration, by batch size from 1, of a batch of this size or larger."""
        return self._quantiles_s[:, 0]

    def success_probabilities(self, time_s: float) -> FloatArray:
        """Return the probability by size, from 1, that such a batch or a larger one is in time.

        That is, that its duration is at most `time_s`.
        """
        single = [self._probability(size, time_s) for size in range(1, self.max_batch + 1)]
        return np.maximum.accumulate(np.array(single)[::-1])[::-1]

    def per_sample_s(self, time_s: float) -> FloatArray:
        """Return the minimum work per sample and success, by batch size from 1.

        It is in core-seconds spent within `time_s`; infinite if no batch is that fast. A batch of
        duration D with time t left works min(D, t) and succeeds with P(D <= t). So no start, early
        or late, needs less than the minimum of E[min(D, t)] / P(D <= t) over all t up to `time_s`:
        the inverse of the Gittins index of a job of unknown length (Gittins, Glazebrook and Weber,
        Multi-armed Bandit Allocation Indices, 2011). Between two quantiles the expected work is
        that of the lower one, the probability that of the upper one.
        """
        lower = self._quantiles_s
        steps = np.diff(_SHARES, append=1.0)
        worked_s = np.cumsum(lower * steps, axis=1) + lower * (1 - _SHARES - steps)
        probability = np.minimum(_SHARES + steps, self.success_probabilities(time_s)[:, None])
        ratios = np.full(lower.shape, np.inf)
        np.divide(worked_s, probability, out=ratios, where=lower <= time_s)
        return np.asarray(ratios.min(axis=1) / np.arange(1, self.max_batch + 1))

    def _probability(self, size: int, time_s: float) -> float:
        """Find the probability by bisection; it is too high by at most `MIN_SHARE`."""
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
    """Return by request the size of the largest batch in which it can be on time; 0 for none.

    The start of a batch of b samples must be, for at least b samples, between their arrival and
    their latest start, which is `shortest_s[b - 1]` seconds before the deadline. Requests are in
    order of arrival; `times_s` are finite relative deadlines.
    """
    largest = np.zeros(len(arrivals_s), np.int64)
    for batch, shortest in enumerate(shortest_s, start=1):
        feasible = np.flatnonzero((largest == batch - 1) & (times_s >= shortest))
        largest[
            feasible[
                _have_common_start(
                    arrivals_s[feasible], (times_s - shortest)[feasible], sizes[feasible], batch
                )
            ]
        ] = batch
    return largest


def _have_common_start(
    starts_s: FloatArray, spans_s: FloatArray, sizes: IntArray, samples: int
) -> BoolArray:
    """Return whether `samples` samples have a common time within the span of each request."""
    count = len(starts_s)
    moments = np.concatenate([starts_s, starts_s + spans_s])
    order = np.argsort(moments, kind="stable")  # at equal times, starts come first
    changes = np.concatenate([sizes, -sizes])[order]
    position = np.empty(2 * count, np.int64)
    position[order] = np.arange(2 * count)
    enough = np.where(np.cumsum(changes) >= samples, np.arange(2 * count), 2 * count)
    next_enough = np.minimum.accumulate(enough[::-1])[::-1]
    return np.asarray(next_enough[position[:count]] < position[count:])
