"""The forecast: how many future requests miss their deadlines while a core is occupied.

A batch cannot be interrupted, so requests that arrive while it runs have to wait. The forecast
replays recent arrivals (`serving/routing/replay.py`). Like the rate and the load, it holds only as
long as requests arrive: each is a function of the time since the last arrival.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from serving.routing.arrivals import MIN_ARRIVALS, MIN_SPAN_S, Arrival, ArrivalRecord
from serving.routing.replay import WINDOW_ARRIVALS, Replay, no_misses

DRAIN_SIZES: Final = (1, 2, 4, 8, 16, 32, WINDOW_ARRIVALS)
"""Numbers of samples for which drain times are computed; times in between are interpolated."""

REFRESH_S: Final = 0.1
"""Minimum time between two refreshes, in seconds. A refresh takes about a millisecond."""

SLACK_QUANTILE: Final = 0.1
"""`p10_slack_s` is this quantile of the times that arrivals allow."""

DrainTime: TypeAlias = Callable[[int], float]
"""Returns the time, in seconds, in which the fastest variant serves a number of samples in
successive batches; 0 if no variant has a live replica."""


class Forecast:
    """Records arrivals, and predicts from them what occupying a core costs.

    Only admitted requests with a deadline can miss it. The rate and the load count the refused ones
    too, because the admitted ones never exceed for long what the service can do: a policy could not
    recognize an overload by them.
    """

    def __init__(self) -> None:
        self._offered = ArrivalRecord()
        self._admitted = ArrivalRecord()
        """The admitted requests with a deadline."""
        self._replay: Replay | None = None
        self._p10_slack_s = math.inf
        self._offered_load = 0.0
        self._refreshed_at = -math.inf
        self._has_new_arrivals = False
        self._refreshed_arrivals = 0
        """Number of arrivals at the last refresh."""

    def record_offered(self, arrival: Arrival) -> None:
        """Record a request, whether it is admitted or refused."""
        self._offered.add(arrival)
        self._has_new_arrivals = True

    def record_admitted(self, arrival: Arrival) -> None:
        """Record that a request is admitted."""
        if arrival.left_s < math.inf:
            self._admitted.add(arrival)

    def replace_variants(self, successors: Mapping[str, str | None]) -> None:
        """Let the successor of a removed variant qualify in its place; None if it has none.

        Future requests are expected to be like the recorded ones, except for the variants.
        """

        @cache
        def replace(variants: tuple[str, ...]) -> tuple[str, ...]:
            names = (successors.get(name, name) for name in variants)
            return tuple(dict.fromkeys(name for name in names if name is not None))

        for record in (self._offered, self._admitted):
            record.replace_variants(replace)

    def arrivals_per_s(self, now: float) -> float:
        """Return the rate of recent requests in samples per second; 0 if there are few."""
        return self._offered.samples_per_s(now) * self._offered.continuity(now)

    def offered_load(self, now: float) -> float:
        """Return recent requests with deadlines as a share of what all cores can serve.

        The cores serve each with its fastest variant.
        """
        return self._offered_load * self._offered.continuity(now)

    def p10_slack_s(self, now: float) -> float:
        """Return the 10th percentile of the time, in seconds, that recent requests allow.

        It is infinite if no requests with a deadline arrive.
        """
        return self._p10_slack_s if self._admitted.continuity(now) else math.inf

    def expected_misses(self, now: float) -> Callable[[float], float]:
        """Return a function that predicts how many requests are late if a core is occupied.

        Its argument is the time from `now` on, in seconds, for which the core is occupied.
        """
        if self._replay is None:
            return no_misses
        return self._replay.expected_misses(self._admitted.silence_s(now))

    def is_refresh_due(self, now: float) -> bool:
        """Return whether it is time to call `refresh`."""
        if now - self._refreshed_at >= REFRESH_S:
            return self._has_new_arrivals
        # As long as there are few arrivals, refresh whenever their number has doubled.
        return len(self._offered) >= max(MIN_ARRIVALS, 2 * self._refreshed_arrivals)

    def refresh(
        self, now: float, drain_time: Callable[[tuple[str, ...]], DrainTime], cores: float
    ) -> None:
        """Recompute the forecast from the recorded arrivals.

        `drain_time` returns, for the variants that qualify, the function that gives the time in
        which one core serves a number of samples. `cores` is the number of batches that run at a
        time.
        """
        self._refreshed_at, self._has_new_arrivals = now, False
        for record in (self._offered, self._admitted):
            record.discard_old(now)
            record.update_longest_gap()
        self._refreshed_arrivals = len(self._offered)
        self._replay, self._offered_load, self._p10_slack_s = None, 0.0, math.inf
        arrivals = self._admitted.recent()
        if len(arrivals) < 2:
            return
        _, sizes, lefts_s, variants = zip(*arrivals, strict=True)
        row_of = {names: row for row, names in enumerate(dict.fromkeys(variants))}
        drain_s = np.empty((len(row_of), WINDOW_ARRIVALS))
        samples = np.arange(1, WINDOW_ARRIVALS + 1)
        for names, row in row_of.items():
            drain_s[row] = np.interp(samples, DRAIN_SIZES, [*map(drain_time(names), DRAIN_SIZES)])
        rows = [row_of[names] for names in variants]
        left_s = np.array(lefts_s)
        self._p10_slack_s = float(np.quantile(left_s, SLACK_QUANTILE))
        size = np.array(sizes)
        work_s = float((_seconds_per_sample(drain_s, left_s, rows) * size).sum() / size.sum())
        self._offered_load = work_s * _deadline_samples_per_s(self._offered) / max(1.0, cores)
        self._replay = Replay(arrivals, rows, drain_s / max(1.0, cores))


def _deadline_samples_per_s(record: ArrivalRecord) -> float:
    """Return the rate of the samples that have a deadline."""
    arrivals = record.recent()
    samples = sum([each.size for each in arrivals[1:] if each.left_s < math.inf])
    return samples / max(MIN_SPAN_S, arrivals[-1].at - arrivals[0].at)


def _seconds_per_sample(
    drain_s: npt.NDArray[np.float64], left_s: npt.NDArray[np.float64], rows: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Return by arrival the time per sample in batches that take half of the allowed time.

    The other half is for waiting (Nexus, SOSP'19).
    """
    sizes = np.arange(1, drain_s.shape[1] + 1)
    fitting = [np.searchsorted(row, left_s / 2, side="right") for row in drain_s]
    size = np.maximum(1, np.stack(fitting)[rows, np.arange(len(rows))])
    each_s: npt.NDArray[np.float64] = drain_s[rows, size - 1] / sizes[size - 1]
    return each_s
