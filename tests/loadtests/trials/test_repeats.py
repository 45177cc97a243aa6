from __future__ import annotations

import pytest

from loadtests.trials.repeats import (
    STUDENT,
    Estimate,
    are_paired,
    difference,
    dominating_policies,
    estimate,
)
from loadtests.trials.scores import Score, score
from tests.loadtests.trials.sample_trial import ACCURACY, OUTCOMES

BASE = score(OUTCOMES, ACCURACY)


def repeats(*pairs: tuple[float, float | None]) -> list[Score]:
    """Return a score per seed with these attainments and accuracies."""
    return [
        BASE.model_copy(
            update={"attainment": attainment, "mean_accuracy": accuracy, "workload": f"seed {seed}"}
        )
        for seed, (attainment, accuracy) in enumerate(pairs)
    ]


def test_the_interval_of_a_mean_is_students() -> None:
    result = estimate([1.0, 2.0, 3.0])
    assert result is not None
    assert result.value == 2
    assert result.half_width == pytest.approx(4.3027 * 1 / 3**0.5)
    assert (result.low, result.high) == pytest.approx((2 - 2.4842, 2 + 2.4842), abs=1e-4)


def test_one_repeat_has_no_interval_and_a_missing_value_gives_no_mean() -> None:
    assert estimate([0.5]) == Estimate(0.5, None)
    assert estimate([0.5, None]) is None
    assert estimate([]) is None


def test_many_repeats_use_the_last_point_of_the_table() -> None:
    result = estimate([0.0, 2.0] * 32)
    assert result is not None
    assert result.half_width == pytest.approx(STUDENT[-1] * (64 / 63) ** 0.5 / 8)


EVALUATED = repeats((0.90, 0.92), (0.80, 0.93), (0.70, 0.94))


@pytest.mark.parametrize(
    ("other", "dominates"),
    [
        pytest.param(((0.91, 0.92), (0.81, 0.93), (0.71, 0.94)), True, id="better in one"),
        pytest.param(((0.91, 0.95), (0.82, 0.96), (0.71, 0.97)), True, id="better in both"),
        pytest.param(((0.90, 0.92), (0.80, 0.93), (0.70, 0.94)), False, id="equal"),
        pytest.param(((0.99, 0.91), (0.89, 0.92), (0.79, 0.93)), False, id="worse in one"),
        pytest.param(((0.99, 0.92), (0.78, 0.93), (0.70, 0.94)), False, id="better by chance"),
        pytest.param(
            ((0.90 + 1e-15, 0.92), (0.8 + 1e-15, 0.93), (0.7 + 1e-15, 0.94)),
            False,
            id="rounding error",
        ),
        pytest.param(((0.95, None), (0.85, None), (0.75, None)), False, id="no answers on time"),
    ],
)
def test_dominance_requires_both_as_good_and_one_significantly_better(
    other: tuple[tuple[float, float | None], ...], dominates: bool
) -> None:
    assert (dominating_policies(EVALUATED, {"other": repeats(*other)}) == ("other",)) is dominates


def test_differences_are_paired_so_that_differences_of_workloads_cancel() -> None:
    result = difference(EVALUATED, repeats((0.91, 0.92), (0.81, 0.93), (0.71, 0.94)))
    assert result.attainment.value == pytest.approx(0.01)
    assert result.attainment.half_width == pytest.approx(0)
    assert result.accuracy == Estimate(0, 0)


def test_repeats_are_paired_if_two_or_more_have_the_same_workloads_in_order() -> None:
    assert are_paired(EVALUATED, [one.model_copy(update={"attainment": 0.1}) for one in EVALUATED])
    assert not are_paired(EVALUATED, EVALUATED[:2])
    assert not are_paired(EVALUATED[:1], EVALUATED[:1])
    assert not are_paired(EVALUATED, EVALUATED[::-1])
    assert not are_paired(EVALUATED, [one.model_copy(update={"requests": 9}) for one in EVALUATED])


def test_repeats_that_cannot_be_paired_are_rejected() -> None:
    with pytest.raises(ValueError, match="same number of repeats"):
        difference(EVALUATED, EVALUATED[:2])
    with pytest.raises(ValueError, match="two or more"):
        difference(EVALUATED[:1], EVALUATED[:1])
    with pytest.raises(ValueError, match="same workloads"):
        difference(EVALUATED, EVALUATED[::-1])
