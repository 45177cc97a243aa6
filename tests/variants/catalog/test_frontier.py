from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from variants.catalog.frontier import FrontierPoint, frontier

POINTS = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=2),
    # few distinct values, so that ties are common
    st.builds(FrontierPoint, st.sampled_from([0.7, 0.8, 0.9]), st.sampled_from([1e-3, 2e-3, 4e-3])),
    min_size=1,
)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        pytest.param({}, set(), id="nothing has no frontier"),
        pytest.param(
            {"a": FrontierPoint(0.9, 2), "b": FrontierPoint(0.8, 1)},
            {"a", "b"},
            id="a trade keeps both",
        ),
        pytest.param(
            {"a": FrontierPoint(0.9, 1), "b": FrontierPoint(0.8, 2)},
            {"a"},
            id="better in both wins",
        ),
        pytest.param(
            {"a": FrontierPoint(0.9, 1), "b": FrontierPoint(0.9, 2)},
            {"a"},
            id="as accurate and faster",
        ),
        pytest.param(
            {"a": FrontierPoint(0.9, 1), "b": FrontierPoint(0.8, 1)},
            {"a"},
            id="as fast, more accurate",
        ),
        pytest.param(
            {"a": FrontierPoint(0.9, 1), "b": FrontierPoint(0.9, 1)},
            {"a", "b"},
            id="equals both stay",
        ),
    ],
)
def test_the_rule(points: dict[str, FrontierPoint], expected: set[str]) -> None:
    assert frontier(points) == expected


@given(POINTS)
def test_what_is_off_the_frontier_is_beaten_by_something_on_it(
    points: dict[str, FrontierPoint],
) -> None:
    best = frontier(points)
    for name, point in points.items():
        beaten_by = [b for b in best if points[b].dominates(point)]
        assert (name in best) == (not beaten_by)


@given(POINTS)
def test_along_the_frontier_slower_is_more_accurate(points: dict[str, FrontierPoint]) -> None:
    best = {points[name] for name in frontier(points)}
    by_latency = sorted(best, key=lambda point: point.latency_s)
    accuracies = [point.accuracy for point in by_latency]
    assert accuracies == sorted(set(accuracies))


@given(POINTS)
def test_taking_away_what_is_beaten_changes_nothing(points: dict[str, FrontierPoint]) -> None:
    best = frontier(points)
    assert frontier({name: points[name] for name in best}) == best
