"""The base of everything that is read from a file: immutable, and strict about unknown keys."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

R = TypeVar("R", bound="Record")


class Record(BaseModel):
    """Frozen data, checked where it enters: a typo in a file is an error, not a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def read_record(kind: type[R], path: Path) -> R:
    """Read a record from a JSON file.

    Raises `ValueError` with the file, the place in it and what is wrong there.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path}: {where or 'the file'}: {first['msg']}") from None
