"""Runs Locust headless in a subprocess, because it patches sockets and threads."""

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
"""Time added to `seconds` for the start of Locust, the probes and the last responses."""
STOP_TIMEOUT_S: Final = 10
"""Time that Locust waits for the last responses."""
POLL_S: Final = 0.1
"""Interval between two checks whether Locust has ended."""


def run_load_test(
    url: str,
    users: int,
    seconds: int,
    *,
    json_path: Path | None = None,
    console: Console | None = None,
) -> LoadReport:
    """Load a service with `users` of all SLO classes for `seconds`; print and return the report.

    Raises ValueError with a remedy if nothing listens at the URL, if the service is not ready, or
    if Locust is not installed or fails.
    """
    if find_spec("locust") is None:
        raise ValueError("load tests need Locust: pip install 'paretoserve[load]'")
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
        *("--seconds", str(seconds), "--stop-timeout", str(STOP_TIMEOUT_S)),
        *("--only-summary", "--loglevel", "WARNING", "--summary-json", str(summary)),
    ]
    # The subprocess must find this package even if it is not installed.
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
        end = f"exited with status {process.returncode}" if is_done else "did not exit in time"
        lines = log.read_text(errors="replace").strip().splitlines()
        raise ValueError(f"Locust {end}: {lines[-1] if lines else 'it printed nothing'}")
    return read_record(LoadReport, summary)


def _wait(process: subprocess.Popen[bytes], seconds: int, console: Console) -> bool:
    """Show a progress bar until the process exits; return False if it exceeds the grace period."""
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
