"""The parent of a service: it ends on signals and losses, and leaves no process behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from tests.waiting import wait_until

END_S = 20.0
"""Time limit, in seconds, for what should take less than one."""

SCRIPT = """
import os, signal, subprocess, sys, time
from serving.cluster.supervisor import Failed, Ready, Required, Supervised, supervise

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may run the tests

def sleeper():
    # In a session of its own and ignoring signals, as processes of Ray.
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True)

def run(link):
    {body}

try:
    supervise(run, stop_s={stop_s})
except Supervised as error:
    print("error:", error, flush=True)
    sys.exit(error.status)
"""

SERVE = "sleeper(); link.send(Ready()); print('ready', flush=True); link.stop.wait()"
HANG = "sleeper(); link.send(Ready()); print('ready', flush=True); time.sleep(600)"
START = "sleeper(); print('ready', flush=True); time.sleep(600)"
LOSE = (
    "each = sleeper(); link.send(Required('the raylet', each.pid)); link.send(Ready()); "
    "print('ready', each.pid, flush=True); time.sleep(600)"
)


@contextmanager
def _running(
    body: str, stop_s: float = 600.0, processes: int | None = 2
) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process], str]]:
    """Run a body in the child; yield the parent, its descendants and the line 'ready'."""
    script = SCRIPT.format(body=body, stop_s=stop_s)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready.startswith("ready"), ready + process.stdout.read()
        descendants = psutil.Process(process.pid).children(recursive=True)
        assert processes is None or len(descendants) == processes
        try:
            yield process, descendants, ready
        finally:
            for each in descendants:
                if each.is_running():
                    each.kill()
            process.kill()


def _outcome(process: subprocess.Popen[str], descendants: list[psutil.Process]) -> tuple[int, str]:
    """Return status and output once all processes have ended."""
    status = process.wait(END_S)
    _, left = psutil.wait_procs(descendants, timeout=END_S)
    assert left == []
    assert process.stdout is not None
    return status, process.stdout.read().strip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_a_ready_service(number: signal.Signals) -> None:
    with _running(SERVE) as (process, descendants, _):
        process.send_signal(number)
        assert _outcome(process, descendants) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_it_starts_ends_it_at_once(number: signal.Signals) -> None:
    with _running(START) as (process, descendants, _):
        process.send_signal(number)
        assert _outcome(process, descendants) == (128 + number, "error:")


def test_a_service_that_does_not_stop_in_time_is_killed() -> None:
    with _running(HANG, stop_s=0.2) as (process, descendants, _):
        process.send_signal(signal.SIGTERM)
        status, output = _outcome(process, descendants)
    assert (status, output) == (1, "error: did not stop within 0 s: killed")


def test_a_second_signal_ends_it_at_once() -> None:
    with _running(HANG) as (process, descendants, _):
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        status, output = _outcome(process, descendants)
    assert status - 128 in (signal.SIGINT, signal.SIGTERM)  # the kernel may swap them
    assert output == "error:"


def test_the_loss_of_a_required_process_is_named() -> None:
    with _running(LOSE) as (process, descendants, ready):
        psutil.Process(int(ready.split()[1])).kill()
        assert _outcome(process, descendants) == (1, "error: the raylet has ended")


def test_a_killed_child_is_reported() -> None:
    with _running(SERVE) as (process, descendants, _):
        next(each for each in descendants if each.ppid() == process.pid).kill()
        assert _outcome(process, descendants) == (1, "error: the service was killed (SIGKILL)")


def test_nothing_outlives_a_killed_parent() -> None:
    with _running(HANG) as (process, descendants, _):
        process.kill()
        assert _outcome(process, descendants)[0] == -signal.SIGKILL


def test_ended_orphans_do_not_accumulate() -> None:
    body = (
        "subprocess.run(['sh', '-c', 'sleep 0.1 &']); sleeper(); "
        "link.send(Ready()); print('ready', flush=True); link.stop.wait()"
    )
    with _running(body, processes=None) as (process, descendants, _):
        parent = psutil.Process(process.pid)
        wait_until(lambda: len(parent.children()) == 1)
        process.send_signal(signal.SIGTERM)
        assert _outcome(process, descendants) == (0, "")


def test_a_reported_failure_is_passed_on_with_its_status() -> None:
    body = "link.send(Failed('no such catalog', 2))"
    script = SCRIPT.format(body=body, stop_s=1)
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=END_S
    )
    assert (run.returncode, run.stdout) == (2, "error: no such catalog\n")
