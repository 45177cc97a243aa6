from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from variants.catalog.frontier import FrontierPoint, frontier

POINTS = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=2),
    # Few distinct values, so that ties are common.
    st.builds(FrontierPoint, st.sampled_from([0.7, 0.8, 0.9]), st.sampled_from([1e-3, 2e-3, 4e-3])),
    min_size=1,
)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        pytest.param({}, set(), id="no points"),
        pytest.param(
            {"a": FrontierPoint(0.9, 2), "b": FrontierPoint(0.8, 1)},
            {"a", "b"},
            id="a trade-off keeps both",
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
            id="equal points are both kept",
        ),
    ],
)
def test_the_frontier(points: dict[str, FrontierPoint], expected: set[str]) -> None:
    assert frontier(points) == expected


@given(POINTS)
def test_a_point_is_dominated_by_the_frontier_if_and_only_if_it_is_not_on_it(
    points: dict[str, FrontierPoint],
) -> None:
    best = frontier(points)
    for name, point in points.items():
        dominating = [other for other in best if points[other].dominates(point)]
        assert (name in best) == (not dominating)


@given(POINTS)
def test_accuracy_increases_with_latency_along_the_frontier(
    points: dict[str, FrontierPoint],
) -> None:
    best = {points[name] for name in frontier(points)}
    by_latency = sorted(best, key=lambda point: point.latency_s)
    accuracies = [point.accuracy for point in by_latency]
    assert accuracies == sorted(set(accuracies))


@given(POINTS)
def test_removing_dominated_points_does_not_change_the_frontier(
    points: dict[str, FrontierPoint],
) -> None:
    best = frontier(points)
    assert frontier({name: points[name] for name in best}) == best
