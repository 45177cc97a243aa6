from __future__ import annotations

from pathlib import Path

import pytest

import examples
from variants.catalog.recipe import Project
from variants.compression.techniques import TECHNIQUES, resolve_all

EXAMPLES = Path(examples.__file__).parent


@pytest.mark.parametrize(
    ("model", "excluded"),
    [
        ("fashion_mnist", set()),
        # A ticket is trained from random weights and cannot reach the published accuracy.
        ("cifar10", {"lottery-ticket"}),
        ("minilm", {"lottery-ticket"}),
    ],
)
def test_the_project_of_all_techniques_uses_every_technique_that_is_not_excluded(
    model: str, excluded: set[str]
) -> None:
    project = Project.load(EXAMPLES / model / "techniques.yaml")
    assert project.model == f"examples.{model}.model"
    steps = [step for recipe in project.recipes.values() for step in resolve_all(recipe)]
    assert {step.kind for step in steps} == TECHNIQUES.keys() - excluded
