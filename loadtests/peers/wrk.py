"""Runs the load generator wrk: closed-loop connections that post one body again and again.

wrk (https://github.com/wg/wrk) is a C program. `wrk.lua` counts the statuses and prints the result.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SCRIPT: Final = Path(__file__).with_name("wrk.lua")
MARK: Final = "RESULT "
"""Begins the line that the script prints."""
TIMEOUT_S: Final = 5
"""Time after which wrk counts a response as late, in seconds."""
GRACE_S: Final = 30.0
"""Time beyond its duration after which wrk is killed, in seconds."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one run of wrk measured."""

    requests_per_s: float
    """Responses with status 200 per second."""
    p50_ms: float
    p99_ms: float
    errors: int
    """Responses with another status, errors of sockets, and responses later than `TIMEOUT_S`."""


def find() -> str:
    """Return the path of wrk; raise FileNotFoundError with a remedy if it is not installed."""
    if (path := shutil.which("wrk")) is None:
        raise FileNotFoundError("wrk is not installed; install it with `apt-get install wrk`")
    return path


def run(
    url: str, body: bytes, headers: Mapping[str, str], connections: int, seconds: float
) -> Result:
    """Post the body to the URL from a number of connections for a number of seconds, rounded up.

    One thread of wrk serves all connections.

    Raises FileNotFoundError if wrk is not installed, and RuntimeError if it fails.
    """
    with tempfile.NamedTemporaryFile(prefix="paretoserve-wrk-") as file:
        file.write(body)
        file.flush()
        command = [find(), "--threads=1", f"--connections={connections}"]
        command += [f"--duration={math.ceil(seconds)}s", f"--timeout={TIMEOUT_S}s"]
        command += [f"--script={SCRIPT}", url, "--", file.name]
        command += [text for header in headers.items() for text in header]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds + GRACE_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"wrk did not end within {GRACE_S:g} s of its duration") from None
    if done.returncode:
        raise RuntimeError(f"wrk failed: {(done.stderr or done.stdout).strip()[-500:]}")
    return parse(done.stdout)


def parse(output: str) -> Result:
    """Return the result in the output of wrk.

    Raises RuntimeError if the output has no complete line of the script.
    """
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    try:
        values = json.loads(lines[-1].removeprefix(MARK))
        duration_s = values["duration_us"] / 1e6
        return Result(
            requests_per_s=(values["responses"] - values["other_status"]) / duration_s,
            p50_ms=values["p50_us"] / 1e3,
            p99_ms=values["p99_us"] / 1e3,
            errors=values["other_status"] + values["socket_errors"] + values["timeouts"],
        )
    except (IndexError, KeyError, TypeError, ValueError, ZeroDivisionError):
        raise RuntimeError(f"wrk printed no result: {output.strip()[-500:]!r}") from None
