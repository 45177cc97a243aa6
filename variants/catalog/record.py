"""Base class of all records read from files: immutable and strict about unknown keys."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from variants.catalog.words import first_problem

R = TypeVar("R", bound="Record")


class Record(BaseModel):
    """Immutable validated data. Unknown keys are errors, so typos are not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def read_record(kind: type[R], path: Path) -> R:
    """Read a record from a JSON file.

    Raises `ValueError` with the file, the field and the problem.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path}: {first_problem(error)}") from None
