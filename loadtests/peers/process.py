"""Child processes that serve on 127.0.0.1, and that never outlive the block that started them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

ROOT: Final = Path(__file__).resolve().parents[2]
"""The folder that contains the package `loadtests`: the current folder of all children."""
STOP_TIMEOUT_S: Final = 5.0
"""Time allowed to a server and its children to stop before they are killed, in seconds."""
THREADS: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
LOG_TAIL: Final = 500
"""Characters of the log that an error message quotes."""


class Child:
    """A process in a session of its own, with its output in a log file."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        with log.open("wb") as file:
            # In a session of its own, Ctrl-C reaches only this process, which then stops the child.
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **THREADS},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def require_running(self) -> None:
        """Raise RuntimeError with the end of the log if the process has ended."""
        if (status := self._process.poll()) is not None:
            raise RuntimeError(f"it ended with status {status}: {self.log_tail()}")

    def log_tail(self) -> str:
        """Return the end of the log on one line."""
        return " ".join(self.log.read_text(errors="replace").split())[-LOG_TAIL:]

    def stop(self) -> None:
        """End the process, its group and its descendants: SIGTERM, then SIGKILL."""
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(self._process.pid).children(recursive=True)
            self._process.terminate()
            # The server stops its own children; those that it forgets are killed below.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(family, STOP_TIMEOUT_S)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def run_child(command: Sequence[str], log: Path) -> Iterator[Child]:
    """Start a process inside a `with` block and end it on exit, however the block ends."""
    child = Child(command, log)
    try:
        yield child
    finally:
        child.stop()


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port
