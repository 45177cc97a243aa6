from __future__ import annotations

from pathlib import Path

import pytest

import examples
from variants.recipe import Project
from variants.techniques import TECHNIQUES, resolve_all

EXAMPLES = Path(examples.__file__).parent


@pytest.mark.parametrize(
    ("model", "does_not_apply"),
    [
        ("fashion_mnist", {"smoothquant"}),  # it folds into LayerNorms and attention
        # Published weights owe what they are to more than a training from nothing would repeat.
        ("cifar10", {"smoothquant", "lottery-ticket"}),
        ("minilm", {"lottery-ticket"}),
    ],
)
def test_the_project_of_all_techniques_has_each_that_applies(
    model: str, does_not_apply: set[str]
) -> None:
    project = Project.load(EXAMPLES / model / "techniques.yaml")
    assert project.model == f"examples.{model}.model"
    steps = [step for recipe in project.recipes.values() for step in resolve_all(recipe)]
    assert {step.kind for step in steps} == TECHNIQUES.keys() - does_not_apply
