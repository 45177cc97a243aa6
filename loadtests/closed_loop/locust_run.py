"""Locust, headless and in a process of its own: it patches sockets and threads where it runs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from loadtests.client.service import connect
from loadtests.closed_loop.summary import LoadReport, render_table
from variants.catalog.record import read_record

LOCUSTFILE: Final = Path(__file__).parents[1] / "locustfile.py"
GRACE_S: Final = 60
"""Beyond the time asked for: locust's start, the probes, the last answers."""
LAST_ANSWERS_S: Final = 10
POLL_S: Final = 0.1


def run_load_test(
    url: str,
    users: int,
    seconds: int,
    *,
    json_path: Path | None = None,
    console: Console | None = None,
) -> LoadReport:
    """Load a service with users of every SLO class for some seconds; print and return the table.

    Raises `ValueError` that says what would help if nothing listens there, if it is not ready, or
    if locust is missing or fails.
    """
    if find_spec("locust") is None:
        raise ValueError("this needs locust: pip install 'paretoserve[load]'")
    url = url.rstrip("/")
    connect(url)
    console = console or Console()
    with tempfile.TemporaryDirectory(prefix="paretoserve-load-") as folder:
        report = _run_locust(url, users, seconds, Path(folder), console)
    console.print(render_table(report))
    if json_path is not None:
        json_path.write_text(report.model_dump_json(indent=2) + "\n")
    return report


def _run_locust(url: str, users: int, seconds: int, folder: Path, console: Console) -> LoadReport:
    summary, log = folder / "summary.json", folder / "log"
    command = [
        *(sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--headless"),
        *("--host", url, "--users", str(users), "--spawn-rate", str(users)),
        *("--seconds", str(seconds), "--stop-timeout", str(LAST_ANSWERS_S)),
        *("--only-summary", "--loglevel", "WARNING", "--summary-json", str(summary)),
    ]
    # Our packages must be importable there, installed or not.
    paths = [str(LOCUSTFILE.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=folder
        )
        try:
            is_done = _wait(process, seconds, console)
        finally:
            process.kill()
            process.wait()
    if not summary.exists():
        how = f"ended with status {process.returncode}" if is_done else "did not end"
        said = log.read_text(errors="replace").strip().splitlines()
        raise ValueError(f"locust {how}: {said[-1] if said else 'it said nothing'}")
    return read_record(LoadReport, summary)


def _wait(process: subprocess.Popen[bytes], seconds: int, console: Console) -> bool:
    """Show how time passes until the process ends; return False if it does not in good time."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    started = time.monotonic()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("loading", total=seconds)
        while (elapsed_s := time.monotonic() - started) < seconds + GRACE_S:
            if process.poll() is not None:
                return True
            progress.update(task, completed=elapsed_s)
            time.sleep(POLL_S)
    return False
