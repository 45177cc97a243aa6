"""Artifacts: the files of a variant on disk, written atomically and verified when read.

    catalog/.building/*/<name>/     a draft while it is written; fsynced, then renamed to
    catalog/<name>/                 variant.json and the files it lists with their sha256

A reader sees a complete variant or none. This module does not import torch.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

from variants.catalog import names
from variants.catalog.catalog import File, Variant
from variants.catalog.external_data import refuse_external_data
from variants.catalog.record import Record

RECORD: Final = names.RECORD
DRAFTS = ".building"
"""Folder of unfinished variants. Drafts lie deeper than `*/variant.json`."""
_REPLACED = "replaced-"
_LOCK = ".lock"
"""File in a folder of drafts that its writer keeps locked."""


def save(catalog: Path, variant: Variant, files: Mapping[str, bytes]) -> Variant:
    """Write `variant` and its files into the catalog; replace a variant of the same name.

    Returns the variant with its `files` filled in. On failure the catalog is unchanged.
    """
    variant = variant.model_copy(
        update={"files": tuple(_describe(name, content) for name, content in files.items())}
    )
    with draft_folder(catalog, prefix=f"{variant.name}-") as drafts:
        draft = drafts / variant.name
        draft.mkdir()
        for name, content in files.items():
            _write(draft / name, content)
        _write(draft / RECORD, _json(variant))
        sync(draft)
        move(draft, catalog / variant.name)
    return variant


def read(folder: Path, file: File) -> bytes:
    """Return the content of a file of the variant in `folder` after verifying its hash.

    Raises `ValueError` with the name of the file if it is missing, if its hash differs, if it is a
    link that leads out of the folder, or if it is an ONNX model with tensors in other files.
    """
    found = names.file_in(folder, file.name)
    try:
        content = found.read_bytes()
    except OSError as error:
        raise ValueError(f"{folder / file.name} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise ValueError(
            f"{folder / file.name} is damaged: its sha256 is not that in {RECORD}; rebuild it"
        )
    refuse_external_data(folder / file.name, content)
    return content


def read_all(folder: Path, variant: Variant) -> dict[str, bytes]:
    """Return the content of every file of the variant in `folder` by name; raises like `read`."""
    return {file.name: read(folder, file) for file in variant.files}


def write_record(path: Path, record: Record) -> None:
    """Write a record such as `catalog.json` or `variant.json` atomically, as JSON."""
    write_file(path, _json(record))


def write_file(path: Path, content: bytes) -> None:
    """Write or replace a file atomically: readers see the old content or the new, never a part."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        _write(draft, content)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync(path.parent)


def remove(catalog: Path, name: str) -> None:
    """Remove a variant from the catalog in one rename, then delete its files."""
    with draft_folder(catalog, prefix=f"{name}-") as discarded:
        (catalog / name).rename(discarded / name)


def move(draft: Path, target: Path) -> None:
    """Rename the folder `draft` to `target`, a variant's folder in a catalog on the same disk.

    POSIX cannot replace a non-empty folder, so an existing one is first renamed to a backup. If
    the process is killed between the two renames, `recover` restores the backup.
    """
    replaced = target.parent / DRAFTS / f"{_REPLACED}{target.name}"
    if target.is_symlink():  # what it leads to is not part of the catalog
        target.unlink()
    if target.exists():
        target.rename(replaced)
    try:
        draft.rename(target)
    except BaseException:
        if replaced.exists():
            replaced.rename(target)
        raise
    sync(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def recover(catalog: Path) -> None:
    """Restore backups and delete drafts of killed writers; drafts of living ones stay.

    No other process may replace variants meanwhile.
    """
    drafts = catalog / DRAFTS
    if not drafts.is_dir():
        return
    for replaced in drafts.glob(f"{_REPLACED}*"):
        name = replaced.name.removeprefix(_REPLACED)
        if not (catalog / name).exists():
            replaced.rename(catalog / name)
        else:
            shutil.rmtree(replaced, ignore_errors=True)
    discard_drafts(catalog)


def discard_drafts(catalog: Path) -> None:
    """Delete drafts of killed writers; those of living ones and backups stay."""
    for draft in (catalog / DRAFTS).glob("*"):
        if draft.name.startswith(_REPLACED):
            continue
        # A process that creates the folder at this moment waits for the lock; see `_locked_folder`.
        # NFS locks only files that are open for writing.
        with suppress(OSError), (draft / _LOCK).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(draft / _LOCK, lock):
                shutil.rmtree(draft, ignore_errors=True)
        with suppress(OSError):  # NFS deletes an open file when it is closed
            draft.rmdir()


@contextmanager
def draft_folder(catalog: Path, *, prefix: str) -> Iterator[Path]:
    """Yield a new folder in the drafts of the catalog, and delete it in the end.

    Its lock file is locked while this process lives, so that `recover` leaves the folder alone.
    """
    drafts = catalog / DRAFTS
    drafts.mkdir(parents=True, exist_ok=True)
    folder, lock = _locked_folder(drafts, prefix)
    try:
        with lock:
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sync(path: Path) -> None:
    """Fsync a file, or a folder, which makes renames in it durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _locked_folder(parent: Path, prefix: str) -> tuple[Path, BinaryIO]:
    """Create a folder and lock its lock file; create another if `discard_drafts` was faster."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with suppress(FileNotFoundError):
            lock = (folder / _LOCK).open("wb")
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_at(folder / _LOCK, lock):
                return folder, lock
            lock.close()


def _is_at(path: Path, file: BinaryIO) -> bool:
    """Return whether this open file is at the path, not another one or none since it was opened."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _describe(name: str, content: bytes) -> File:
    return File(name=name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


def _json(record: Record) -> bytes:
    return record.model_dump_json(indent=2).encode() + b"\n"


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
