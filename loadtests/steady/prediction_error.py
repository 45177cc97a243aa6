"""Compares the latency that the service predicted for an answer with the one that its client saw.

`predicted_latency_ms` of an answer is the 95th percentile of the time from receipt to response.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from loadtests.client import binary
from loadtests.steady.load import LoadRecord
from loadtests.trials.calibration import NOMINAL
from loadtests.trials.grid import Grid
from loadtests.trials.tables import NO_VALUE
from variants.catalog.record import Record
from variants.measurement.evaluation import wilson_interval
from variants.report.text import interval

FACTOR: Final = 2.0
"""Factor within which a prediction must be of the actual latency."""

_QUANTILES: Final = (0.05, 0.5, 0.95, 0.99)


class Predictions(Record):
    """Predicted and actual latency of a sample of answers under one load."""

    policy: str
    load: str
    predicted_ms: tuple[float, ...]
    actual_ms: tuple[float, ...]
    """Latency as the client saw it."""


def sample_predictions(record: LoadRecord, policy: str, load: str, from_s: float) -> Predictions:
    """Return the sampled answers to requests that were due `from_s` seconds after the start.

    Raises ValueError if a response is not a V2 inference response, or has no prediction.
    """
    pairs = []
    for number, content in record.contents.items():
        if record.due_s[number] - record.started_s < from_s:
            continue
        parameters = binary.parse_explanation(content, None)
        if "predicted_latency_ms" not in parameters:
            raise ValueError(f"the answer has no predicted_latency_ms: {content[:200]!r}")
        actual_ms = float(record.latency_s[number]) * 1e3
        pairs.append((float(parameters["predicted_latency_ms"]), actual_ms))
    return Predictions(
        policy=policy,
        load=load,
        predicted_ms=tuple(predicted for predicted, _ in pairs),
        actual_ms=tuple(actual for _, actual in pairs),
    )


def predictions_grid(samples: Sequence[Predictions], title: str, note: str = "") -> Grid:
    """Return a row per policy and load, over the answers of all rounds."""
    groups: dict[tuple[str, str], list[Predictions]] = {}
    for sample in samples:
        groups.setdefault((sample.policy, sample.load), []).append(sample)
    rows = [(*names, *_cells(group)) for names, group in groups.items()]
    columns = (
        "policy", "load", "answers", "predicted, ms", "actual, ms",
        *(f"ratio p{100 * q:g}" for q in _QUANTILES),
        f"within a factor of {FACTOR:g}, %", "within the prediction, % [95 % interval]",
    )  # fmt: skip
    explanation = (
        f"Ratio: predicted to actual, as the client saw it. Predictions are quantiles at "
        f"{100 * NOMINAL:g} %, so that as many answers should be within them. Predicted and "
        "actual: medians."
    )
    return Grid(title, columns, rows, " ".join(filter(None, (explanation, note))))


def _cells(group: Sequence[Predictions]) -> list[str]:
    predicted = _join([sample.predicted_ms for sample in group])
    actual = _join([sample.actual_ms for sample in group])
    count = len(actual)
    if not count:
        return ["0", *[NO_VALUE] * (4 + len(_QUANTILES))]
    ratio = predicted / actual
    within = int((ratio >= 1).sum())
    is_near = (ratio >= 1 / FACTOR) & (ratio <= FACTOR)
    return [
        f"{count:,}",
        f"{np.median(predicted):.1f}",
        f"{np.median(actual):.1f}",
        *(f"{value:.2f}" for value in np.quantile(ratio, _QUANTILES)),
        f"{100 * is_near.mean():.1f}",
        interval(wilson_interval(within, count), "{:.1f}", scale=100),
    ]


def _join(parts: Sequence[Sequence[float]]) -> npt.NDArray[np.float64]:
    return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])
