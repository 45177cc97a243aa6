"""Calibration of latency predictions: the share of batches within their 95 % prediction.

Batches ─▶ calibration ─▶ Calibration: overall, by variant, over time
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from loadtests.trials.outcomes import Batches
from loadtests.trials.series import windows
from variants.catalog.catalog import Interval
from variants.catalog.record import Record
from variants.measurement.evaluation import wilson_interval

NOMINAL: Final = 0.95
"""Nominal share of batches within their prediction."""

WINDOW_S: Final = 1.0
"""Default width of a window, in seconds."""


class Coverage(Record):
    """Comparison of batches with their predictions."""

    batches: int = Field(ge=1)
    within: Interval
    """Share of batches that took no longer than predicted, with Wilson's 95 % interval.

    The interval assumes independent batches; it is too narrow if slow batches are clustered.
    """
    median_ratio: float
    """Median of the ratio of actual to predicted time."""
    p95_ratio: float
    """95th percentile of this ratio: 1 if the predictions are calibrated."""


class Window(Record):
    """Batches sent in the window that starts at `start_s`."""

    start_s: float
    coverage: Coverage


class Calibration(Record):
    """Calibration of the predictions of a latency model overall, by variant and over time."""

    overall: Coverage
    variants: Mapping[str, Coverage]
    """Coverage by variant, for variants with batches."""
    windows: tuple[Window, ...]
    """Coverage by window, for windows with batches."""


def calibration(
    batches: Batches, variants: Sequence[str], seconds: float, *, window_s: float = WINDOW_S
) -> Calibration | None:
    """Compare all batches with their predictions; return None if there are no batches.

    `batches.variant` holds indices into `variants`; `seconds` is the duration of the workload.
    Raises ValueError if `window_s` is not above 0.
    """
    if not len(batches.variant):
        return None
    window, starts_s = windows(batches.sent_s, seconds, window_s)
    return Calibration(
        overall=_coverage(batches, np.ones(len(batches.variant), np.bool_)),
        variants={
            variants[number]: _coverage(batches, batches.variant == number)
            for number in np.unique(batches.variant)
        },
        windows=tuple(
            Window(start_s=float(starts_s[number]), coverage=_coverage(batches, window == number))
            for number in np.unique(window)
        ),
    )


def _coverage(batches: Batches, selected: npt.NDArray[np.bool_]) -> Coverage:
    took_s, predicted_s = batches.took_s[selected], batches.predicted_s[selected]
    median, p95 = np.quantile(took_s / predicted_s, [0.5, NOMINAL])
    return Coverage(
        batches=len(took_s),
        within=wilson_interval(int(np.count_nonzero(took_s <= predicted_s)), len(took_s)),
        median_ratio=float(median),
        p95_ratio=float(p95),
    )
