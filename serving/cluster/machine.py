"""What Ray needs of the machine, checked before it starts: folders, free space, open files.

Ray itself reports most of this late, in a log file, or not at all.
"""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from pathlib import Path
from typing import Final

from serving.cluster.ray_folder import temporary_folder
from serving.cluster.start_failure import NotStarted

SESSION_BYTES: Final = 64 * 2**20
"""Free space, in bytes, that logs and sockets of Ray need in its folder."""

OPEN_FILES: Final = 256
"""Least limit on open files: a service starts with it. Each connection of a client is one more."""

SHARED_MEMORY: Final = Path("/dev/shm")


def check_folder(folder: Path, purpose: str, remedy: str) -> None:
    """Create the folder if it is missing, and write a file in it.

    Raises `NotStarted` with the folder, what it is for, the cause, and the remedy.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise NotStarted(
            f"{folder} must be writable by user {os.geteuid()}, {purpose} "
            f"({error.strerror}): {remedy}"
        ) from None


def check_space(folder: Path, needed: int) -> None:
    """Raise `NotStarted` if fewer bytes than `needed` are free in the folder."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise NotStarted(
            f"{folder} has {free / 2**20:.0f} MiB free, and Ray needs {needed / 2**20:.0f} MiB: "
            "make room, or name another folder with RAY_TMPDIR"
        )


def object_store_folder(size: int, shared_memory: Path = SHARED_MEMORY) -> Path:
    """Return the folder for Ray's object store of `size` bytes: that of shared memory, if it fits.

    Nothing uses the store, so a slower one does no harm.
    """
    try:
        fits = shutil.disk_usage(shared_memory).free >= size
    except OSError:
        fits = False
    return shared_memory if fits and os.access(shared_memory, os.W_OK) else temporary_folder()


def raise_open_files() -> None:
    """Raise the limit on open files as far as this user may; child processes inherit it.

    Raises `NotStarted` if that is less than `OPEN_FILES`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        raise NotStarted(
            f"this process may open {hard} files, and a service needs {OPEN_FILES} or more: "
            "raise the limit, as with `ulimit -n 65536`, or `--ulimit nofile=65536` for docker run"
        )


def prepare_machine(store_bytes: int) -> Path:
    """Check what Ray needs; return the folder of its object store.

    Raises `NotStarted` with what is missing and what would be right.
    """
    raise_open_files()
    folder = temporary_folder()
    check_folder(folder, "for the files of Ray", "name another with RAY_TMPDIR")
    store = object_store_folder(store_bytes)
    check_space(folder, SESSION_BYTES + (store_bytes if store == folder else 0))
    return store
