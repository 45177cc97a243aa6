from __future__ import annotations

import pytest

from variants.analysis.search.walk import next_level


def walk(levels: int, edge: int) -> list[int]:
    """Return the levels tried when those below `edge` hold."""
    held: dict[int, bool] = {}
    while (level := next_level(levels, held)) is not None:
        held[level] = level < edge
    return list(held)


@pytest.mark.parametrize(
    ("edge", "tried"),
    [
        pytest.param(0, [0], id="the mildest fails: nothing else is tried"),
        pytest.param(1, [0, 1], id="only the mildest holds"),
        pytest.param(5, [0, 1, 3, 7, 5, 4], id="strides, then halves"),
        pytest.param(12, [0, 1, 3, 7, 11], id="all hold"),
        pytest.param(11, [0, 1, 3, 7, 11, 9, 10], id="only the strongest fails"),
    ],
)
def test_levels_are_tried_from_mild_to_strong(edge: int, tried: list[int]) -> None:
    assert walk(12, edge) == tried


@pytest.mark.parametrize("levels", range(1, 14))
def test_the_edge_is_always_found_and_no_level_tried_twice(levels: int) -> None:
    for edge in range(levels + 1):
        tried = walk(levels, edge)
        assert len(tried) == len(set(tried))
        assert max((level for level in tried if level < edge), default=-1) == edge - 1
        assert levels > 12 or len(tried) <= 7
