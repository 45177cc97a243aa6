"""Runs the load client in a process of its own, one load after the other."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

from loadtests.steady.load import Load, LoadRecord
from loadtests.steady.load_client import run_load

STOP_TIMEOUT_S: Final = 10.0
"""Time allowed for the process to stop before it is terminated, in seconds."""


@dataclass(frozen=True, slots=True)
class LoadClient:
    """A process that applies loads."""

    _pipe: Connection

    def start(self, load: Load) -> float:
        """Start a load and return when it starts, as `time.monotonic()`, in seconds.

        `result` must be called before the next start. Raises OSError as `run_load` does.
        """
        self._pipe.send(load)
        started_s: float = self._receive()
        return started_s

    def result(self) -> LoadRecord:
        """Wait until the load that was started ends; raises OSError as `run_load` does."""
        record: LoadRecord = self._receive()
        return record

    def run(self, load: Load) -> LoadRecord:
        """Apply a load and return its record; raises OSError as `run_load` does."""
        self.start(load)
        return self.result()

    def _receive(self) -> Any:
        try:
            received: Any = self._pipe.recv()
        except EOFError:
            raise RuntimeError("the load client has ended; its output gives the reason") from None
        if isinstance(received, OSError):
            raise received
        return received


@contextmanager
def start_load_client() -> Iterator[LoadClient]:
    """Start the process of the client; stop it on exit."""
    context = multiprocessing.get_context("spawn")
    parent_end, child_end = context.Pipe()
    process = context.Process(target=_serve, args=(child_end,), name="load-client")
    process.start()
    child_end.close()
    try:
        yield LoadClient(parent_end)
    finally:
        parent_end.close()
        process.join(STOP_TIMEOUT_S)
        if process.is_alive():
            process.terminate()
            process.join()


def _serve(pipe: Connection) -> None:
    """Apply the loads received through the pipe until the other end closes it."""
    while True:
        try:
            load: Load = pipe.recv()
        except EOFError:
            return
        try:
            result: LoadRecord | OSError = run_load(load, pipe.send)
        except OSError as error:
            result = error
        pipe.send(result)
