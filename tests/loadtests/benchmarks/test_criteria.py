from __future__ import annotations

from pathlib import Path

import pytest

from loadtests.benchmarks.criteria import CRITERIA, SHARES, compare, rows, sparsity_steps
from tests.small import quiet
from variants.build.check import load_checked_project
from variants.catalog.catalog import Interval
from variants.compression.techniques import resolve_all


@pytest.fixture(scope="module")
def differences(small_project: Path) -> dict[str, dict[str, Interval]]:
    return compare(load_checked_project(small_project), quiet())


@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_pattern_has_a_valid_step_for_every_criterion(criterion: str) -> None:
    steps = sparsity_steps(criterion)
    assert list(steps) == ["2:4", *(f"{share:.0%}" for share in SHARES)]
    for step in steps.values():
        (technique,) = resolve_all((step,))
        assert technique.model_dump()["criterion"] == criterion


def test_the_criterion_that_uses_data_loses_least_at_90_percent(
    differences: dict[str, dict[str, Interval]],
) -> None:
    at_90 = differences["90%"]
    assert at_90["random"].high < at_90["magnitude"].low
    assert at_90["magnitude"].high < at_90["sparsegpt"].low


def test_a_row_has_the_criteria_in_order(
    differences: dict[str, dict[str, Interval]],
) -> None:
    lines = rows("small", differences)
    assert [line[1] for line in lines] == ["2:4", "50%", "70%", "80%", "90%"]
    assert lines[-1][2].startswith(f"{100 * differences['90%']['random'].value:+.2f} [")
    assert lines[-1][-1].startswith(f"{100 * differences['90%']['sparsegpt'].value:+.2f} [")
