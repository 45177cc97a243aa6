"""How a trial went over time: its requests, counted in windows of equal width.

A request belongs to the window that it arrived in, whenever its answer came: so what a window
demanded and what became of it are about the same requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from loadtests.trials.outcomes import Outcomes, RequestStatus

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Series:
    """By window, FP64 `[windows]`; NaN where there is nothing to take a mean of."""

    starts_s: Floats
    width_s: float
    demand_per_s: Floats
    goodput_per_s: Floats
    """Answers on time."""
    accuracy: Floats
    """Mean over what was answered, in time or late."""
    violations: Floats
    """Share of the requests that got no answer in time."""
    variant_shares: Floats
    """`[variants, windows]`: who answered, of what was answered; a column of 0 where nothing was.
    In the order of `Outcomes.variants`."""
    batch_size: Floats
    """Mean samples in a batch."""


def series(outcomes: Outcomes, accuracy: Mapping[str, float], window_s: float) -> Series:
    """Count by windows of about `window_s` seconds: as many as come nearest, all equally wide.

    `accuracy` is by variant. Raises `ValueError` unless `window_s` is above 0.
    """
    workload = outcomes.workload
    place, starts_s = windows(workload.arrivals_s, workload.seconds, window_s)
    answered = outcomes.status == RequestStatus.ANSWERED
    on_time = outcomes.on_time
    by_window = _WindowSums(place, len(starts_s))
    width_s = workload.seconds / len(starts_s)
    demand = by_window(np.ones(len(workload)))
    answers = by_window(answered)
    by_variant = np.array(
        [by_window(answered & (outcomes.variant == n)) for n in range(len(outcomes.variants))]
    )
    values = accuracies_of(outcomes.variants, accuracy)
    is_batched = answered & (outcomes.batch_size > 0)
    sizes = np.where(is_batched, workload.sizes, 0)
    return Series(
        starts_s=starts_s,
        width_s=width_s,
        demand_per_s=demand / width_s,
        goodput_per_s=by_window(on_time) / width_s,
        accuracy=_ratio(values @ by_variant, answers),
        violations=_ratio(by_window(~on_time), demand),
        variant_shares=by_variant / np.maximum(1, answers),
        batch_size=_ratio(
            by_window(sizes), by_window(sizes / np.where(is_batched, outcomes.batch_size, 1))
        ),
    )


def windows(
    times_s: Floats, seconds: float, window_s: float
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return the window of each time, and where each window starts.

    Times beyond the ends belong to the first and the last window. Raises `ValueError` unless
    `window_s` is above 0.
    """
    if not window_s > 0:
        raise ValueError(f"a window must be longer than 0 seconds, got {window_s}")
    count = max(1, round(seconds / window_s))
    place: npt.NDArray[np.int64] = (times_s * (count / seconds)).astype(np.int64)
    starts_s: Floats = np.linspace(0, seconds, count, endpoint=False, dtype=np.float64)
    return np.clip(place, 0, count - 1), starts_s


def accuracies_of(variants: Sequence[str], accuracy: Mapping[str, float]) -> Floats:
    """Return the accuracies of these variants; raises `ValueError` where one is not given."""
    unknown = [name for name in variants if name not in accuracy]
    if unknown:
        raise ValueError(
            f"the accuracy of {', '.join(unknown)} is not known; given: {', '.join(accuracy)}"
        )
    return np.array([accuracy[name] for name in variants], np.float64)


class _WindowSums:
    def __init__(self, place: npt.NDArray[np.int64], count: int) -> None:
        self._place = place
        self._count = count

    def __call__(self, weights: npt.NDArray[np.float64 | np.int64 | np.bool_]) -> Floats:
        counted = np.bincount(self._place, weights.astype(np.float64), self._count)
        return counted.astype(np.float64)  # it is already, unless nothing arrived


def _ratio(part: Floats, whole: Floats) -> Floats:
    ratio = np.full(len(whole), np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio
