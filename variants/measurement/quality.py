"""Answer quality beside accuracy: changed answers, classes, divergence, confidence calibration.

    scores, dense scores, labels ─▶ compare_answers ─▶ AnswerComparison

Equal accuracy can hide many changed answers (Dutta et al. 2024, arXiv:2407.09141), and losses often
concentrate in a few classes (Hooker et al. 2019, arXiv:1911.05248). Pure functions.
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
"""Logits, `[n, classes]`."""

BINS: Final = 15
"""Bins of the expected calibration error."""

MOST_HIT: Final = 10
"""Largest number of sample indices in `AnswerComparison.most_hit`."""

RESAMPLES: Final = 1000
"""Bootstrap samples of an interval."""


def compare_answers(
    scores: Scores, dense: Scores, labels: Classes, *, seed: int = 0
) -> AnswerComparison:
    """Compare the scores of a variant with those of dense on the same samples.

    `labels` are INT `[n]`. Raises `ValueError` if the shapes differ or a label has no score.
    """
    _require_fit(scores, dense, labels)
    probabilities = softmax(scores)
    predictions, is_dense_correct = scores.argmax(axis=1), dense.argmax(axis=1) == labels
    is_correct = predictions == labels
    lost = np.flatnonzero(is_dense_correct & ~is_correct)
    by_confidence = np.argsort(-probabilities[lost].max(axis=1), kind="stable")
    return AnswerComparison(
        lost=len(lost),
        gained=int(np.count_nonzero(is_correct & ~is_dense_correct)),
        classes=class_differences(predictions, dense.argmax(axis=1), labels),
        divergence=mean(divergences(dense, scores), seed=seed),
        largest_score_difference=float(np.abs(scores.astype(np.float64) - dense).max()),
        calibration=confidence_calibration(probabilities, labels),
        most_hit=tuple(int(index) for index in lost[by_confidence[:MOST_HIT]]),
    )


def dense_answers(scores: Scores, labels: Classes) -> AnswerComparison:
    """Return the comparison of dense with itself. All differences are exactly zero."""
    _require_fit(scores, scores, labels)
    zero = Interval(value=0.0, low=0.0, high=0.0)
    is_correct = scores.argmax(axis=1) == labels
    return AnswerComparison(
        lost=0,
        gained=0,
        classes=tuple(
            ClassDifference(
                label=int(label),
                samples=int(np.count_nonzero(labels == label)),
                accuracy=float(is_correct[labels == label].mean()),
                difference=zero,
                p_value=1.0,
            )
            for label in np.unique(labels)
        ),
        divergence=zero,
        largest_score_difference=0.0,
        calibration=confidence_calibration(softmax(scores), labels),
        most_hit=(),
    )


def class_differences(
    predictions: Classes, dense: Classes, labels: Classes
) -> tuple[ClassDifference, ...]:
    """Return the paired accuracy difference of every class that has samples, by class index.

    The Newcombe intervals have confidence 1 - 0.05/classes, so all hold jointly with 95 %
    (Bonferroni). The p-values are those of the exact McNemar test, adjusted by Holm's method.
    """
    masks = [(int(label), labels == label) for label in np.unique(labels)]
    z = z_score(1 - 0.05 / len(masks))
    raw = []
    for label, mask in masks:
        is_correct, is_dense_correct = predictions[mask] == label, dense[mask] == label
        raw.append(
            mcnemar(
                int(np.count_nonzero(is_correct & ~is_dense_correct)),
                int(np.count_nonzero(~is_correct & is_dense_correct)),
            )
        )
    return tuple(
        ClassDifference(
            label=label,
            samples=int(np.count_nonzero(mask)),
            accuracy=float(np.mean(predictions[mask] == label)),
            difference=accuracy_difference(predictions[mask], dense[mask], labels[mask], z=z),
            p_value=p_value,
        )
        for (label, mask), p_value in zip(masks, holm(raw), strict=True)
    )


def mcnemar(gained: int, lost: int) -> float:
    """Return the two-sided p-value of the exact McNemar test.

    Q. McNemar, Psychometrika 12 (1947), with the binomial distribution instead of its
    approximation: twice the probability of at most the smaller count, and at most 1.
    """
    changed, smaller = gained + lost, min(gained, lost)
    term = total = 1
    for k in range(smaller):
        term = term * (changed - k) // (k + 1)
        total += term
    return min(1.0, 2 * total / (1 << changed))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for multiple testing, in the same order.

    S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6 (1979). The probability of any false positive at 0.05 is at most 0.05, under any
    dependence of the tests.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def divergences(dense: Scores, scores: Scores) -> NDArray[np.float64]:
    """Return KL(dense || variant) of the probabilities of each sample, `[n]`, in nats."""
    of_dense, of_variant = _log_softmax(dense), _log_softmax(scores)
    each = (np.exp(of_dense) * (of_dense - of_variant)).sum(axis=1)
    divergence: NDArray[np.float64] = np.maximum(each, 0.0)  # rounding can make it negative
    return divergence


def mean(values: NDArray[np.float64], *, seed: int = 0) -> Interval:
    """Return the mean of `[n]` with its 95 % percentile interval from a bootstrap over samples."""
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)]
    low, high = (float(end) for end in np.quantile(means, [0.025, 0.975]))
    value = float(values.mean())
    return Interval(value=value, low=min(low, value), high=max(high, value))


def confidence_calibration(
    probabilities: NDArray[np.float64], labels: Classes
) -> ConfidenceCalibration:
    """Return how well the probabilities `[n, classes]` match the labels.

    Brier score: G. W. Brier, Monthly Weather Review 78 (1950), 0 to 2, lower is better.
    """
    confidence = probabilities.max(axis=1)
    one_hot = np.eye(probabilities.shape[1])[labels]
    return ConfidenceCalibration(
        error=calibration_error(confidence, probabilities.argmax(axis=1) == labels),
        brier=float(((probabilities - one_hot) ** 2).sum(axis=1).mean()),
        confidence=float(confidence.mean()),
    )


def calibration_error(confidence: NDArray[np.float64], is_correct: NDArray[np.bool_]) -> float:
    """Return the expected calibration error: |accuracy - confidence|, averaged over samples.

    Guo et al. 2017, arXiv:1706.04599, section 2, with 15 confidence bins of equal width,
    `(m/15, (m+1)/15]`.
    """
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    gaps = np.bincount(bins, weights=is_correct - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def softmax(scores: Scores) -> NDArray[np.float64]:
    """Return the probabilities of the scores, both `[n, classes]`; FP64."""
    probabilities: NDArray[np.float64] = np.exp(_log_softmax(scores))
    return probabilities


def _log_softmax(scores: Scores) -> NDArray[np.float64]:
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _require_fit(scores: Scores, dense: Scores, labels: Classes) -> None:
    if scores.shape != dense.shape or scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(
            f"expected two arrays of scores [n, classes] and labels [n], got {list(scores.shape)}, "
            f"{list(dense.shape)} and {list(labels.shape)}"
        )
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(
            f"labels must be from 0 to {scores.shape[1] - 1} for {scores.shape[1]} scores, "
            f"got {labels.min()} to {labels.max()}"
        )
