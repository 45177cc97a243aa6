"""Folders for the files of Ray: its sockets and logs.

Each start has a folder of its own, which it locks while it runs. The lock of a process that was
killed is released by the kernel, so that a later start knows which folders nothing uses any more.
Folders of other users and other programs, such as `/tmp/ray`, are never touched.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

KEPT: Final = 1
"""Number of folders of ended starts that are kept: their logs may say why a start failed."""

_LONGEST: Final = 40
"""Greatest length of a path of temporary files: Ray appends 65, and a socket allows 107."""

_LOCK: Final = "lock"


@contextmanager
def ray_folder(root: Path | None = None) -> Iterator[Path]:
    """Yield a new folder, and delete it in the end unless an exception is raised.

    Folders of starts that have ended are deleted first, except for the newest `KEPT`. `root` is the
    folder of all starts of this user; the default is `paretoserve-<uid>` under `RAY_TMPDIR`, or
    else where temporary files belong. Raises `OSError` if `root` belongs to someone else.
    """
    root = root or temporary_folder() / f"paretoserve-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    found = root.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(
            f"{root} is not a folder that only you can use: remove it, or set RAY_TMPDIR to the "
            "path of another folder"
        )
    with _locked(root / _LOCK, wait=True):
        _delete_ended(root)
        folder = _create(root)
        own = _lock(folder / _LOCK, wait=False)
    try:
        yield folder
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        if own is not None:
            os.close(own)


def temporary_folder() -> Path:
    """Return the folder of temporary files, or `/tmp` if its path is too long for sockets."""
    chosen = os.environ.get("RAY_TMPDIR")
    if chosen:
        return Path(chosen).absolute()
    folder = tempfile.gettempdir()
    return Path(folder if len(folder) <= _LONGEST - len("/paretoserve-1000/1") else "/tmp")


def _create(root: Path) -> Path:
    """Create the folder with the smallest number that is free: a short name."""
    number = 1
    while True:
        folder = root / str(number)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            number += 1
        else:
            return folder


def _delete_ended(root: Path) -> None:
    """Delete what ended starts have left, except for the newest."""
    folders = [each for each in root.iterdir() if each.name.isdecimal() and each.is_dir()]
    ended = [folder for folder in folders if _has_ended(folder)]
    ended.sort(key=lambda folder: folder.stat().st_mtime)
    for folder in ended[: max(0, len(ended) - KEPT)]:
        if not _is_named_by_a_process(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _has_ended(folder: Path) -> bool:
    """Return whether the process that has locked this folder is gone."""
    descriptor = _lock(folder / _LOCK, wait=False)
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


def _is_named_by_a_process(folder: Path) -> bool:
    """Return whether a process was started with this folder: Ray may outlive a killed start."""
    inside = f"{folder}{os.sep}"
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(inside in part or part.endswith(str(folder)) for part in process.cmdline()):
                return True
    return False


@contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[None]:
    descriptor = _lock(path, wait=wait)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(path: Path, *, wait: bool) -> int | None:
    """Lock a file; return its descriptor, or None if another process has locked it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
