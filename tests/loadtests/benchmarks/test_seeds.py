from __future__ import annotations

import pytest

from loadtests.benchmarks.seeds import CONTROL, Outcome, recipes, summarize
from variants.compression.techniques import resolve_all


def test_every_recipe_that_is_tried_can_work() -> None:
    tried = recipes(epochs=2)
    assert next(iter(tried)) == CONTROL
    for recipe in tried.values():
        assert resolve_all(recipe)[-1].kind == "recover"


def test_the_interval_of_the_mean_is_students() -> None:
    differences = (0.001, 0.003, -0.001, 0.002, 0.000)
    seeds = [{"half": Outcome(removed=0.5, difference=one)} for one in differences]
    # Mean 0.1, deviation 0.158 points: 0.1 +- 2.776 * 0.158 / sqrt(5).
    assert summarize(seeds) == [("half", "50.0%", "+0.10 [-0.10, +0.30]", "-0.10")]


def test_the_least_removed_counts() -> None:
    seeds = [{"half": Outcome(removed, 0.0)} for removed in (0.512, 0.498)]
    (row,) = summarize(seeds)
    assert row[1] == "49.8%"


@pytest.mark.parametrize("number", [2, 8])
def test_so_many_seeds_are_enough(number: int) -> None:
    assert len(summarize([{"half": Outcome(0.5, 0.0)}] * number)) == 1
