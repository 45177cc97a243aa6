from __future__ import annotations

import pytest

from variants.analysis.search.space import STRENGTH, Family, families
from variants.catalog.recipe import Recipe, VariantName
from variants.catalog.record import Record
from variants.compression.techniques import resolve_all

SPACE = families(recover_epochs=3)


class Named(Record):
    name: VariantName
    recipe: Recipe


@pytest.mark.parametrize("family", SPACE, ids=lambda family: family.name)
def test_every_level_is_a_recipe_that_can_be_built_under_its_name(family: Family) -> None:
    levels = range(len(family.strengths))
    for level in levels:
        recipe = family.at(level)
        resolve_all(recipe)
        Named(name=family.label(level), recipe=recipe)
        assert STRENGTH not in [v for step in recipe for v in step.parameters.values()]
        assert all(s.parameters["epochs"] == 3 for s in recipe if s.technique == "recover")
    assert len({family.label(level) for level in levels}) == len(levels)
    assert len(set(map(str, (family.at(level) for level in levels)))) == len(levels)
    assert family.lowers


def test_strength_grows_from_mild_to_strong() -> None:
    for family in SPACE:
        falls = any(step.technique in ("low-rank", "weight-sharing") for step in family.recipe)
        assert list(family.strengths) == sorted(family.strengths, reverse=falls)
