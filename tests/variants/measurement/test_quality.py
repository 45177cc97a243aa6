from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from variants.measurement.evaluation import newcombe_interval, z_score
from variants.measurement.quality import (
    MOST_HIT,
    calibration_error,
    class_differences,
    compare_answers,
    confidence_calibration,
    dense_answers,
    divergences,
    holm,
    mcnemar,
    mean,
    softmax,
)

SCORES = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0], [0.0, 2.0, 0.0]])


def one_hot(classes: list[int], count: int, height: float = 4.0) -> NDArray[np.float64]:
    """Return scores with the maximum at these classes."""
    return height * np.eye(count)[classes]


@pytest.mark.parametrize(
    ("gained", "lost", "p_value"),
    [
        pytest.param(0, 0, 1.0, id="no changes"),
        pytest.param(5, 5, 1.0, id="equal numbers"),
        pytest.param(0, 5, 2 / 32, id="0 of 5"),
        pytest.param(1, 7, 2 * (1 + 8) / 256, id="1 of 8"),
        pytest.param(2, 10, 2 * (1 + 12 + 66) / 4096, id="2 of 12"),
        pytest.param(0, 4000, 0.0, id="underflow to 0"),
    ],
)
def test_mcnemar_is_the_binomial_test_of_the_changed_answers(
    gained: int, lost: int, p_value: float
) -> None:
    assert mcnemar(gained, lost) == pytest.approx(p_value)
    assert mcnemar(lost, gained) == mcnemar(gained, lost)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_agrees_with_the_sum_of_binomial_coefficients(gained: int, lost: int) -> None:
    changed = gained + lost
    tail = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1)) / 2**changed
    assert mcnemar(gained, lost) == pytest.approx(min(1.0, 2 * tail))


def test_holm_steps_down_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.5, 0.02]) == pytest.approx([1.0, 1.0, 0.06])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_decreases_p_values_nor_changes_their_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(raw <= now <= 1 for raw, now in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_holm_limits_false_positives_to_5_percent() -> None:
    drawn = np.random.default_rng(0).random((2000, 10)).tolist()
    alarms = np.mean([min(holm(p_values)) < 0.05 for p_values in drawn])
    assert 0.035 <= alarms <= 0.0645  # 0.049, and three standard errors of the simulation


def test_changed_answers_are_counted_and_sorted_by_confidence() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    dense = one_hot([0, 0, 0, 1, 0, 1], 3)
    scores = one_hot([1, 2, 0, 0, 1, 0], 3) * np.array([[1], [2], [1], [0.5], [1], [1]])
    answers = compare_answers(scores, dense, labels)
    assert (answers.lost, answers.gained) == (3, 1)
    assert answers.most_hit == (1, 0, 3)
    assert answers.largest_score_difference == 8.0


def test_at_most_ten_samples_are_listed_and_ties_keep_their_order() -> None:
    labels = np.zeros(20, dtype=np.int64)
    answers = compare_answers(one_hot([1] * 20, 2), one_hot([0] * 20, 2), labels)
    assert answers.lost == 20
    assert answers.most_hit == tuple(range(MOST_HIT))


def test_each_class_is_compared_on_its_own_samples() -> None:
    labels = np.repeat([0, 1, 3], [20, 30, 50])
    dense, variant = labels.copy(), labels.copy()
    variant[:12] = 1  # lose 12 of the 20 samples of class 0
    dense[20:22] = 0  # gain 2 samples of class 1
    zero, one, three = class_differences(variant, dense, labels)
    assert [each.label for each in (zero, one, three)] == [0, 1, 3]
    assert [each.samples for each in (zero, one, three)] == [20, 30, 50]
    assert [each.accuracy for each in (zero, one, three)] == pytest.approx([0.4, 1, 1])
    assert [each.difference.value for each in (zero, one, three)] == pytest.approx(
        [-0.6, 2 / 30, 0]
    )
    assert [each.p_value for each in (zero, one, three)] == pytest.approx([3 * 2 / 2**12, 1, 1])
    z = z_score(1 - 0.05 / 3)
    assert zero.difference == newcombe_interval(both=8, first=0, second=12, neither=0, z=z)


def test_the_worst_class_has_the_largest_loss_of_accuracy() -> None:
    labels = np.repeat([0, 1], [20, 40])
    variant = labels.copy()
    variant[:4] = 1  # 4 of 20
    variant[20:27] = 0  # 7 of 40: a smaller share, but a smaller p-value
    answers = compare_answers(one_hot(variant.tolist(), 2), one_hot(labels.tolist(), 2), labels)
    assert answers.classes[1].p_value < answers.classes[0].p_value
    assert [each.label for each in answers.worst_first] == [0, 1]


def test_divergence_is_computed_from_the_probabilities() -> None:
    dense = np.log([[0.5, 0.5], [0.9, 0.1]])
    scores = np.log([[0.25, 0.75], [0.9, 0.1]]) + 7  # a constant does not change the softmax
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert divergences(dense, scores).tolist() == pytest.approx([first, 0])
    assert divergences(scores, dense)[0] == pytest.approx(
        0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    )


def test_large_scores_do_not_overflow() -> None:
    scores = np.array([[1e4, 0.0], [-1e4, 0.0]], dtype=np.float32)
    assert softmax(scores).tolist() == [[1, 0], [0, 1]]
    assert divergences(scores, scores).tolist() == [0, 0]
    assert divergences(scores, -scores).tolist() == [1e4, 1e4]


def test_the_interval_of_a_mean_covers_the_true_mean_in_95_percent_of_simulations() -> None:
    rng = np.random.default_rng(0)
    intervals = [mean(rng.exponential(size=200), seed=seed) for seed in range(200)]
    covered = np.mean([one.low <= 1 <= one.high for one in intervals])
    assert 0.90 <= covered <= 0.98
    width = np.mean([one.high - one.low for one in intervals])
    assert width == pytest.approx(2 * 1.96 / math.sqrt(200), rel=0.05)


def test_calibration_error_matches_a_manual_calculation() -> None:
    # Bins of 1/15: 0.62 and 0.66 share the tenth, (9/15, 10/15]; 0.99 is in the last.
    confidence = np.array([0.62, 0.66, 0.99, 0.99])
    right = np.array([True, False, True, True])
    by_hand = 2 / 4 * abs(0.5 - 0.64) + 2 / 4 * abs(1 - 0.99)
    assert calibration_error(confidence, right) == pytest.approx(by_hand)


def test_a_bin_includes_its_upper_end_and_excludes_its_lower() -> None:
    # 0.8 is 12/15, the upper end of its bin, so it does not share a bin with 0.81.
    error = calibration_error(np.array([0.8, 0.81]), np.array([False, True]))
    assert error == pytest.approx((0.8 + 0.19) / 2)
    assert calibration_error(np.array([1.0]), np.array([True])) == 0


def test_brier_score_and_confidence_match_their_definitions() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])
    result = confidence_calibration(probabilities, np.array([0, 2]))
    assert result.confidence == pytest.approx(0.65)
    by_hand = (0.3**2 + 0.2**2 + 0.1**2 + 0.1**2 + 0.6**2 + 0.7**2) / 2
    assert result.brier == pytest.approx(by_hand)
    confident_error = confidence_calibration(np.array([[1.0, 0.0]]), np.array([1]))
    assert (confident_error.brier, confident_error.error) == (2, 1)


def test_the_differences_of_dense_from_itself_are_exactly_zero() -> None:
    answers = dense_answers(SCORES, np.array([0, 1, 1, 2]))
    assert (answers.lost, answers.gained, answers.most_hit) == (0, 0, ())
    assert answers.divergence.low == answers.divergence.high == 0
    assert [one.accuracy for one in answers.classes] == [1, 0.5, 0]
    assert {one.difference.low for one in answers.classes} == {0}
    assert (
        answers.calibration == compare_answers(SCORES, SCORES, np.array([0, 1, 1, 2])).calibration
    )


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (SCORES[:2], np.array([0, 1, 1, 2]), r"got \[2, 3\], \[4, 3\] and \[4\]"),
        (SCORES, np.array([0, 1, 1, 3]), "labels must be from 0 to 2"),
        (SCORES, np.array([-1, 1, 1, 2]), "got -1 to 2"),
    ],
)
def test_inconsistent_scores_and_labels_are_rejected(
    scores: NDArray[np.float64], labels: NDArray[np.int64], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        compare_answers(scores, SCORES, labels)
