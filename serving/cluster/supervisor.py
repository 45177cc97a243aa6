"""Runs a function in a child process, and ends everything that the child has started.

The parent imports no Ray. It can therefore neither hang in Ray's calls nor get Ray's signal
handlers, which print a C++ stack trace. The child tells it which processes it cannot do without;
the parent sees their end at once, whatever the child is doing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from typing import Final, TypeAlias

import psutil

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that stop a service; the second one ends it at once."""

KILL_S: Final = 5.0
"""Time limit, in seconds, for the end of processes that are killed."""

_SUBREAPER: Final = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)


@dataclass(frozen=True)
class Required:
    """A process without which the child cannot go on; `name` is for the message."""

    name: str
    pid: int


@dataclass(frozen=True)
class Ready:
    """The child has started; from now on a signal asks it to stop instead of killing it."""


@dataclass(frozen=True)
class Failed:
    """The child ends because of an error, in one line; `status` is the exit status."""

    message: str
    status: int


Message: TypeAlias = Required | Ready | Failed


class Supervised(Exception):
    """The child did not end well; the message is one line, or empty after a signal."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Link:
    """What the child has of its parent: where it reports, and whether it should stop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.stop: Final = threading.Event()
        threading.Thread(target=self._watch, name="parent", daemon=True).start()

    def send(self, message: Message) -> None:
        """Report to the parent, unless it has ended."""
        with contextlib.suppress(OSError):
            self._connection.send(message)

    def _watch(self) -> None:
        """Set `stop` when the parent asks for it; end everything if the parent has ended."""
        try:
            while self._connection.recv():
                self.stop.set()
        except (EOFError, OSError):
            kill_descendants(os.getpid())
            os._exit(1)


def supervise(run: Callable[[Link], None], *, stop_s: float) -> None:
    """Run a function in a child process until it returns or a signal arrives.

    A signal before `Ready` kills the child and its descendants. One after it asks the child to
    stop, which has `stop_s` seconds for that. Descendants that are left in the end are killed.

    Raises `Supervised` if the child fails, loses a required process, does not stop in time, or is
    ended by a signal. Must be called on the main thread of a process with no other threads.
    """
    adopt_orphans()
    ours, theirs = Pipe()
    with _caught_signals() as received:
        pid = os.fork()
        if pid == 0:
            ours.close()
            _run_child(run, theirs)
        theirs.close()
        parent = _Parent(pid, ours, received, stop_s)
        try:
            parent.watch()
        finally:
            kill_descendants(os.getpid())
            parent.close()


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent ends, so that they can be found (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def kill_descendants(pid: int) -> None:
    """Kill all descendants of this process, also those that they start meanwhile."""
    deadline = time.monotonic() + KILL_S
    while time.monotonic() < deadline:
        children = psutil.Process(pid).children(recursive=True)
        if not children:
            return
        for child in children:
            with contextlib.suppress(psutil.Error):
                child.kill()
        psutil.wait_procs(children, timeout=0.2)  # reaps what are children of this process


@dataclass
class _Parent:
    """Waits for what happens next: a signal, a report, or the end of a process."""

    child: int
    connection: Connection
    signals: int
    """File descriptor from which the numbers of signals are read."""
    stop_s: float
    is_ready: bool = False
    stop_signal: int | None = None
    deadline: float | None = None
    failure: Failed | None = None
    status: int | None = None
    """Exit status of the child, once it has ended."""
    required: dict[int, str] = field(default_factory=dict)
    """Names of required processes by file descriptor, which is readable once they end."""

    def watch(self) -> None:
        """Return once the child has ended well; see `supervise`."""
        end = os.pidfd_open(self.child)
        try:
            while True:
                timeout = None if self.deadline is None else self.deadline - time.monotonic()
                if timeout is not None and timeout <= 0:
                    raise Supervised(f"did not stop within {self.stop_s:.0f} s: killed", 1)
                sources = [self.signals, end, *self.required]
                if not self.connection.closed:
                    sources.append(self.connection.fileno())
                readable, _, _ = select.select(sources, [], [], timeout)
                while not self.connection.closed and self.connection.poll():
                    self._handle_report()  # before a signal, which depends on them
                if self.signals in readable:
                    for number in os.read(self.signals, 64):
                        if number == signal.SIGCHLD:
                            self._reap()
                        else:
                            self._handle_signal(number)
                if end in readable:
                    return self._finish()
                for descriptor in set(readable) & set(self.required):
                    self._handle_loss(descriptor)
        finally:
            os.close(end)

    def close(self) -> None:
        """Close the file descriptors."""
        self.connection.close()
        for descriptor in self.required:
            os.close(descriptor)

    def _handle_signal(self, number: int) -> None:
        if self.stop_signal is not None or not self.is_ready:
            raise Supervised("", 128 + number)
        self.stop_signal = number
        self.deadline = time.monotonic() + self.stop_s
        with contextlib.suppress(OSError):
            self.connection.send(True)

    def _handle_report(self) -> None:
        try:
            message: Message = self.connection.recv()
        except (EOFError, OSError):
            self.connection.close()
            return
        match message:
            case Required(name, pid):
                try:
                    self.required[os.pidfd_open(pid)] = name
                except ProcessLookupError:
                    raise Supervised(f"{name} has ended", 1) from None
            case Ready():
                self.is_ready = True
            case Failed():
                self.failure = message

    def _handle_loss(self, descriptor: int) -> None:
        name = self.required.pop(descriptor)
        os.close(descriptor)
        if self.stop_signal is None and self.failure is None:  # else the child has ended it
            raise Supervised(f"{name} has ended", 1)

    def _finish(self) -> None:
        """Raise unless the child has ended well."""
        while not self.connection.closed and self.connection.poll():
            self._handle_report()
        while self.status is None:
            self._reap()
        status = self.status
        if self.failure is not None:
            raise Supervised(self.failure.message, self.failure.status)
        if status < 0:
            raise Supervised(f"the service was killed ({signal.Signals(-status).name})", 1)
        if status:
            raise Supervised("the service has ended; the lines above say why", status)

    def _reap(self) -> None:
        """Take note of the end of the child, and free what is left of ended orphans."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self.child:
                    self.status = os.waitstatus_to_exitcode(ended[1])


def _run_child(run: Callable[[Link], None], connection: Connection) -> None:
    """Run the function in the forked process, and end the process."""
    status = 1
    try:
        os.setsid()  # Ctrl-C in a terminal is for the parent
        signal.set_wakeup_fd(-1)  # what it is sent itself has no effect
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        run(Link(connection))
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(status)


@contextmanager
def _caught_signals() -> Iterator[int]:
    """Write the numbers of signals into a pipe within a `with`; yield the end to read from.

    A signal that is ignored, as SIGHUP under nohup, stays ignored.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    former: dict[signal.Signals, object] = {}
    former_wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in SIGNALS:
        # nohup ignores SIGHUP, which must then stop nothing. A shell ignores SIGINT for a command
        # in the background, and does not send it there: it comes from elsewhere, to stop this.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            former[number] = signal.signal(number, lambda *_: None)
    former[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
    try:
        yield reading
    finally:
        _restore(former)
        signal.set_wakeup_fd(former_wakeup)
        os.close(reading)
        os.close(writing)


def _restore(handlers: Mapping[signal.Signals, object]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)  # type: ignore[arg-type]  # what `signal` has returned
