from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serving.experiment.assignment import ROUTER, Arm, Experiment

ROUTED = Arm(name="routed", target=ROUTER, weight=80)
SMALL = Arm(name="small", target="int8", weight=20)
EXPERIMENT = Experiment(name="try-int8", arms=(ROUTED, SMALL))

UNITS = 10_000
MAX_DEVIATIONS = 4.9
"""Bound in standard deviations. A fair split exceeds it for one salt in a million."""


def split(experiment: Experiment) -> Counter[str]:
    return Counter(experiment.assign(f"user-{i}").name for i in range(UNITS))


@given(st.text())
def test_a_unit_always_gets_the_same_arm(unit: str) -> None:
    copy = Experiment.model_validate_json(EXPERIMENT.model_dump_json())
    assert {EXPERIMENT.assign(unit) for _ in range(5)} == {copy.assign(unit)}


@pytest.mark.parametrize("salt", ["", "again", "and again"])
def test_units_are_split_by_weight(salt: str) -> None:
    share = 0.2
    bound = MAX_DEVIATIONS * math.sqrt(UNITS * share * (1 - share))  # 196 of 10,000
    counts = split(EXPERIMENT.model_copy(update={"salt": salt}))
    assert abs(counts["small"] - UNITS * share) < bound
    assert counts.total() == UNITS


def test_requests_without_a_unit_are_split_by_weight() -> None:
    share = 0.2
    bound = MAX_DEVIATIONS * math.sqrt(UNITS * share * (1 - share))
    counts = Counter(EXPERIMENT.assign(None).name for _ in range(UNITS))
    assert abs(counts["small"] - UNITS * share) < bound


def test_only_the_ratio_of_the_weights_matters() -> None:
    scaled = Experiment(
        name="try-int8",
        arms=(ROUTED.model_copy(update={"weight": 0.4}), SMALL.model_copy(update={"weight": 0.1})),
    )
    assert split(scaled) == split(EXPERIMENT)


def test_many_arms_each_get_their_share() -> None:
    arms = tuple(Arm(name=f"arm-{i}", target=ROUTER, weight=i) for i in range(1, 5))
    counts = split(Experiment(name="four", arms=arms))
    for arm in arms:
        share = arm.weight / 10
        bound = MAX_DEVIATIONS * math.sqrt(UNITS * share * (1 - share))
        assert abs(counts[arm.name] - UNITS * share) < bound


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(EXPERIMENT.model_copy(update={"salt": "again"}), id="another salt"),
        pytest.param(EXPERIMENT.model_copy(update={"name": "another"}), id="another experiment"),
    ],
)
def test_another_salt_or_name_assigns_the_units_again(other: Experiment) -> None:
    units = [f"user-{i}" for i in range(UNITS)]
    both_small = sum(
        EXPERIMENT.assign(unit).name == other.assign(unit).name == "small" for unit in units
    )
    share = 0.2 * 0.2  # as for independent draws
    assert abs(both_small - UNITS * share) < MAX_DEVIATIONS * math.sqrt(UNITS * share * (1 - share))


@given(
    st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=6),
    st.text() | st.none(),
)
def test_a_unit_is_assigned_to_one_of_the_arms_for_any_weights(
    weights: list[float], unit: str | None
) -> None:
    arms = tuple(
        Arm(name=f"arm-{i}", target=ROUTER, weight=weight) for i, weight in enumerate(weights)
    )
    assert Experiment(name="any", arms=arms).assign(unit) in arms


@pytest.mark.parametrize(
    ("targets", "qualifying", "is_fair"),
    [
        pytest.param(("router", "int8"), ("dense", "int8"), True, id="every arm could serve it"),
        pytest.param(("router", "int8"), ("dense",), False, id="one arm could not serve it"),
        pytest.param(("dense", "int8"), ("dense", "int8"), True, id="two variants, both qualify"),
        pytest.param(("dense", "int8"), ("int8",), False, id="two variants, one does not qualify"),
        pytest.param(
            ("router", "router"), ("dense",), True, id="the router can serve every request"
        ),
    ],
)
def test_a_request_is_compared_only_if_every_arm_could_serve_it(
    targets: tuple[str, str], qualifying: tuple[str, ...], is_fair: bool
) -> None:
    arms = tuple(Arm(name=f"arm-{i}", target=target, weight=1) for i, target in enumerate(targets))
    assert Experiment(name="fair", arms=arms).is_fair_to(qualifying) is is_fair


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        pytest.param((ROUTED,), "at least 2", id="only one arm"),
        pytest.param(
            (ROUTED, ROUTED),
            "names of arms must be unique, got routed, routed",
            id="two arms with one name",
        ),
    ],
)
def test_invalid_experiments_are_rejected(arms: tuple[Arm, ...], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Experiment(name="bad", arms=arms)


@pytest.mark.parametrize("weight", [0, -1, math.inf, math.nan])
def test_a_weight_is_a_finite_number_above_0(weight: float) -> None:
    with pytest.raises(ValidationError, match="weight"):
        Arm(name="a", target=ROUTER, weight=weight)
