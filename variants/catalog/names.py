"""Names of files in a catalog, and the paths that they may lead to.

A catalog may come from elsewhere, so a name is never a path, and a symbolic link never leads out of
the folder it lies in: what is read is what the catalog contains.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

RECORD: Final = "variant.json"

_PLAIN: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def _require_plain(name: str) -> str:
    if not _PLAIN.fullmatch(name):
        raise PydanticCustomError(
            "file_name",
            "{name} is not a plain file name: it must have only letters A to Z, digits, `.`, `_` "
            "and `-`, and begin with a letter, a digit or `_`",
            {"name": ascii(name[:100])},
        )
    if name.lower() == RECORD:
        raise PydanticCustomError(
            "file_name",
            "{name} is the record itself: list only the other files of the variant",
            {"name": ascii(name)},
        )
    return name


FileName: TypeAlias = Annotated[str, AfterValidator(_require_plain)]
"""The name of a file that lies directly in the folder of a variant."""


def file_in(folder: Path, name: str) -> Path:
    """Return the path of a regular file in a folder, with symbolic links resolved.

    Raises `ValueError` with the path if it cannot be read, is not a regular file, or is a link that
    leads out of the folder.
    """
    path = folder / name
    try:
        found = path.resolve(strict=True)
        mode = found.stat().st_mode
    except RuntimeError:  # Python 3.11 and 3.12; later ones raise `OSError`
        raise ValueError(f"{path} cannot be read: it is a loop of symbolic links") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if not found.is_relative_to(folder.resolve()):
        raise ValueError(
            f"{path} is a link to {found}, outside {folder}: replace it by a copy of that file"
        )
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} is not a regular file: replace it by one, or build it again")
    return found


def require_inside(catalog: Path, folder: Path) -> None:
    """Raise `ValueError` if the folder of a variant is a link that leads out of the catalog."""
    if not (found := folder.resolve()).is_relative_to(catalog.resolve()):
        raise ValueError(
            f"{folder} is a link to {found}, outside the catalog {catalog}: replace it by a copy "
            "of that folder"
        )


def require_own_names(names: Mapping[Path, str]) -> None:
    """Raise `ValueError` unless each variant has the name of its folder, and no other's.

    `names` has the name in each `variant.json` by the path of this file.
    """
    paths: dict[str, Path] = {}
    for path, name in names.items():
        if name in paths:
            raise ValueError(
                f"{paths[name]} and {path} both have the name {name!r}: a name must occur once, so "
                "delete one of the folders or build it under its own name"
            )
        paths[name] = path
    for path, name in names.items():
        if name != path.parent.name:
            raise ValueError(
                f"{path} has the name {name!r}, but its folder has {path.parent.name!r}: rename "
                f"the folder to {name}"
            )
