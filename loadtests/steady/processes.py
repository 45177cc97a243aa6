"""Processes that disturb a service: those that are stopped, and those that take its CPU time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_LISTEN: Final = "0A"
"""State of a listening socket in /proc/net/tcp."""

_PROC: Final = Path("/proc")


def stop_for(pid: int, seconds: float) -> None:
    """Stop a process for some seconds, then let it continue."""
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def running(commands: Sequence[Sequence[str]]) -> Iterator[list[int]]:
    """Run commands, each in a session of its own; kill the sessions on exit. Yields the pids."""
    processes = [
        subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for command in commands
    ]
    try:
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            # The session may outlive its first process, which is not reaped until `wait`.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def busy_command() -> list[str]:
    """Return a command that uses a core until it is killed."""
    return [sys.executable, "-c", "while True: pass"]


def cpu_seconds(pids: Sequence[int]) -> dict[int, float]:
    """Return the CPU time of each process so far; those that have ended are omitted."""
    ticks = os.sysconf("SC_CLK_TCK")
    used = {}
    for pid in pids:
        try:
            fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        used[pid] = (int(fields[11]) + int(fields[12])) / ticks  # utime and stime
    return used


def find_busiest(before: Mapping[int, float], after: Mapping[int, float]) -> int:
    """Return the process that has used most CPU time between two results of `cpu_seconds`.

    Raises ValueError if no process is in both.
    """
    used = {pid: after[pid] - before[pid] for pid in before.keys() & after.keys()}
    if not used:
        raise ValueError("no host process is alive")
    return max(used, key=used.__getitem__)


def find_listener(port: int) -> int:
    """Return the process of this machine that listens on a TCP port of IPv4.

    Raises ValueError if there is none, or if its files cannot be read.
    """
    sockets = set()
    for line in (_PROC / "net" / "tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
            sockets.add(f"socket:[{fields[9]}]")
    for folder in _PROC.iterdir():
        if folder.name.isdigit() and sockets & _open_files(folder / "fd"):
            return int(folder.name)
    raise ValueError(f"found no process that listens on port {port} of this machine")


def _open_files(folder: Path) -> set[str]:
    files = set()
    with suppress(OSError):  # the process has ended, or belongs to another user
        for file in folder.iterdir():
            with suppress(OSError):  # the file has been closed
                files.add(str(file.readlink()))
    return files
