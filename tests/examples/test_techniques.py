from __future__ import annotations

from pathlib import Path

import pytest

import examples
from variants.catalog.recipe import Project
from variants.compression.techniques import TECHNIQUES, resolve_all

EXAMPLES = Path(examples.__file__).parent


@pytest.mark.parametrize(
    ("model", "left_out"),
    [
        ("fashion_mnist", set()),
        # A ticket is trained from nothing, and published weights owe more to their training.
        ("cifar10", {"lottery-ticket"}),
        ("minilm", {"lottery-ticket"}),
    ],
)
def test_the_project_of_all_techniques_has_each_but_those_left_out(
    model: str, left_out: set[str]
) -> None:
    project = Project.load(EXAMPLES / model / "techniques.yaml")
    assert project.model == f"examples.{model}.model"
    steps = [step for recipe in project.recipes.values() for step in resolve_all(recipe)]
    assert {step.kind for step in steps} == TECHNIQUES.keys() - left_out
