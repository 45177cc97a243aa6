"""Runs the process that builds a generation, within its budgets of memory and time.

    BuildRequest ─▶ child: python -m variants.build.generation ─▶ progress, log ─▶ digest
                    polled: cancellation, memory of the process tree, time

The child has low priority and a session of its own, and ends when this process does. Blocking: call
it on a thread or in a process of its own.
"""

from __future__ import annotations

import math
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import psutil

from serving.control.settings import Builder
from variants.catalog.build_request import (
    BuildError,
    BuildLog,
    BuildProgress,
    BuildRequest,
    BuildResult,
    BuildStage,
    read_event,
)

COMMAND: Final = (sys.executable, "-m", "variants.build.generation")
_POLL_S: Final = 0.2
"""Time between two looks at the memory of the builder, and at whether it is cancelled."""
_HEARTBEAT_S: Final = 1.0
"""Longest time between two calls of `on_progress`."""
_READ_BYTES: Final = 65536


class BuildFailed(Exception):
    """A build ended without a generation. The message is one sentence for people."""


class BuildCancelled(BuildFailed):
    """A build was cancelled."""


def run_build(
    request: BuildRequest,
    settings: Builder,
    *,
    on_progress: Callable[[BuildStage, float], None],
    on_log: Callable[[str], None],
    is_cancelled: Callable[[], bool],
    command: tuple[str, ...] = COMMAND,
) -> str:
    """Build a generation in a child process; return its digest once it is on disk.

    `on_progress` gets the stage and its share when they change, and again at least once a second.
    `on_log` gets single lines. `is_cancelled` is asked several times a second. The child is killed
    if a callback raises; the exception is passed on.

    Raises `BuildCancelled`, or `BuildFailed` with the cause.
    """
    with _started(command, request, settings) as child:
        supervision = _Supervision(child, settings, on_progress, on_log, is_cancelled)
        supervision.run()
        return supervision.digest()


@contextmanager
def _started(
    command: tuple[str, ...], request: BuildRequest, settings: Builder
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the child and send the request; in the end kill all that is left of it."""
    environment = os.environ | {
        "OMP_NUM_THREADS": str(math.ceil(settings.cpus)),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    # Every build is a new process: without the byte code of torch it takes 15 s more CPU time.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    child = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    try:
        # The threads of the child inherit its priority, since it has only one as yet.
        with suppress(psutil.Error):
            psutil.Process(child.pid).nice(settings.niceness)
        assert child.stdin is not None
        with suppress(BrokenPipeError):  # it ended at once; its error output says why
            child.stdin.write(request.model_dump_json().encode() + b"\n")
            child.stdin.flush()
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


@dataclass
class _Supervision:
    """Reads the output of a builder, and raises when it exceeds a budget or is cancelled."""

    child: subprocess.Popen[bytes]
    settings: Builder
    on_progress: Callable[[BuildStage, float], None]
    on_log: Callable[[str], None]
    is_cancelled: Callable[[], bool]
    _stage: BuildStage = "techniques"
    _share: float = 0.0
    _reported_at: float = float("-inf")
    _result: BuildResult | BuildError | None = None
    _last_error_line: str = ""

    def run(self) -> None:
        """Return when the child has stated its result or ended, and its output is read."""
        assert self.child.stdout is not None
        assert self.child.stderr is not None
        started = time.monotonic()
        checked = float("-inf")
        with selectors.DefaultSelector() as selector:
            selector.register(self.child.stdout, selectors.EVENT_READ, _Lines(self._event))
            selector.register(self.child.stderr, selectors.EVENT_READ, _Lines(self._error_line))
            while selector.get_map():
                # Before its output is read: what it has written until its end is there by then.
                has_ended = self._result is not None or self.child.poll() is not None
                ready = selector.select(0 if has_ended else _POLL_S)
                for key, _ in ready:
                    content = os.read(key.fd, _READ_BYTES)
                    key.data.add(content)
                    if not content:
                        selector.unregister(key.fileobj)
                now = time.monotonic()
                if now - checked >= _POLL_S:
                    checked = now
                    self._check(now - started)
                if now - self._reported_at >= _HEARTBEAT_S:
                    self._report()
                if has_ended and not ready:
                    break  # without waiting for processes that have inherited its output
            for key in selector.get_map().values():
                key.data.add(b"")

    def digest(self) -> str:
        """Return the digest of the generation. Raises `BuildFailed` if there is none."""
        match self._result:
            case BuildResult(built=digest):
                return digest
            case BuildError(error=error):
                raise BuildFailed(error)
        code = self.child.wait()
        if code == -signal.SIGKILL:
            raise BuildFailed(
                f"the builder was killed in stage {self._stage}: by someone, or by the kernel "
                "because the machine ran out of memory"
            )
        ended = f"by signal {-code}" if code < 0 else f"with status {code}"
        last = f": {self._last_error_line}" if self._last_error_line else ""
        raise BuildFailed(f"the builder ended {ended} in stage {self._stage}{last}")

    def _event(self, line: bytes) -> None:
        try:
            event = read_event(line)
        except ValueError:
            self.on_log(line.decode(errors="replace"))
            return
        match event:
            case BuildProgress(stage=stage, share=share):
                self._stage, self._share = stage, share
                self._report()
            case BuildLog(log=text):
                self.on_log(text)
            case BuildResult() | BuildError():
                self._result = event

    def _error_line(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()
        if text:
            self._last_error_line = text
            self.on_log(text)

    def _report(self) -> None:
        self._reported_at = time.monotonic()
        self.on_progress(self._stage, self._share)

    def _check(self, elapsed_s: float) -> None:
        """Raise if the build is cancelled or over a budget."""
        if self._result is not None:
            return
        if self.is_cancelled():
            raise BuildCancelled(f"cancelled in stage {self._stage}")
        if elapsed_s > self.settings.time_s:
            raise BuildFailed(
                f"the build took longer than {self.settings.time_s:g} s (builder.time_s) and was "
                f"ended in stage {self._stage}, {self._share:.0%} done"
            )
        used = _tree_bytes(self.child.pid)
        if used > self.settings.memory_bytes:
            raise BuildFailed(
                f"the build used {used / 2**20:,.0f} MiB, more than its "
                f"{self.settings.memory_bytes / 2**20:,.0f} MiB (builder.memory_bytes), and was "
                f"ended in stage {self._stage}"
            )


class _Lines:
    """Splits what is read from a pipe into lines."""

    def __init__(self, handle: Callable[[bytes], None]) -> None:
        self._handle = handle
        self._rest = b""

    def add(self, content: bytes) -> None:
        """Take the next bytes; empty bytes mean the end, after which an incomplete line counts."""
        *lines, self._rest = (self._rest + content).split(b"\n")
        if not content or len(self._rest) > _READ_BYTES:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            if line:
                self._handle(line)


def _tree_bytes(pid: int) -> int:
    """Return the resident memory of a process and its descendants, 0 if it has ended."""
    total = 0
    try:
        processes = [psutil.Process(pid)]
        processes += processes[0].children(recursive=True)
    except psutil.Error:
        return 0
    for process in processes:
        with suppress(psutil.Error):
            total += process.memory_info().rss
    return total
