"""Recipes: ordered lists of compression steps, as data.

    recipes.yaml ─▶ Project (the model and its recipes) ─▶ build

This module may not import torch: recipes can be read and checked on any machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from variants.catalog.document import Document
from variants.catalog.record import Record
from variants.catalog.words import described_pattern, place, plain

VariantName: TypeAlias = Annotated[
    str,
    Field(
        pattern=described_pattern(
            r"^[a-z0-9][a-z0-9.:-]{0,62}$",
            "must be a name of 1 to 63 lower-case letters, digits, dots, colons and hyphens, "
            "beginning with a letter or digit, such as int8-dynamic",
        )
    ),
]
Module: TypeAlias = Annotated[
    str,
    Field(
        pattern=described_pattern(
            r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$",
            "must be an import path with dots and without .py, such as examples.my.model",
        )
    ),
]
Reference: TypeAlias = Annotated[
    str,
    Field(
        pattern=described_pattern(
            r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
            "must be a module and a function, such as examples.my.model:network",
        )
    ),
]

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

        Raises `ValueError` with one line for each mistake: the file, its line, the field and the
        problem. A key that is there twice is a mistake, too.
        """
        try:
            document = Document(path.read_text())
        except FileNotFoundError:
            raise ValueError(f"there is no project file {path}") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not text in UTF-8: {error}") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        try:
            return cls.model_validate(document.content)
        except ValidationError as error:
            problems = [
                f"{path}: line {document.line(detail['loc']) or 1}: "
                f"{place(detail) or 'the file'}: {_message(detail)}"
                for detail in error.errors()
            ]
            raise ValueError("\n".join(problems)) from None


def _message(error: ErrorDetails) -> str:
    if error["type"] != "extra_forbidden":
        return plain(error)
    return (
        f"no such field; the fields are {', '.join(_FIELDS if len(error['loc']) == 1 else _STEP)}"
    )


_FIELDS, _STEP = tuple(Project.model_fields), tuple(Step.model_fields)
