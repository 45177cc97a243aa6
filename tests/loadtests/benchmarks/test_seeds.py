from __future__ import annotations

import pytest

from loadtests.benchmarks.seeds import CONTROL, RecipeResult, recipes, summarize
from variants.compression.techniques import resolve_all


def test_every_recipe_is_valid_and_ends_with_recovery() -> None:
    by_name = recipes(epochs=2)
    assert next(iter(by_name)) == CONTROL
    for recipe in by_name.values():
        assert resolve_all(recipe)[-1].kind == "recover"


def test_the_interval_of_the_mean_is_a_t_interval() -> None:
    differences = (0.001, 0.003, -0.001, 0.002, 0.000)
    by_seed = [{"half": RecipeResult(0.5, difference)} for difference in differences]
    # Mean 0.1, deviation 0.158 points: 0.1 +- 2.776 * 0.158 / sqrt(5).
    assert summarize(by_seed) == [("half", "50.0%", "+0.10 [-0.10, +0.30]", "-0.10")]


def test_the_least_removed_share_is_shown() -> None:
    by_seed = [{"half": RecipeResult(removed_share, 0.0)} for removed_share in (0.512, 0.498)]
    (row,) = summarize(by_seed)
    assert row[1] == "49.8%"


@pytest.mark.parametrize("number", [2, 8])
def test_two_or_more_seeds_have_an_interval(number: int) -> None:
    assert len(summarize([{"half": RecipeResult(0.5, 0.0)}] * number)) == 1
