"""What to do to a model, as data: a recipe is a list of steps in order, never code.

    recipes.yaml ─▶ Project (the model and its recipes) ─▶ build

Nothing here may import torch: a recipe can be read, checked and shown on any machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import yaml
from pydantic import Field, ValidationError, field_validator

from variants.record import Record

VariantName: TypeAlias = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.:-]{0,62}$")]
Reference: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]

DENSE = "dense"


class Step(Record):
    """One technique with its parameters; `variants.techniques` knows how to run it."""

    technique: str
    parameters: dict[str, Any] = Field(default_factory=dict)


Recipe: TypeAlias = tuple[Step, ...]


class Project(Record):
    """What the user brings: a model, its data, and the recipes to make variants from it.

    `factory` names a function that returns the untrained `nn.Module`; `datasets` one that returns
    `variants.dataset.Datasets`; `weights` is a safetensors file, relative to the project file.
    """

    name: VariantName
    factory: Reference
    datasets: Reference
    weights: Path
    recipes: dict[VariantName, Recipe]

    @field_validator("recipes")
    @classmethod
    def _dense_is_there_and_empty(cls, recipes: dict[str, Recipe]) -> dict[str, Recipe]:
        if recipes.get(DENSE) != ():
            raise ValueError(
                "recipes must contain `dense: []`: every other variant is measured against it"
            )
        return recipes

    @classmethod
    def load(cls, path: Path) -> Project:
        """Read a project file.

        Raises `ValueError` with the file, the place in it and what would be right.
        """
        try:
            project = cls.model_validate(yaml.safe_load(path.read_text()))
        except FileNotFoundError:
            raise ValueError(f"there is no project file {path}") from None
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not valid YAML: {error}") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"{path}: {where or 'the file'}: {first['msg']}") from None
        return project.model_copy(update={"weights": path.parent / project.weights})
