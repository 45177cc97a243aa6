"""What else the scores say, beside accuracy: flips, classes, divergence, calibration.

    scores, dense's, labels ─▶ compare ─▶ Answers

Equal accuracy can hide many changed answers (Dutta et al. 2024, arXiv:2407.09141), and what is
lost is often lost in a few classes (Hooker et al. 2019, arXiv:1911.05248). Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from variants.catalog.catalog import (
    AnswerComparison,
    ClassDifference,
    ConfidenceCalibration,
    Interval,
)
from variants.measurement.evaluation import Classes, accuracy_difference, z_score

Scores: TypeAlias = NDArray[np.floating[Any]]
"""`[n, classes]`, before any softmax."""

BINS: Final = 15
MOST_HIT: Final = 10
RESAMPLES: Final = 1000


def compare_answers(
    scores: Scores, dense: Scores, labels: Classes, *, seed: int = 0
) -> AnswerComparison:
    """Compare a variant's scores with dense's of the same samples; `labels` are INT `[n]`.

    Raises `ValueError` if the shapes differ or a label has no score.
    """
    _require_fit(scores, dense, labels)
    probabilities = softmax(scores)
    predictions, dense_right = scores.argmax(axis=1), dense.argmax(axis=1) == labels
    right = predictions == labels
    lost = np.flatnonzero(dense_right & ~right)
    surest_first = np.argsort(-probabilities[lost].max(axis=1), kind="stable")
    return AnswerComparison(
        lost=len(lost),
        gained=int(np.count_nonzero(right & ~dense_right)),
        classes=class_differences(predictions, dense.argmax(axis=1), labels),
        divergence=mean(divergences(dense, scores), seed=seed),
        largest_score_difference=float(np.abs(scores.astype(np.float64) - dense).max()),
        calibration=calibration(probabilities, labels),
        most_hit=tuple(int(number) for number in lost[surest_first[:MOST_HIT]]),
    )


def dense_answers(scores: Scores, labels: Classes) -> AnswerComparison:
    """Describe dense itself: it differs from itself by nothing, which is known, not estimated."""
    _require_fit(scores, scores, labels)
    nothing = Interval(value=0.0, low=0.0, high=0.0)
    right = scores.argmax(axis=1) == labels
    return AnswerComparison(
        lost=0,
        gained=0,
        classes=tuple(
            ClassDifference(
                label=int(label),
                samples=int(np.count_nonzero(labels == label)),
                accuracy=float(right[labels == label].mean()),
                difference=nothing,
                p_value=1.0,
            )
            for label in np.unique(labels)
        ),
        divergence=nothing,
        largest_score_difference=0.0,
        calibration=calibration(softmax(scores), labels),
        most_hit=(),
    )


def class_differences(
    predictions: Classes, dense: Classes, labels: Classes
) -> tuple[ClassDifference, ...]:
    """Return the paired difference for every class that has samples, by class number.

    The intervals are Newcombe's, each of 1 - 0.05/classes, so that all hold together with 95 %
    (Bonferroni). The p-values are of the exact McNemar test, adjusted by Holm's step-down.
    """
    found = [(int(label), labels == label) for label in np.unique(labels)]
    z = z_score(1 - 0.05 / len(found))
    raw = []
    for label, of in found:
        right, dense_right = predictions[of] == label, dense[of] == label
        raw.append(
            mcnemar(
                int(np.count_nonzero(right & ~dense_right)),
                int(np.count_nonzero(~right & dense_right)),
            )
        )
    return tuple(
        ClassDifference(
            label=label,
            samples=int(np.count_nonzero(of)),
            accuracy=float(np.mean(predictions[of] == label)),
            difference=accuracy_difference(predictions[of], dense[of], labels[of], z=z),
            p_value=p_value,
        )
        for (label, of), p_value in zip(found, holm(raw), strict=True)
    )


def mcnemar(gained: int, lost: int) -> float:
    """Return the two-sided exact p-value that as many were gained as lost but for chance.

    Q. McNemar, Psychometrika 12 (1947), with the binomial distribution in place of its
    approximation: the lesser count and everything below it, twice, and at most 1.
    """
    flips, lesser = gained + lost, min(gained, lost)
    term = total = 1
    for k in range(lesser):
        term = term * (flips - k) // (k + 1)
        total += term
    return min(1.0, 2 * total / (1 << flips))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for there being several, in their order.

    S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6 (1979): the chance of any false alarm at 0.05 stays below 0.05, whatever depends
    on what.
    """
    adjusted = [0.0] * len(p_values)
    least = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = least
    return adjusted


def divergences(dense: Scores, scores: Scores) -> NDArray[np.float64]:
    """Return KL(dense || variant) of every sample's probabilities, `[n]`, in nats."""
    of_dense, of_variant = _log_softmax(dense), _log_softmax(scores)
    each = (np.exp(of_dense) * (of_dense - of_variant)).sum(axis=1)
    divergence: NDArray[np.float64] = np.maximum(each, 0.0)  # rounding may leave less than nothing
    return divergence


def mean(values: NDArray[np.float64], *, seed: int = 0) -> Interval:
    """Return the mean of `[n]` with the 95 % percentile interval of a bootstrap over samples."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)]
    low, high = (float(end) for end in np.quantile(means, [0.025, 0.975]))
    value = float(values.mean())
    return Interval(value=value, low=min(low, value), high=max(high, value))


def calibration(probabilities: NDArray[np.float64], labels: Classes) -> ConfidenceCalibration:
    """Judge probabilities `[n, classes]` by what came true.

    Brier's score is that of G. W. Brier, Monthly Weather Review 78 (1950): 0 to 2, less is better.
    """
    confidence = probabilities.max(axis=1)
    truth = np.eye(probabilities.shape[1])[labels]
    return ConfidenceCalibration(
        error=calibration_error(confidence, probabilities.argmax(axis=1) == labels),
        brier=float(((probabilities - truth) ** 2).sum(axis=1).mean()),
        confidence=float(confidence.mean()),
    )


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Return the expected calibration error: |accuracy - confidence|, averaged over samples.

    Guo et al. 2017, arXiv:1706.04599, section 2: both are taken in 15 bins of confidence of equal
    width, `(m/15, (m+1)/15]`.
    """
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def softmax(scores: Scores) -> NDArray[np.float64]:
    """Return probabilities FP64 of scores, both `[n, classes]`."""
    probabilities: NDArray[np.float64] = np.exp(_log_softmax(scores))
    return probabilities


def _log_softmax(scores: Scores) -> NDArray[np.float64]:
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _require_fit(scores: Scores, dense: Scores, labels: Classes) -> None:
    if scores.shape != dense.shape or scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(
            f"need scores [n, classes] twice and labels [n], got {list(scores.shape)}, "
            f"{list(dense.shape)} and {list(labels.shape)}"
        )
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(
            f"labels must be 0 to {scores.shape[1] - 1}, as there are {scores.shape[1]} scores; "
            f"they are {labels.min()} to {labels.max()}"
        )
