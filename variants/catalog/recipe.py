"""What to do to a model, as data: a recipe is a list of steps in order, never code.

    recipes.yaml ─▶ Project (the model and its recipes) ─▶ build

Nothing here may import torch: a recipe can be read, checked and shown on any machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import yaml
from pydantic import Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from variants.catalog.record import Record

VariantName: TypeAlias = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.:-]{0,62}$")]
Module: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]
Reference: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]

DENSE = "dense"


class Step(Record):
    """One technique with its parameters; `variants.compression.techniques` knows how to run it."""

    technique: str
    parameters: dict[str, Any] = Field(default_factory=dict)


Recipe: TypeAlias = tuple[Step, ...]


class Project(Record):
    """What the user brings: a model with its data, and the recipes to make variants from it.

    `model` is the import path of a Python file with the functions `network`, `weights` and
    `datasets`, as `variants.model.loading` describes them.
    """

    name: VariantName
    model: Module
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

        Raises `ValueError` with the file, and on a line for each: the place in it, what is wrong.
        """
        try:
            return cls.model_validate(yaml.safe_load(path.read_text()))
        except FileNotFoundError:
            raise ValueError(f"there is no project file {path}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not valid YAML: {error}") from None
        except ValidationError as error:
            wrong = [
                f"{path}: {'.'.join(map(str, one['loc'])) or 'the file'}: {_words(one)}"
                for one in error.errors()
            ]
            raise ValueError("\n".join(wrong)) from None


def _words(error: ErrorDetails) -> str:
    if error["type"] != "extra_forbidden":
        return error["msg"]
    return f"no such field; there are {', '.join(_FIELDS if len(error['loc']) == 1 else _STEP)}"


_FIELDS, _STEP = tuple(Project.model_fields), tuple(Step.model_fields)
