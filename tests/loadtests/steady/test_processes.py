from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from loadtests.steady import processes
from loadtests.steady.processes import (
    busy_command,
    cpu_seconds,
    find_busiest,
    find_listener,
    running,
    stop_for,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_the_listener_of_a_port_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert find_listener(port) == os.getpid()
    with pytest.raises(ValueError, match=f"listens on port {port}"):
        find_listener(port)


def test_commands_run_until_the_block_ends() -> None:
    with running([SLEEP, SLEEP]) as pids:
        assert len(set(pids)) == 2
        assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_commands_that_have_ended_are_no_error() -> None:
    with running([[sys.executable, "-c", ""]]) as pids:
        wait_until(lambda: state(pids[0]) == "Z")


def test_a_stopped_process_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_s: list[float] = []
    with running([SLEEP]) as (pid,):

        def sleep(seconds: float) -> None:
            wait_until(lambda: state(pid) == "T")
            stopped_s.append(seconds)

        monkeypatch.setattr(processes, "time", SimpleNamespace(sleep=sleep))
        stop_for(pid, 0.01)
        assert stopped_s == [0.01]
        wait_until(lambda: state(pid) != "T")


def test_the_busiest_process_used_most_cpu_time_in_between() -> None:
    with running([busy_command(), SLEEP]) as (busy, idle):
        nothing = {busy: 0.0, idle: 0.0}
        wait_until(lambda: find_busiest(nothing, cpu_seconds([busy, idle])) == busy)
    assert cpu_seconds([busy]) == {}
    assert find_busiest({1: 5.0, 2: 0.0}, {1: 5.1, 2: 1.0, 3: 9.0}) == 2
    with pytest.raises(ValueError, match="no host process is alive"):
        find_busiest({1: 0.0}, {2: 1.0})
