"""Do batches take as long as predicted: of those predicted at 95 %, are 95 % done in time?

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
"""The share of batches that a prediction says are done within it."""

WINDOW_S: Final = 1.0


class Coverage(Record):
    """Some batches, held against their predictions."""

    batches: int = Field(ge=1)
    within: Interval
    """The share that took no longer than predicted, with Wilson's 95 % interval. It takes batches
    as independent: where slow ones come together, it is too narrow."""
    median_ratio: float
    """Median of time taken over time predicted."""
    p95_ratio: float
    """The 95th percentile of the same: 1 where the predictions are right."""


class Window(Record):
    """The batches that were sent from `start_s` on, until the next window starts."""

    start_s: float
    coverage: Coverage


class Calibration(Record):
    """How a latency model's predictions held, overall, by variant, and over time."""

    overall: Coverage
    variants: Mapping[str, Coverage]
    """Those that ran a batch."""
    windows: tuple[Window, ...]
    """Those in which a batch was sent."""


def calibration(
    batches: Batches, variants: Sequence[str], seconds: float, *, window_s: float = WINDOW_S
) -> Calibration | None:
    """Hold every batch against its prediction; None if there are no batches.

    `variants` names what `batches.variant` counts; `seconds` is how long the workload lasted.
    Raises `ValueError` unless `window_s` is above 0.
    """
    if not len(batches.variant):
        return None
    place, starts_s = windows(batches.sent_s, seconds, window_s)
    return Calibration(
        overall=_cover(batches, np.ones(len(batches.variant), np.bool_)),
        variants={
            variants[number]: _cover(batches, batches.variant == number)
            for number in np.unique(batches.variant)
        },
        windows=tuple(
            Window(start_s=float(starts_s[number]), coverage=_cover(batches, place == number))
            for number in np.unique(place)
        ),
    )


def _cover(batches: Batches, which: npt.NDArray[np.bool_]) -> Coverage:
    took_s, predicted_s = batches.took_s[which], batches.predicted_s[which]
    median, p95 = np.quantile(took_s / predicted_s, [0.5, NOMINAL])
    return Coverage(
        batches=len(took_s),
        within=wilson_interval(int(np.count_nonzero(took_s <= predicted_s)), len(took_s)),
        median_ratio=float(median),
        p95_ratio=float(p95),
    )
