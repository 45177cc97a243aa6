from __future__ import annotations

import pytest

from variants.analysis.search.levels import next_level


def levels_tried(levels: int, edge: int) -> list[int]:
    """Return the levels tried if those below `edge` pass."""
    passed: dict[int, bool] = {}
    while (level := next_level(levels, passed)) is not None:
        passed[level] = level < edge
    return list(passed)


@pytest.mark.parametrize(
    ("edge", "tried"),
    [
        pytest.param(0, [0], id="the mildest fails, so that no other is tried"),
        pytest.param(1, [0, 1], id="only the mildest passes"),
        pytest.param(5, [0, 1, 3, 7, 5, 4], id="growing strides, then bisection"),
        pytest.param(12, [0, 1, 3, 7, 11], id="all pass"),
        pytest.param(11, [0, 1, 3, 7, 11, 9, 10], id="only the strongest fails"),
    ],
)
def test_levels_are_tried_from_mild_to_strong(edge: int, tried: list[int]) -> None:
    assert levels_tried(12, edge) == tried


@pytest.mark.parametrize("levels", range(1, 14))
def test_the_edge_is_always_found_and_no_level_tried_twice(levels: int) -> None:
    for edge in range(levels + 1):
        tried = levels_tried(levels, edge)
        assert len(tried) == len(set(tried))
        assert max((level for level in tried if level < edge), default=-1) == edge - 1
        assert levels > 12 or len(tried) <= 7
