"""Virtual environments for the peers, one for each, with pinned versions.

The file `requirements/PEER.txt` lists all packages of an environment, so pip resolves nothing. A
package without a version takes that of `constraints.txt`, which the environments share with
Paretoserve: peers are measured with the same versions of uvicorn, numpy, pydantic and so on.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from loadtests.peers.process import ROOT

FOLDER: Final = ROOT / "build" / "peers"
REQUIREMENTS: Final = Path(__file__).with_name("requirements")
CONSTRAINTS: Final = ROOT / "constraints.txt"
INSTALLED: Final = "installed.txt"
"""Copy of the requirements and constraints that an environment has; written last."""


def prepare(name: str, on_install: Callable[[str], None]) -> Path:
    """Return the interpreter of an environment, which is built if it is missing or outdated.

    `on_install` is called with the name before packages are installed.

    Raises RuntimeError with pip's first error, or else the last line of its output.
    """
    folder = FOLDER / name
    python, stamp = folder / "bin" / "python", folder / INSTALLED
    requirements = REQUIREMENTS / f"{name}.txt"
    wanted = requirements.read_text() + CONSTRAINTS.read_text()
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    on_install(name)
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "-c", str(CONSTRAINTS), "-r", str(requirements)]
    _run(command)
    stamp.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:]
        raise RuntimeError(f"its installation failed: {errors[0][:300]}")
