from __future__ import annotations

from typing import Any

from serving.control.size_estimate import estimate_size
from tests.variants.catalog.cards import card, catalog
from variants.catalog.recipe import Recipe, Step


def step(technique: str, **parameters: Any) -> Step:
    return Step(technique=technique, parameters=parameters)


def recipe(*steps: Step) -> Recipe:
    return steps


def test_the_most_similar_report_card_gives_the_estimate() -> None:
    dense = card().model_copy(update={"served_bytes": 1_000, "resident_bytes": 2_000})
    int8 = card().model_copy(update={"served_bytes": 300, "resident_bytes": 700})
    both = catalog({"dense": (dense,), "int8": (int8,)})
    measured = recipe(step("int8", samples=64))
    variants = dict(both.variants)
    variants["int8"] = variants["int8"].model_copy(update={"recipe": measured})
    both = both.model_copy(update={"variants": variants})

    for each, expected, basis in (
        (measured, (300, 700), "int8, which has the same recipe"),
        (recipe(step("int8", samples=8)), (300, 700), "int8, which has the same techniques"),
        (recipe(step("fp16")), (500, 1_000), "dense and the usual effect"),
        (
            recipe(step("structured", share=0.75), step("int8", samples=64)),
            (62, 125),
            "dense and the usual effect",
        ),
    ):
        found = estimate_size(each, both)
        assert (found.served_bytes, found.resident_bytes) == expected
        assert basis in found.basis
    assert estimate_size(measured, both, "another-cpu").served_bytes is None
