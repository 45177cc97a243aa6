"""Accuracy of a variant, and its difference from dense on the same samples.

    runner, samples ─▶ compute_scores ─▶ scores ─▶ argmax ─▶ predictions
    predictions, dense predictions, labels ─▶ accuracy, accuracy_difference, agreement

All functions except `compute_scores` are pure. Every share has a 95 % confidence interval.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from variants.catalog.catalog import Interval, Model
from variants.measurement.progress import ProgressCallback, ignore_progress
from variants.model.dataset import Samples, count, rows
from variants.runtime.runner import Runner

Classes: TypeAlias = NDArray[np.integer[Any]]
"""Class indices, `[n]`: labels or predictions."""

Z: Final = 1.959963984540054
"""97.5 % quantile of the normal distribution, for two-sided 95 % intervals."""

BATCH_SIZE: Final = 256
"""Samples per call of the runner in `compute_scores`."""


class PairCounts(NamedTuple):
    """Numbers of samples by which of two predictions is correct."""

    both: int
    first: int
    second: int
    neither: int


def compute_scores(
    runner: Runner,
    model: Model,
    samples: Samples,
    on_progress: ProgressCallback = ignore_progress,
) -> NDArray[np.floating[Any]]:
    """Run all samples in batches and return their scores, `[n, classes]`.

    The first output of the model must be the scores, `[batch, classes]`. Raises `ValueError` if it
    has another shape or is not finite: such scores have no maximum or no softmax.
    """
    output = model.outputs[0].name
    total = count(samples)
    parts = []
    for start in range(0, total, BATCH_SIZE):
        batch = rows(samples, slice(start, start + BATCH_SIZE))
        scores = runner(batch)[output]
        if scores.ndim != 2 or len(scores) != count(batch):
            raise ValueError(
                f"output {output!r} must be [{count(batch)}, classes], got {list(scores.shape)}"
            )
        if not np.isfinite(scores).all():
            raise ValueError(f"output {output!r} contains NaN or infinity from sample {start} on")
        parts.append(scores)
        on_progress((start + count(batch)) / total)
    return np.concatenate(parts)


def accuracy(predictions: Classes, labels: Classes) -> Interval:
    """Return the share of correct predictions with its Wilson interval."""
    _require_same_length(predictions, labels)
    return wilson_interval(int(np.count_nonzero(predictions == labels)), len(labels))


def agreement(predictions: Classes, dense: Classes) -> Interval:
    """Return the share of equal predictions with its Wilson interval."""
    _require_same_length(predictions, dense)
    return wilson_interval(int(np.count_nonzero(predictions == dense)), len(dense))


def accuracy_difference(
    predictions: Classes, dense: Classes, labels: Classes, *, z: float = Z
) -> Interval:
    """Return the accuracy of `predictions` minus that of `dense`, paired by sample.

    `z` sets the confidence of the interval; see `z_score`.
    """
    return newcombe_interval(**count_pairs(predictions, dense, labels)._asdict(), z=z)


def count_pairs(predictions: Classes, dense: Classes, labels: Classes) -> PairCounts:
    """Count the samples that both classify correctly, only the first, only dense, or neither."""
    _require_same_length(predictions, labels)
    _require_same_length(dense, labels)
    is_correct, is_dense_correct = predictions == labels, dense == labels
    return PairCounts(
        both=int(np.count_nonzero(is_correct & is_dense_correct)),
        first=int(np.count_nonzero(is_correct & ~is_dense_correct)),
        second=int(np.count_nonzero(~is_correct & is_dense_correct)),
        neither=int(np.count_nonzero(~is_correct & ~is_dense_correct)),
    )


def z_score(confidence: float) -> float:
    """Return the half width, in standard deviations, of a normal interval of this confidence."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def wilson_interval(successes: int, trials: int, *, z: float = Z) -> Interval:
    """Return `successes / trials` with its score interval, 95 % by default.

    E. B. Wilson, Probable inference, JASA 22 (1927). The interval stays within 0..1 and is valid
    for shares of 0 and 1. Raises `ValueError` unless 0 <= successes <= trials and trials >= 1.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials} is not a share")
    share = successes / trials
    shrink = 1 + z**2 / trials
    middle = (share + z**2 / (2 * trials)) / shrink
    reach = z / shrink * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    # Rounding can move the ends across the share, or outside 0..1.
    return Interval(
        value=share,
        low=max(0.0, min(middle - reach, share)),
        high=min(1.0, max(middle + reach, share)),
    )


def newcombe_interval(
    *, both: int, first: int, second: int, neither: int, z: float = Z
) -> Interval:
    """Return the difference of two shares of the same samples, with its Newcombe interval.

    The arguments count the samples that both classify correctly, only the first, only the second,
    and neither. R. G. Newcombe, Improved confidence intervals for the difference between binomial
    proportions based on paired data, Statistics in Medicine 17 (1998), method 10: combines the
    squared widths of the two Wilson intervals, corrected for their correlation. The interval stays
    within -1..1, has a width of about 7/n if the predictions never differ, and keeps its coverage
    where the Wald interval does not (recommended by Fagerland, Lydersen and Laake, Statistics in
    Medicine 33 (2014)).
    """
    samples = both + first + second + neither
    first_share, second_share = (
        wilson_interval(both + first, samples, z=z),
        wilson_interval(both + second, samples, z=z),
    )
    phi = _correlation(both, first, second, neither)
    first_down, first_up = first_share.value - first_share.low, first_share.high - first_share.value
    second_down, second_up = (
        second_share.value - second_share.low,
        second_share.high - second_share.value,
    )
    down = math.sqrt(max(0.0, first_down**2 - 2 * phi * first_down * second_up + second_up**2))
    up = math.sqrt(max(0.0, first_up**2 - 2 * phi * first_up * second_down + second_down**2))
    difference = (first - second) / samples
    return Interval(
        value=difference, low=max(-1.0, difference - down), high=min(1.0, difference + up)
    )


def _correlation(both: int, first: int, second: int, neither: int) -> float:
    """Return the phi coefficient of the 2x2 table with the continuity correction of method 10."""
    samples = both + first + second + neither
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    if margins == 0:
        return 0.0
    product: float = both * neither - first * second
    if product > 0:
        product = max(product - samples / 2, 0)
    return product / math.sqrt(margins)


def _require_same_length(one: Classes, other: Classes) -> None:
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(
            f"need two arrays [n] of one length, got {list(one.shape)} and {list(other.shape)}"
        )
