"""Install this project into a virtual environment and show one line of progress.

    python3 scripts/install.py VENV [EXTRA]

Creates VENV if it does not exist, then installs the project in editable mode with the versions of
`constraints.txt`. EXTRA is one of the optional dependencies in `pyproject.toml`. pip's output goes
to VENV/install.log; if pip fails, the end of that log is printed and the exit status is 1. Needs
only the standard library.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOG_TAIL = 25
"""Lines of pip's output to print when it fails."""


def main() -> int:
    """Create the environment if needed, install, and return the exit status."""
    folder, extra = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    target = f"{ROOT}[{extra}]" if extra else str(ROOT)
    command = [str(python), "-m", "pip", "install", "--no-compile", "--progress-bar", "off"]
    command += ["--disable-pip-version-check", "-c", str(ROOT / "constraints.txt")]
    return run([*command, "-e", target], folder / "install.log", extra or "serving")


def run(command: list[str], log: Path, purpose: str) -> int:
    """Run pip, show its progress on one line, and return its exit status."""
    started = time.monotonic()
    is_terminal = sys.stdout.isatty()
    count, step = 0, "starting pip"

    def report(end: str = "") -> None:
        took = time.monotonic() - started
        line = f"installing packages for {purpose}: {step} ({count} found, {took:.0f} s)"
        print(f"\r{line:<78.78}" if is_terminal else line, end=end, flush=True)

    report(end="" if is_terminal else "\n")
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            if match := re.match(r"Collecting (\S+)", line):
                count, step = count + 1, f"collecting {match[1]}"
            elif match := re.match(r" *(?:Downloading|Using cached) (\S+)", line):
                step = f"fetching {match[1].rsplit('/', 1)[-1]}"
            elif line.startswith("Installing collected packages"):
                step = "unpacking"
            if is_terminal:
                report()
    status = process.wait()
    step = "done" if status == 0 else "failed"
    report(end="\n")
    if status:
        print("".join(log.read_text().splitlines(keepends=True)[-LOG_TAIL:]), file=sys.stderr)
        print(f"pip failed; its whole output is in {log}", file=sys.stderr)
    return 1 if status else 0


if __name__ == "__main__":
    sys.exit(main())
