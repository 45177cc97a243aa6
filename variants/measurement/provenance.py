"""Circumstances of a measurement other than the hardware: commit, load of the machine, seed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from variants.catalog.catalog import Provenance


def provenance(folder: Path, *, seed: int) -> Provenance:
    """Return the provenance of a measurement that starts now in `folder`."""
    return Provenance(commit=commit(folder), load_average=load_average(), seed=seed)


def commit(folder: Path) -> str | None:
    """Return the git commit of the repository of `folder`, with `-dirty` if tracked files differ.

    Returns None without a repository or without git.
    """
    command = ("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    try:
        described = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def load_average() -> float | None:
    """Return the load average of the last minute, or None if the system does not report it."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None
