"""A variant's files on disk: written whole or not at all, and never trusted unread.

    catalog/.building/<name>-*/     while it is written; fsynced, then renamed to
    catalog/<name>/                 variant.json and the files it lists with their sha256

A reader sees a whole variant or none. What reads here imports no torch.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from variants.catalog.catalog import File, Variant
from variants.catalog.record import Record

RECORD = "variant.json"
DRAFTS = ".building"
"""Two levels below the catalog, so that no reader of `*/variant.json` meets what is unfinished."""
_REPLACED = "replaced-"


def save(catalog: Path, variant: Variant, files: Mapping[str, bytes]) -> Variant:
    """Write `variant` with these files into the catalog, in place of one of the same name.

    Returns the variant with its `files` filled in. If anything fails, the catalog is as before.
    """
    variant = variant.model_copy(
        update={"files": tuple(_describe(name, content) for name, content in files.items())}
    )
    workshop = catalog / DRAFTS
    workshop.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f"{variant.name}-", dir=workshop))
    try:
        for name, content in files.items():
            _write(draft / name, content)
        _write(draft / RECORD, _json(variant))
        draft.chmod(0o755)  # mkdtemp's 0700 would hide the variant from a service's own user
        _sync(draft)
        move(draft, catalog / variant.name)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return variant


def read(folder: Path, file: File) -> bytes:
    """Return a file of the variant in `folder`, once its hash has been found right.

    Raises `ValueError` with the name of the file if it is missing or not what was written.
    """
    try:
        content = (folder / file.name).read_bytes()
    except OSError as error:
        raise ValueError(f"{folder / file.name} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise ValueError(
            f"{folder / file.name} is damaged: its sha256 is not the one in {RECORD}; build it anew"
        )
    return content


def read_all(folder: Path, variant: Variant) -> dict[str, bytes]:
    """Return every file of the variant in `folder` by name; raises as `read` does."""
    return {file.name: read(folder, file) for file in variant.files}


def write_record(path: Path, record: Record) -> None:
    """Write `catalog.json` or a new `variant.json` as `write_file` does."""
    write_file(path, _json(record))


def write_file(path: Path, content: bytes) -> None:
    """Write or replace a file in one step: readers see the old or the new, never a part."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write(draft, content)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def remove(catalog: Path, name: str) -> None:
    """Take a variant out of the catalog: it is gone at once, and its files soon after."""
    workshop = catalog / DRAFTS
    workshop.mkdir(exist_ok=True)
    grave = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=workshop))
    (catalog / name).rename(grave / name)
    shutil.rmtree(grave)


def move(draft: Path, target: Path) -> None:
    """Rename the folder `draft` to `target`, a variant's place in a catalog on the same disk.

    POSIX cannot replace a full folder, so an old one steps aside. Killed between the two renames,
    the old one waits for `recover` to put it back.
    """
    replaced = target.parent / DRAFTS / f"{_REPLACED}{target.name}"
    if target.exists():
        target.rename(replaced)
    try:
        draft.rename(target)
    except BaseException:
        if replaced.exists():
            replaced.rename(target)
        raise
    _sync(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def recover(catalog: Path) -> None:
    """Undo what a killed writer left behind. Call it before writing, with no other writer about."""
    workshop = catalog / DRAFTS
    if not workshop.is_dir():
        return
    for replaced in workshop.glob(f"{_REPLACED}*"):
        name = replaced.name.removeprefix(_REPLACED)
        if not (catalog / name).exists():
            replaced.rename(catalog / name)
    shutil.rmtree(workshop)


def _describe(name: str, content: bytes) -> File:
    return File(name=name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def _json(record: Record) -> bytes:
    return record.model_dump_json(indent=2).encode() + b"\n"


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Make renames in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
