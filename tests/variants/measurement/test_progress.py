from __future__ import annotations

from variants.measurement.progress import part


def test_equal_parts_of_parts_add_up_to_the_whole() -> None:
    heard: list[float] = []
    for outer in range(2):
        for inner in range(2):
            for share in (0.0, 0.5, 1.0):
                part(part(heard.append, outer, 2), inner, 2)(share)
    assert heard == [0, 0.125, 0.25, 0.25, 0.375, 0.5, 0.5, 0.625, 0.75, 0.75, 0.875, 1]
