"""The spare process for the next host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from serving.cluster import host_worker
from serving.cluster.spare import HOSTS, IDLE, children, is_spare_missing
from tests.service import RunningService, wait_until_ready
from tests.waiting import wait_until

IMPORTING = f"python -P -m {host_worker.__name__} default_worker.py"
DENSE, INT8 = f"{HOSTS}dense-g1:Host", f"{HOSTS}int8-g1:Host"


@pytest.mark.parametrize(
    ("titles", "pid", "is_missing"),
    [
        pytest.param({7: DENSE, 9: INT8}, 7, True, id="none"),
        pytest.param({7: DENSE, 9: INT8}, 9, False, id="the oldest host acts"),
        pytest.param({7: DENSE, 9: IDLE}, 7, False, id="it is there"),
        pytest.param({7: DENSE, 9: IMPORTING}, 7, False, id="a process still imports"),
        pytest.param({5: "ray::ServeController", 7: DENSE}, 7, True, id="others do not count"),
    ],
)
def test_the_oldest_host_asks_for_a_spare_process_if_there_is_none(
    titles: dict[int, str], pid: int, is_missing: bool
) -> None:
    assert is_spare_missing(titles, pid) == is_missing


def test_child_processes_are_listed_with_their_titles() -> None:
    command = [sys.executable, "-c", "input()", "a title"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        wait_until(lambda: children(os.getpid()).get(process.pid) == " ".join(command))
        process.communicate(b"\n")
    assert process.pid not in children(os.getpid())


@pytest.mark.cluster
def test_the_next_host_runs_in_the_spare_process(service: RunningService) -> None:
    (raylet,) = (
        each for each in psutil.Process().children(recursive=True) if each.name() == "raylet"
    )

    def pids(title: str) -> list[int]:
        return [pid for pid, found in children(raylet.pid).items() if found.startswith(title)]

    wait_until(lambda: IDLE in children(raylet.pid).values())
    (spare,) = (pid for pid, found in children(raylet.pid).items() if found == IDLE)
    (killed,) = pids(INT8)
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: pids(INT8) == [spare])
    wait_until(lambda: IDLE in children(raylet.pid).values())
    wait_until_ready(service)
