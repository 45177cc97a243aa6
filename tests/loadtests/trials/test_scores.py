from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from loadtests.trials.scores import Score, jain, score
from tests.loadtests.trials.sample_trial import ACCURACY, OUTCOMES, WORKLOAD, unanswered_outcomes

SCORE = score(OUTCOMES, ACCURACY, bound=0.89)


def test_shares_and_rates_count_every_arrival() -> None:
    assert (SCORE.requests, SCORE.offered_per_s) == (8, 2.0)
    assert SCORE.attainment == 5 / 8
    assert SCORE.violation_ratio == 3 / 8
    assert SCORE.joint_attainment == 4 / 8
    assert SCORE.goodput_per_s == 5 / 4
    assert SCORE.joint_goodput_per_s == 4 / 4
    assert SCORE.status_shares == {
        "lost": 0, "answered": 6 / 8, "shed": 1 / 8, "expired": 1 / 8, "unattainable": 0,
        "failed": 0,
    }  # fmt: skip
    assert SCORE.variant_shares == {"dense": 4 / 6, "tiny": 2 / 6}


def test_accuracies_are_averaged_as_their_papers_define() -> None:
    assert SCORE.mean_accuracy == pytest.approx((3 * 0.95 + 2 * 0.8) / 5)
    assert SCORE.effective_accuracy == pytest.approx((4 * 0.95 + 2 * 0.8) / 6)
    assert SCORE.utility == pytest.approx((3 * 0.95 + 2 * 0.8) / 8)
    assert SCORE.floor_violations == 1


def test_regret_is_the_share_of_the_bound_that_was_not_reached() -> None:
    assert SCORE.regret == pytest.approx(1 - (4.45 / 8) / 0.89)
    assert score(OUTCOMES, ACCURACY).regret is None
    assert score(OUTCOMES, ACCURACY, bound=0.0).regret is None


def test_the_accuracy_drop_is_that_of_the_worst_window_against_the_best_variant() -> None:
    assert SCORE.max_accuracy_drop == pytest.approx(1 - 0.8 / 0.95)
    assert score(OUTCOMES, ACCURACY, window_s=2).max_accuracy_drop == pytest.approx(
        1 - 0.875 / 0.95
    )
    one_window = score(OUTCOMES, {**ACCURACY, "unused": 1.0}, window_s=4)
    assert one_window.max_accuracy_drop == pytest.approx(1 - 0.9)


def test_latency_is_measured_from_the_arrival_over_all_answers() -> None:
    assert SCORE.latency_s == pytest.approx({"p50": 0.5, "p95": 1.375, "p99": 1.475})


def test_size_switches_and_cost_are_computed_from_batches() -> None:
    assert SCORE.mean_batch_size == 6 / 5
    assert SCORE.switches_per_1000_batches == 750
    assert SCORE.replica_s_per_1000_on_time == pytest.approx(2.55 * 1000 / 5)


def test_switches_are_counted_in_the_order_in_which_batches_were_sent() -> None:
    assert OUTCOMES.batches is not None
    crossed = replace(OUTCOMES.batches, sent_s=np.array([0.0, 4.0, 1.0, 2.0, 3.0]))  # d d d t t
    assert score(replace(OUTCOMES, batches=crossed), ACCURACY).switches_per_1000_batches == 250


def test_without_batches_the_mean_size_is_computed_from_requests_and_others_are_none() -> None:
    without_batches = score(replace(OUTCOMES, batches=None), ACCURACY)
    assert without_batches.mean_batch_size == 6 / 5
    assert without_batches.switches_per_1000_batches is None
    assert without_batches.replica_s_per_1000_on_time is None


def test_a_class_has_its_own_scores_and_a_pin_overrides_its_floor() -> None:
    strict, lax, pinned = (SCORE.classes[name] for name in ("strict", "lax", "pinned"))
    assert (strict.requests, lax.requests, pinned.requests) == (5, 2, 1)
    assert (strict.attainment, lax.attainment, pinned.attainment) == (3 / 5, 1 / 2, 1)
    assert (strict.joint_attainment, lax.joint_attainment, pinned.joint_attainment) == (0.4, 0.5, 1)
    assert strict.mean_accuracy == pytest.approx(0.9)
    assert strict.utility == pytest.approx(2.7 / 5)
    assert lax.utility == pytest.approx(0.95 / 2)
    assert (strict.floor, lax.floor, pinned.floor) == (0.9, 0, 0)
    assert (strict.floor_violations, pinned.floor_violations) == (1, 0)


def test_an_accuracy_equal_to_the_floor_meets_it() -> None:
    at_floor = score(OUTCOMES, {"dense": 0.9, "tiny": 0.8})
    assert at_floor.floor_violations == 1  # request 2, by tiny
    assert at_floor.joint_attainment == 4 / 8


def test_fairness_is_jains_index_of_the_classes_utilities() -> None:
    assert SCORE.fairness == pytest.approx(1.815**2 / (3 * (0.54**2 + 0.475**2 + 0.8**2)))
    assert jain(np.array([0.3, 0.3, 0.3])) == pytest.approx(1)
    assert jain(np.array([0.0, 0.0, 0.0, 0.7])) == pytest.approx(1 / 4)


def test_undefined_values_are_none_and_never_nan() -> None:
    empty = score(unanswered_outcomes(), ACCURACY, bound=0.9)
    assert (empty.attainment, empty.utility, empty.regret) == (0, 0, 1)
    assert empty.status_shares["lost"] == 1
    assert empty.latency_s == {}
    assert empty.variant_shares == {}
    for name in (
        "mean_accuracy", "effective_accuracy", "max_accuracy_drop", "fairness", "mean_batch_size",
        "switches_per_1000_batches", "replica_s_per_1000_on_time",
    ):  # fmt: skip
        assert getattr(empty, name) is None
    no_strict = replace(WORKLOAD, class_of=np.full(8, 1, np.int16))
    strict = score(replace(OUTCOMES, workload=no_strict), ACCURACY).classes["strict"]
    assert (strict.requests, strict.attainment, strict.utility) == (0, None, None)


def test_a_score_survives_a_round_trip_through_json() -> None:
    assert Score.model_validate_json(SCORE.model_dump_json()) == SCORE


def test_invalid_outcomes_are_rejected() -> None:
    with pytest.raises(ValueError, match="accuracy of tiny is missing"):
        score(OUTCOMES, {"dense": 0.95})
    none = replace(WORKLOAD, arrivals_s=np.array([]), class_of=np.array([], np.int16))
    with pytest.raises(ValueError, match="must have requests"):
        score(replace(OUTCOMES, workload=none), ACCURACY)
    with pytest.raises(ValueError, match="above 0 seconds"):
        score(replace(OUTCOMES, workload=replace(WORKLOAD, seconds=0.0)), ACCURACY)
    unnamed = np.array([0, 0, 1, 0, -1, -1, 1, -1], np.int16)
    with pytest.raises(ValueError, match="request 4"):
        score(replace(OUTCOMES, variant=unnamed), ACCURACY)
    with pytest.raises(ValueError, match="above 0"):
        score(OUTCOMES, ACCURACY, window_s=0)
