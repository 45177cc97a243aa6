"""How long goodput takes to recover from a disturbance, and how many answers it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import Final

import numpy as np

from loadtests.steady.load import Floats, LoadRecord
from loadtests.steady.measurement import OK
from variants.catalog.record import Record

BIN_S: Final = 0.2
"""Width of the bins of goodput, in seconds: the resolution of the time to recover."""

RECOVERED: Final = 0.9
"""Share of the goodput before the disturbance from which on the service has recovered."""

WINDOW_S: Final = 1.0
"""Time over which goodput is averaged to tell whether it has recovered, in seconds. In single bins
it varies by a third even if nothing happens."""

CONFIDENCE: Final = 0.95
"""Confidence of the interval of a median."""


class Recovery(Record):
    """The effect of one disturbance."""

    before_per_s: float
    """Mean goodput before the disturbance."""
    lost: float
    """Answers in time that are missing from the start of the disturbance to the end of the
    observation, against the mean before it. Negative if there were more."""
    after_s: float | None
    """Time from the end of the disturbance to the recovery; None if it was not observed."""


def in_time_s(record: LoadRecord, deadline_ms: float) -> Floats:
    """Return the times of the answers in time, as `time.monotonic()`, ascending."""
    is_in_time = (record.http_status == OK) & (record.latency_s <= deadline_ms / 1e3)
    times: Floats = np.sort(record.ended_s[is_in_time])
    return times


def measure_recovery(
    answered_s: Floats, from_s: float, onset_s: float, end_s: float, until_s: float
) -> Recovery:
    """Return the effect of a disturbance from `onset_s` to `end_s`.

    `answered_s` are the times of the answers in time, from `from_s` to `until_s`. The service has
    recovered at the start of the first bin after the end from which on mean goodput over `WINDOW_S`
    is at least `RECOVERED` of its mean before.

    Raises ValueError if the times are not in order, or too close together for one interval.
    """
    bins = round(WINDOW_S / BIN_S)
    if not from_s < onset_s <= end_s or until_s - end_s < WINDOW_S:
        raise ValueError(
            f"the times must ascend, with {WINDOW_S:g} s after the end of the disturbance; got "
            f"{from_s:g}, {onset_s:g}, {end_s:g} and {until_s:g}"
        )
    before_per_s = _count(answered_s, from_s, onset_s) / (onset_s - from_s)
    expected = before_per_s * (until_s - onset_s)
    edges = end_s + BIN_S * np.arange(math.floor((until_s - end_s) / BIN_S + 1e-9) + 1)
    counts, _ = np.histogram(answered_s, edges)
    least = RECOVERED * before_per_s * WINDOW_S
    first = next(
        (k for k in range(len(counts) - bins + 1) if counts[k : k + bins].sum() >= least), None
    )
    return Recovery(
        before_per_s=before_per_s,
        lost=expected - _count(answered_s, onset_s, until_s),
        after_s=None if first is None else first * BIN_S,
    )


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median, and the ends of its interval of at least 95 %.

    The ends are order statistics (W. J. Conover, Practical Nonparametric Statistics, section 3.2).
    With fewer than 6 values they are the least and the greatest, which is less than 95 %.

    Raises ValueError if there are no values.
    """
    if not values:
        raise ValueError("there are no values")
    ordered = sorted(values)
    count, rank, outside = len(ordered), 0, 2 / 2 ** len(ordered)
    while True:
        # The probability that the median is outside, if the ends move inwards by one rank.
        outside += 2 * math.comb(count, rank + 1) / 2**count
        if outside > 1 - CONFIDENCE:
            return median(ordered), ordered[rank], ordered[count - 1 - rank]
        rank += 1


def _count(times_s: Floats, from_s: float, to_s: float) -> int:
    return int(((times_s >= from_s) & (times_s < to_s)).sum())
