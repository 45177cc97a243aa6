from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.routing.tiers import tier_accuracies
from tests.variants.catalog.cards import around
from variants.catalog.catalog import Interval
from variants.catalog.comparison import BETTER, WITHIN_NOISE, WORSE, accuracy_verdict

DENSE = {"dense": around(0.0, 0.0)}


def tiers(differences: Mapping[str, Interval], margin: float = 0.0) -> list[list[str]]:
    """Return the names of the variants by tier, the best tier first."""
    accuracies = tier_accuracies(DENSE | dict(differences), 0.9, margin)
    return [
        [name for name, accuracy in accuracies.items() if accuracy == tier]
        for tier in sorted(set(accuracies.values()), reverse=True)
    ]


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        pytest.param({"pruned": around(0.0013, 0.003)}, [["dense", "pruned"]], id="not better"),
        pytest.param({"int8": around(-0.0001, 0.0007)}, [["dense", "int8"]], id="not worse"),
        pytest.param({"int8": around(-0.02, 0.005)}, [["dense"], ["int8"]], id="worse"),
        pytest.param({"pruned": around(0.02, 0.005)}, [["pruned"], ["dense"]], id="better"),
        pytest.param(
            {"a": around(0.0013, 0.003), "b": around(0.0012, 0.001)},
            [["b"], ["dense", "a"]],
            id="a certain gain is more than a larger uncertain one",
        ),
        pytest.param(
            {"a": around(-0.02, 0.005), "b": around(-0.021, 0.005)},
            [["dense"], ["a"], ["b"]],
            id="two that are worse, by their estimates",
        ),
        pytest.param(
            {"a": around(-0.02, 0.005), "b": around(-0.02, 0.001)},
            [["dense"], ["a", "b"]],
            id="two that are worse with the same estimate",
        ),
    ],
)
def test_the_interval_decides(
    differences: Mapping[str, Interval], expected: list[list[str]]
) -> None:
    assert tiers(differences) == expected


@pytest.mark.parametrize(
    ("margin", "expected"),
    [
        (0.0, [["better"], ["dense"], ["b"], ["c"], ["d"]]),
        (0.0015, [["better"], ["dense"], ["b", "c"], ["d"]]),
        (0.0025, [["better"], ["dense"], ["b", "c", "d"]]),
        (0.006, [["better"], ["dense", "b", "c", "d"]]),
        (0.02, [["dense", "better", "b", "c", "d"]]),
    ],
)
def test_the_margin_widens_tiers(margin: float, expected: list[list[str]]) -> None:
    differences = {
        "better": around(0.020, 0.001),
        "b": around(-0.005, 0.001),
        "c": around(-0.006, 0.001),
        "d": around(-0.007, 0.001),
    }
    assert tiers(differences, margin) == expected


SAMPLES = 1_000

intervals = st.tuples(st.integers(-500, 500), st.integers(0, 100), st.integers(0, 100)).map(
    lambda parts: Interval(
        value=parts[0] / SAMPLES,
        low=(parts[0] - parts[1]) / SAMPLES,
        high=(parts[0] + parts[2]) / SAMPLES,
    )
)
"""Differences of counts, as those of report cards."""


@given(st.dictionaries(st.sampled_from("abcdef"), intervals), st.floats(0, 0.2))
def test_tiers_are_ordered_by_verdict_and_within_it_by_estimate(
    differences: Mapping[str, Interval], margin: float
) -> None:
    accuracies = tier_accuracies(DENSE | dict(differences), 0.9, margin)
    for name, difference in differences.items():
        match accuracy_verdict(difference, margin):
            case "better":
                assert accuracies[name] > 0.9
            case "worse":
                assert accuracies[name] < 0.9
            case _:
                assert accuracies[name] == 0.9
    for verdict in (BETTER, WORSE):
        own = [n for n, d in differences.items() if accuracy_verdict(d, margin) == verdict]
        own.sort(key=lambda name: differences[name].value)
        assert [accuracies[n] for n in own] == sorted(accuracies[n] for n in own)
        for name in own:
            raised = accuracies[name] - 0.9 - differences[name].value
            assert -1e-9 <= raised <= margin + 1e-9


@given(intervals)
def test_a_margin_of_0_is_the_verdict_of_the_report(difference: Interval) -> None:
    tier = tier_accuracies({"a": difference}, 0.9)["a"]
    assert (tier == 0.9) == (accuracy_verdict(difference) == WITHIN_NOISE)
