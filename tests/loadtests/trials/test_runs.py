from __future__ import annotations

from loadtests.trials.runs import Condition, Trial
from tests.loadtests.trials.sample_trial import trial


def test_scores_are_by_condition_and_policy_in_order_of_seed() -> None:
    sample = trial([(0.5, None, None), (0.9, None, None)])
    shuffled = sample.model_copy(update={"runs": sample.runs[::-1]})
    assert sample.policies == ("slack", "worse", "none")
    assert shuffled.policies == ("none", "worse", "slack")
    for each in (sample, shuffled):
        by_policy = each.scores[Condition(kind="gamma", load=0.9)]
        assert tuple(by_policy) == each.policies
        assert [score.attainment for score in by_policy["slack"]] == [0.9, 0.88]
    assert sample.is_repeated
    assert not trial(seeds=1).is_repeated


def test_the_label_of_a_condition_has_the_settings_that_apply() -> None:
    condition = Condition(kind="gamma", load=0.95, cv2=8, slo_factor=1.5)
    assert condition.label == "gamma, load 0.95, CV² 8, deadline 1.5x"
    assert condition.settings("cv2") == "CV² 8"
    assert Condition(kind="twitter").label == "twitter"


def test_a_trial_survives_a_round_trip_through_json() -> None:
    sample = trial([(0.5, 1, 2)])
    assert Trial.model_validate_json(sample.model_dump_json()) == sample
