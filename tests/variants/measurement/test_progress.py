from __future__ import annotations

from variants.measurement.progress import subtask


def test_nested_subtasks_report_their_fraction_of_the_whole_task() -> None:
    fractions: list[float] = []
    for outer in range(2):
        for inner in range(2):
            for fraction in (0.0, 0.5, 1.0):
                subtask(subtask(fractions.append, outer, 2), inner, 2)(fraction)
    assert fractions == [0, 0.125, 0.25, 0.25, 0.375, 0.5, 0.5, 0.625, 0.75, 0.75, 0.875, 1]
