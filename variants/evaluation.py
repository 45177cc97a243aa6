"""How good are a variant's answers, and how do they differ from dense's, on the same samples.

    runner, samples ─▶ predict ─▶ predictions ─▶ accuracy, accuracy_difference, agreement

Everything but `predict` is a pure function of arrays. Every share comes with its 95 % interval.
"""

from __future__ import annotations

import math
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from variants.catalog import Interval, Model
from variants.progress import OnShare, unheard
from variants.runners import Runner

Classes: TypeAlias = NDArray[np.integer[Any]]
"""Class numbers, `[n]`: the labels, or what a variant answered."""

Z: Final = 1.959963984540054
"""The normal distribution's 97.5 % point: two-sided 95 %."""

BATCH_SIZE: Final = 256


def predict(
    runner: Runner,
    model: Model,
    samples: NDArray[Any],
    on_share: OnShare = unheard,
) -> NDArray[np.int64]:
    """Run `samples` `[n, ...]` in batches; return the class of the largest score for each, `[n]`.

    The samples go to the model's first input; its first output must be scores, `[batch, classes]`.
    `on_share` hears the share of samples done. Raises `ValueError` if the scores are not such an
    array, or hold a NaN: then there is no largest.
    """
    given, asked = model.inputs[0].name, model.outputs[0].name
    predictions = np.empty(len(samples), dtype=np.int64)
    for start in range(0, len(samples), BATCH_SIZE):
        batch = samples[start : start + BATCH_SIZE]
        scores = runner({given: batch})[asked]
        if scores.ndim != 2 or len(scores) != len(batch):
            raise ValueError(
                f"output {asked!r} must be [{len(batch)}, classes], got {list(scores.shape)}"
            )
        if np.isnan(scores).any():
            raise ValueError(f"output {asked!r} holds NaN for samples from {start} on")
        predictions[start : start + len(batch)] = scores.argmax(axis=1)
        on_share((start + len(batch)) / len(samples))
    return predictions


def accuracy(predictions: Classes, labels: Classes) -> Interval:
    """Return the share of correct predictions, with Wilson's interval."""
    _require_same_length(predictions, labels)
    return wilson(int(np.count_nonzero(predictions == labels)), len(labels))


def agreement(predictions: Classes, dense: Classes) -> Interval:
    """Return the share of samples on which the two answer the same, with Wilson's interval."""
    _require_same_length(predictions, dense)
    return wilson(int(np.count_nonzero(predictions == dense)), len(dense))


def accuracy_difference(predictions: Classes, dense: Classes, labels: Classes) -> Interval:
    """Return the accuracy of `predictions` minus that of `dense`, paired by sample."""
    _require_same_length(predictions, labels)
    _require_same_length(dense, labels)
    right, dense_right = predictions == labels, dense == labels
    return newcombe(
        both=int(np.count_nonzero(right & dense_right)),
        first=int(np.count_nonzero(right & ~dense_right)),
        second=int(np.count_nonzero(~right & dense_right)),
        neither=int(np.count_nonzero(~right & ~dense_right)),
    )


def wilson(successes: int, trials: int) -> Interval:
    """Return `successes / trials` with the 95 % score interval.

    E. B. Wilson, Probable inference, JASA 22 (1927): it stays in 0..1 and is sane at 0 and at 1.
    Raises `ValueError` unless 0 <= successes <= trials and trials >= 1.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} of {trials} is no share")
    share = successes / trials
    shrink = 1 + Z**2 / trials
    middle = (share + Z**2 / (2 * trials)) / shrink
    reach = Z / shrink * math.sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    # In exact arithmetic the share lies inside and the ends in 0..1; rounding may break both.
    return Interval(
        value=share,
        low=max(0.0, min(middle - reach, share)),
        high=min(1.0, max(middle + reach, share)),
    )


def newcombe(*, both: int, first: int, second: int, neither: int) -> Interval:
    """Return the difference of two shares of the same samples with its 95 % interval.

    The arguments count the samples that both got right, only the first, only the second, neither.
    R. G. Newcombe, Improved confidence intervals for the difference between binomial proportions
    based on paired data, Statistics in Medicine 17 (1998), method 10: the Wilson intervals of the
    two shares are squared and added, less their correlation. It stays in -1..1, keeps a width of
    about 7/n when the two never differ, and holds its coverage where the usual Wald interval does
    not (Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014), recommend it).
    """
    samples = both + first + second + neither
    one, two = wilson(both + first, samples), wilson(both + second, samples)
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
