"""Artifacts: the files of a variant on disk, written atomically and verified when read.

    catalog/.building/<name>-*/     a draft while it is written; fsynced, then renamed to
    catalog/<name>/                 variant.json and the files it lists with their sha256

A reader sees a complete variant or none. This module does not import torch.
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
"""Folder of unfinished variants. Drafts lie two levels deep, so `*/variant.json` skips them."""
_REPLACED = "replaced-"


def save(catalog: Path, variant: Variant, files: Mapping[str, bytes]) -> Variant:
    """Write `variant` and its files into the catalog; replace a variant of the same name.

    Returns the variant with its `files` filled in. On failure the catalog is unchanged.
    """
    variant = variant.model_copy(
        update={"files": tuple(_describe(name, content) for name, content in files.items())}
    )
    drafts = catalog / DRAFTS
    drafts.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f"{variant.name}-", dir=drafts))
    try:
        for name, content in files.items():
            _write(draft / name, content)
        _write(draft / RECORD, _json(variant))
        draft.chmod(0o755)  # mkdtemp creates 0700, unreadable for a service user
        _sync(draft)
        move(draft, catalog / variant.name)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return variant


def read(folder: Path, file: File) -> bytes:
    """Return the content of a file of the variant in `folder` after verifying its hash.

    Raises `ValueError` with the name of the file if it is missing or its hash differs.
    """
    try:
        content = (folder / file.name).read_bytes()
    except OSError as error:
        raise ValueError(f"{folder / file.name} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise ValueError(
            f"{folder / file.name} is damaged: its sha256 is not that in {RECORD}; rebuild it"
        )
    return content


def read_all(folder: Path, variant: Variant) -> dict[str, bytes]:
    """Return the content of every file of the variant in `folder` by name; raises like `read`."""
    return {file.name: read(folder, file) for file in variant.files}


def write_record(path: Path, record: Record) -> None:
    """Write a record such as `catalog.json` or `variant.json` atomically, as JSON."""
    write_file(path, _json(record))


def write_file(path: Path, content: bytes) -> None:
    """Write or replace a file atomically: readers see the old content or the new, never a part."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write(draft, content)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def remove(catalog: Path, name: str) -> None:
    """Remove a variant from the catalog in one rename, then delete its files."""
    drafts = catalog / DRAFTS
    drafts.mkdir(exist_ok=True)
    discarded = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=drafts))
    (catalog / name).rename(discarded / name)
    shutil.rmtree(discarded)


def move(draft: Path, target: Path) -> None:
    """Rename the folder `draft` to `target`, a variant's folder in a catalog on the same disk.

    POSIX cannot replace a non-empty folder, so an existing one is first renamed to a backup. If
    the process is killed between the two renames, `recover` restores the backup.
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
    """Restore backups and delete drafts of a killed writer. No other writer may run meanwhile."""
    drafts = catalog / DRAFTS
    if not drafts.is_dir():
        return
    for replaced in drafts.glob(f"{_REPLACED}*"):
        name = replaced.name.removeprefix(_REPLACED)
        if not (catalog / name).exists():
            replaced.rename(catalog / name)
    shutil.rmtree(drafts)


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
    """Fsync a folder, which makes renames in it durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
