"""What a measurement depends on beside the hardware: the commit, the machine's load, the seed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from variants.catalog.catalog import Provenance


def provenance(folder: Path, *, seed: int) -> Provenance:
    """Describe a measurement that begins now, of a project in `folder`."""
    return Provenance(commit=commit(folder), load_average=load_average(), seed=seed)


def commit(folder: Path) -> str | None:
    """Return the git commit checked out around `folder`, `-dirty` if tracked files differ from it.

    None if there is no repository or no git.
    """
    command = ("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    try:
        described = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def load_average() -> float | None:
    """Return how many processes wanted to run, averaged over the last minute; None if unknown."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None
