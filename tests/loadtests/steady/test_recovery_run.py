from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from loadtests.steady import recovery_run
from loadtests.steady.disturbances import DISTURBANCES, Disturbance, Victims
from loadtests.steady.recovery_run import DisturbancePlan, SteadyLoad, measure_disturbances
from loadtests.steady.target import ClientSettings, find_target
from tests.loadtests.gateway_stub import respond
from tests.loadtests.server import tiny_server
from tests.loadtests.steady.instant_client import instant_client
from tests.waiting import GIVE_UP_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def idle_process() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process.pid
    process.kill()
    process.wait()


def test_each_disturbance_is_caused_under_each_load(
    monkeypatch: pytest.MonkeyPatch, idle_process: int
) -> None:
    monkeypatch.setattr(recovery_run, "CAPACITY_S", 0.1)
    monkeypatch.setattr(recovery_run, "START_S", GIVE_UP_S)
    caused: list[Victims] = []
    small = {
        "nothing": Disturbance("nothing", 0.0, caused.append),
        "burst": Disturbance("a burst", 0.1, caused.append, needs_host=True, burst=0.5),
    }
    monkeypatch.setattr(recovery_run, "DISTURBANCES", small)
    plan = DisturbancePlan(
        disturbances=list(small),
        loads=list(SteadyLoad),
        deadline_ms=1000.0,
        loose_deadline_ms=60_000.0,
        settle_s=0.05,
        before_s=0.2,
        observed_s=1.1,
    )
    done: list[None] = []
    client = instant_client()
    with tiny_server(respond) as port:
        target = find_target(f"http://127.0.0.1:{port}", ClientSettings())
        runs = measure_disturbances(
            client, target, plan, "fifo", 3, lambda: [idle_process], lambda: done.append(None)
        )
    assert [(run.disturbance, run.load) for run in runs] == [
        (name, load) for name in small for load in SteadyLoad
    ]
    assert {(run.policy, run.round) for run in runs} == {("fifo", 3)}
    assert all(run.recovery.before_per_s > 0 for run in runs)
    assert len(done) == 4
    host = [None, None, idle_process, idle_process]
    assert caused == [Victims(os.getpid(), pid) for pid in host]


def test_hosts_are_needed_where_they_are_affected() -> None:
    assert {name for name, each in DISTURBANCES.items() if each.needs_host} == {
        "host-stopped",
        "host-killed",
    }
