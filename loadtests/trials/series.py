"""Time series of a run: its requests, counted in windows of equal width.

A request belongs to the window of its arrival, whenever it is answered, so that the demand and the
outcomes of a window refer to the same requests.
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
    """Values by window, FP64 `[windows]`; NaN for the mean of an empty set."""

    starts_s: Floats
    width_s: float
    demand_per_s: Floats
    goodput_per_s: Floats
    """Answers on time per second."""
    accuracy: Floats
    """Mean over all answers, including late ones."""
    violations: Floats
    """Share of the requests that were not answered on time."""
    variant_shares: Floats
    """Share of each variant in the answers, `[variants, windows]`; 0 in windows without answers.

    Variants are in the order of `Outcomes.variants`.
    """
    batch_size: Floats
    """Mean number of samples in a batch."""


def series(outcomes: Outcomes, accuracy: Mapping[str, float], window_s: float) -> Series:
    """Count requests in windows of equal width, about `window_s` seconds.

    `accuracy` is by variant. Raises ValueError if `window_s` is not above 0.
    """
    workload = outcomes.workload
    window, starts_s = windows(workload.arrivals_s, workload.seconds, window_s)
    answered = outcomes.status == RequestStatus.ANSWERED
    on_time = outcomes.on_time
    by_window = _WindowSums(window, len(starts_s))
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
    """Return the index of the window of each time, and the starts of the windows.

    Times outside of all windows belong to the first or the last one. Raises ValueError if
    `window_s` is not above 0.
    """
    if not window_s > 0:
        raise ValueError(f"the width of windows must be above 0 seconds, got {window_s}")
    count = max(1, round(seconds / window_s))
    window: npt.NDArray[np.int64] = (times_s * (count / seconds)).astype(np.int64)
    starts_s: Floats = np.linspace(0, seconds, count, endpoint=False, dtype=np.float64)
    return np.clip(window, 0, count - 1), starts_s


def accuracies_of(variants: Sequence[str], accuracy: Mapping[str, float]) -> Floats:
    """Return the accuracies of these variants; raises ValueError if one is missing."""
    unknown = [name for name in variants if name not in accuracy]
    if unknown:
        raise ValueError(
            f"the accuracy of {', '.join(unknown)} is missing; there are {', '.join(accuracy)}"
        )
    return np.array([accuracy[name] for name in variants], np.float64)


class _WindowSums:
    """Sums weights of requests by window."""

    def __init__(self, window: npt.NDArray[np.int64], count: int) -> None:
        self._window = window
        self._count = count

    def __call__(self, weights: npt.NDArray[np.float64 | np.int64 | np.bool_]) -> Floats:
        counted = np.bincount(self._window, weights.astype(np.float64), self._count)
        return counted.astype(np.float64)  # integers if nothing arrived


def _ratio(part: Floats, whole: Floats) -> Floats:
    ratio = np.full(len(whole), np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio
