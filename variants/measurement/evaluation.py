"""How good are a variant's answers, and how do they differ from dense's, on the same samples.

    runner, samples ─▶ answer ─▶ scores, their argmax ─▶ predictions
    predictions, dense's, labels ─▶ accuracy, accuracy_difference, agreement

Everything but `compute_scores` is a pure function of arrays. Every share comes with its 95 % interval.
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
"""Class numbers, `[n]`: the labels, or what a variant answered."""

Z: Final = 1.959963984540054
"""The normal distribution's 97.5 % point: two-sided 95 %."""

BATCH_SIZE: Final = 256


class Counts(NamedTuple):
    """Samples by who of two got them right."""

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
    """Run `samples` in batches; return the scores of all, `[n, classes]`.

    The model's first output must be scores, `[batch, classes]`. `on_progress` hears the share of
    samples done. Raises `ValueError` if the scores are not such an array, or are not finite: then
    there is no largest, or no probability.
    """
    asked = model.outputs[0].name
    total = count(samples)
    parts = []
    for start in range(0, total, BATCH_SIZE):
        batch = rows(samples, slice(start, start + BATCH_SIZE))
        scores = runner(batch)[asked]
        if scores.ndim != 2 or len(scores) != count(batch):
            raise ValueError(
                f"output {asked!r} must be [{count(batch)}, classes], got {list(scores.shape)}"
            )
        if not np.isfinite(scores).all():
            raise ValueError(f"output {asked!r} holds NaN or infinity for samples from {start} on")
        parts.append(scores)
        on_progress((start + count(batch)) / total)
    return np.concatenate(parts)


def accuracy(predictions: Classes, labels: Classes) -> Interval:
    """Return the share of correct predictions, with Wilson's interval."""
    _require_same_length(predictions, labels)
    return wilson_interval(int(np.count_nonzero(predictions == labels)), len(labels))


def agreement(predictions: Classes, dense: Classes) -> Interval:
    """Return the share of samples on which the two answer the same, with Wilson's interval."""
    _require_same_length(predictions, dense)
    return wilson_interval(int(np.count_nonzero(predictions == dense)), len(dense))


def accuracy_difference(
    predictions: Classes, dense: Classes, labels: Classes, *, z: float = Z
) -> Interval:
    """Return the accuracy of `predictions` minus that of `dense`, paired by sample.

    `z` says how sure the interval is to be; see `z_score`.
    """
    return newcombe_interval(**count_pairs(predictions, dense, labels)._asdict(), z=z)


def count_pairs(predictions: Classes, dense: Classes, labels: Classes) -> Counts:
    """Count the samples that both got right, only the first, only dense, neither."""
    _require_same_length(predictions, labels)
    _require_same_length(dense, labels)
    right, dense_right = predictions == labels, dense == labels
    return Counts(
        both=int(np.count_nonzero(right & dense_right)),
        first=int(np.count_nonzero(right & ~dense_right)),
        second=int(np.count_nonzero(~right & dense_right)),
        neither=int(np.count_nonzero(~right & ~dense_right)),
    )


def z_score(confidence: float) -> float:
    """Return how many standard deviations a normal interval of this confidence reaches out."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def wilson_interval(successes: int, trials: int, *, z: float = Z) -> Interval:
    """Return `successes / trials` with the score interval, of 95 % unless `z` says otherwise.

    E. B. Wilson, Probable inference, JASA 22 (1927): it stays in 0..1 and is sane at 0 and at 1.
    Raises `ValueError` unless 0 <= successes <= trials and trials >= 1.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials} is no share")
    share = successes / trials
    shrink = 1 + z**2 / trials
    middle = (share + z**2 / (2 * trials)) / shrink
    reach = z / shrink * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    # In exact arithmetic the share lies inside and the ends in 0..1; rounding may break both.
    return Interval(
        value=share,
        low=max(0.0, min(middle - reach, share)),
        high=min(1.0, max(middle + reach, share)),
    )


def newcombe_interval(
    *, both: int, first: int, second: int, neither: int, z: float = Z
) -> Interval:
    """Return the difference of two shares of the same samples, with its interval as in `wilson_interval`.

    The arguments count the samples that both got right, only the first, only the second, neither.
    R. G. Newcombe, Improved confidence intervals for the difference between binomial proportions
    based on paired data, Statistics in Medicine 17 (1998), method 10: the Wilson intervals of the
    two shares are squared and added, less their correlation. It stays in -1..1, keeps a width of
    about 7/n when the two never differ, and holds its coverage where the usual Wald interval does
    not (Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014), recommend it).
    """
    samples = both + first + second + neither
    one, two = (
        wilson_interval(both + first, samples, z=z),
        wilson_interval(both + second, samples, z=z),
    )
    phi = _correlation(both, first, second, neither)
    one_down, one_up = one.value - one.low, one.high - one.value
    two_down, two_up = two.value - two.low, two.high - two.value
    down = math.sqrt(max(0.0, one_down**2 - 2 * phi * one_down * two_up + two_up**2))
    up = math.sqrt(max(0.0, one_up**2 - 2 * phi * one_up * two_down + two_down**2))
    difference = (first - second) / samples
    return Interval(
        value=difference, low=max(-1.0, difference - down), high=min(1.0, difference + up)
    )


def _correlation(both: int, first: int, second: int, neither: int) -> float:
    """Return the phi coefficient of the 2x2 table, continuity-corrected as method 10 asks."""
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
        raise ValueError(f"need two arrays [n], got {list(one.shape)} and {list(other.shape)}")
