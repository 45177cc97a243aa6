"""Generations of variants on disk: complete artifacts that are never changed, by number.

    catalog/<name>/                          what `paretoserve build` writes
    catalog/.generations/<name>/<number>/    variant.json and the files of one generation

A generation is written as a draft and renamed into place: a reader sees a complete one or none.
Only report cards may be added to it. `paretoserve build` does not touch generations. This module
does not import torch.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from variants.catalog import artifact
from variants.catalog.catalog import Variant, read_variant
from variants.catalog.names import file_in, require_inside

GENERATIONS: Final = ".generations"
"""Folder of all generations. Its variants lie deeper than `*/variant.json`, as drafts do."""

_LOCK: Final = ".lock"
"""File in the folder of generations that a process locks while it adopts a variant."""


@dataclass(frozen=True)
class Draft:
    """A complete copy of a variant that has no number yet; see `publish_draft`."""

    folder: Path
    variant: Variant


def digest(variant: Variant) -> str:
    """Return the SHA-256, in hex, over the names and hashes of the files of a variant."""
    lines = sorted(f"{file.name}\0{file.sha256}\n" for file in variant.files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def folder(catalog: Path, name: str, number: int) -> Path:
    """Return the folder of a generation, whether or not it exists."""
    return catalog / GENERATIONS / name / str(number)


def on_disk(catalog: Path) -> frozenset[tuple[str, int]]:
    """Return the names and numbers of all generations that have a folder."""
    found = (catalog / GENERATIONS).glob("*/*")
    return frozenset((path.parent.name, int(path.name)) for path in found if path.name.isdecimal())


def load(catalog: Path, name: str, number: int) -> Variant:
    """Read the record of a generation, and check the presence and size of its files.

    Raises `ValueError` with the file that is missing or damaged. Hashes are not computed: runners
    do that when they load a file, and `verify` does it for all.
    """
    path = folder(catalog, name, number)
    if not path.is_dir():
        raise ValueError(f"generation {number} of {name} is not on disk: there is no {path}")
    variant = _read(catalog, path, name)
    for file in variant.files:
        size = file_in(path, file.name).stat().st_size
        if size != file.size_bytes:
            raise ValueError(
                f"{path / file.name} is damaged: it has {size} bytes, not {file.size_bytes}"
            )
    return variant


def verify(catalog: Path, name: str, number: int) -> Variant:
    """Return the record of a generation after verifying the hash of every file.

    Raises `ValueError` with the file that is missing or damaged.
    """
    variant = load(catalog, name, number)
    for file in variant.files:
        artifact.read(folder(catalog, name, number), file)
    return variant


def adopt(catalog: Path, name: str, number: int) -> str:
    """Make the variant in `catalog/<name>/` a generation; return its digest.

    Its files are linked where the file system allows it, so they take no space and survive a
    rebuild of the variant. If the generation has the same files already, it only gets the newest
    report cards. A damaged one, or one left by a service whose state was deleted, is replaced.

    Raises `ValueError` with the file that is missing or damaged.
    """
    with _adoption_lock(catalog):
        variant = source(catalog, name)
        if _is_intact(catalog, name, number, digest(variant)):
            artifact.write_record(folder(catalog, name, number) / artifact.RECORD, variant)
            return digest(variant)
        with draft(catalog, name) as complete:
            return publish_draft(complete.folder, catalog, name, number)


def source(catalog: Path, name: str) -> Variant:
    """Read the record in `catalog/<name>/`.

    Raises `ValueError` if it is missing or invalid, or that of another variant.
    """
    path = catalog / name
    if not (path / artifact.RECORD).is_file():
        raise ValueError(f"{catalog} has no variant {name!r}: there is no {path}")
    return _read(catalog, path, name)


@contextmanager
def draft(catalog: Path, name: str) -> Iterator[Draft]:
    """Yield a verified draft of the variant in `catalog/<name>/`; delete what is left of it.

    Raises `ValueError` with the file that is missing or damaged.
    """
    with artifact.draft_folder(catalog, prefix=f"{name}-") as drafts:
        variant = source(catalog, name)
        path = drafts / name
        path.mkdir()
        for file in variant.files:
            _link(file_in(catalog / name, file.name), path / file.name)
        artifact.write_record(path / artifact.RECORD, variant)
        for file in variant.files:  # a build may have replaced the variant meanwhile
            artifact.read(path, file)
        yield Draft(path, variant)


def publish_draft(draft_folder: Path, catalog: Path, name: str, number: int) -> str:
    """Move a complete draft, a folder on the same disk, to its generation; return its digest.

    A folder of the same number, left by a builder that was killed before it could report, is
    replaced. Raises `ValueError` if the record of the draft is invalid or is that of another
    variant.
    """
    variant = _read(catalog, draft_folder, name)
    target = folder(catalog, name, number)
    require_inside(catalog, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft_folder.chmod(0o755)
    artifact.sync(draft_folder)
    with artifact.draft_folder(catalog, prefix=f"{name}-") as discarded:
        if target.exists():
            target.rename(discarded / "replaced")
        draft_folder.rename(target)
    for path in (target.parent, target.parent.parent, catalog):
        artifact.sync(path)
    return digest(variant)


def delete(catalog: Path, name: str, number: int) -> None:
    """Delete a generation: rename it away, so no reader sees a part, then delete its files.

    Does nothing if it is not on disk.
    """
    path = folder(catalog, name, number)
    with artifact.draft_folder(catalog, prefix=f"{name}-") as discarded:
        try:
            path.rename(discarded / "deleted")
        except FileNotFoundError:
            return
        artifact.sync(path.parent)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()


@contextmanager
def _adoption_lock(catalog: Path) -> Iterator[None]:
    """Let one process at a time adopt variants: gateways that start together adopt the same."""
    folder = catalog / GENERATIONS
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_intact(catalog: Path, name: str, number: int, expected: str) -> bool:
    """Return whether a generation is on disk, undamaged, with the files of this digest."""
    try:
        return digest(verify(catalog, name, number)) == expected
    except ValueError:
        return False


def _read(catalog: Path, folder: Path, name: str) -> Variant:
    """Read the record in a folder of the catalog; raise `ValueError` if it has another name."""
    variant = read_variant(catalog, folder / artifact.RECORD)
    if variant.name != name:
        raise ValueError(
            f"{folder} holds the variant {variant.name!r}, not {name!r}: its {artifact.RECORD} "
            "must have the name of the folder"
        )
    return variant


def _link(source: Path, target: Path) -> None:
    """Link a file, or copy it where the file system has no links."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
