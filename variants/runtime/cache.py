"""The folder for what a GPU's libraries search for or build once, and other processes reuse."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return `paretoserve` in the user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`)."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "paretoserve"
