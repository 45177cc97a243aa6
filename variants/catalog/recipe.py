"""Recipes: ordered lists of compression steps, as data.

    recipes.yaml ─▶ Project (the model and its recipes) ─▶ build

This module may not import torch: recipes can be read and checked on any machine.
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
    """One technique with its parameters. `variants.compression.techniques` implements it."""

    technique: str
    parameters: dict[str, Any] = Field(default_factory=dict)


Recipe: TypeAlias = tuple[Step, ...]


class Project(Record):
    """A project of a user: a model with its data, and recipes for its variants.

    `model` is the import path of a Python module with the functions `network`, `weights` and
    `datasets` (see `variants.model.loading`).
    """

    name: VariantName
    model: Module
    recipes: dict[VariantName, Recipe]

    @field_validator("recipes")
    @classmethod
    def _require_empty_dense_recipe(cls, recipes: dict[str, Recipe]) -> dict[str, Recipe]:
        if recipes.get(DENSE) != ():
            raise ValueError("recipes must contain `dense: []`, the baseline of all measurements")
        return recipes

    @classmethod
    def load(cls, path: Path) -> Project:
        """Read a project file.

        Raises `ValueError` with one line for each mistake: the file, the field and the problem.
        """
        try:
            return cls.model_validate(yaml.safe_load(path.read_text()))
        except FileNotFoundError:
            raise ValueError(f"there is no project file {path}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not valid YAML: {error}") from None
        except ValidationError as error:
            problems = [
                f"{path}: {'.'.join(map(str, detail['loc'])) or 'the file'}: {_message(detail)}"
                for detail in error.errors()
            ]
            raise ValueError("\n".join(problems)) from None


def _message(error: ErrorDetails) -> str:
    if error["type"] != "extra_forbidden":
        return error["msg"]
    return (
        f"no such field; the fields are {', '.join(_FIELDS if len(error['loc']) == 1 else _STEP)}"
    )


_FIELDS, _STEP = tuple(Project.model_fields), tuple(Step.model_fields)
