"""The disturbances from which a service must recover. To add one, add it to `DISTURBANCES`."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from loadtests.benchmarks.service import PROJECT
from loadtests.steady.processes import busy_command, running, stop_for
from variants.catalog.cpus import available_cpus

BURST_FACTOR: Final = 10
"""Arrival rate of a burst, as a multiple of the goodput before it."""


@dataclass(frozen=True)
class Victims:
    """The processes that a disturbance may affect."""

    gateway: int
    host: int | None
    """The host that has used most CPU time; None if the hosts are not known."""


@dataclass(frozen=True)
class Disturbance:
    """Something that happens to a service."""

    title: str
    seconds: float
    """How long it lasts, without the time to start and to end it."""
    cause: Callable[[Victims], None]
    """Causes it and returns when it is over."""
    needs_host: bool = False
    burst: float = 0.0
    """Rate of additional requests while it lasts, as a multiple of the steady rate."""


def _stop_host(victims: Victims) -> None:
    assert victims.host is not None
    stop_for(victims.host, 0.3)


def _kill_host(victims: Victims) -> None:
    assert victims.host is not None
    os.kill(victims.host, signal.SIGKILL)


def _use_all_cores(victims: Victims) -> None:
    with running([busy_command()] * available_cpus()):
        time.sleep(5.0)


def _build(victims: Victims) -> None:
    with tempfile.TemporaryDirectory(prefix="paretoserve-build-") as folder:
        command = [sys.executable, "-m", "paretoserve", "build", str(PROJECT), "--catalog", folder]
        with running([command]):
            time.sleep(10.0)


DISTURBANCES: Final[Mapping[str, Disturbance]] = {
    "nothing": Disturbance("nothing, for comparison", 0.0, lambda victims: None),
    "host-stopped": Disturbance("a host stopped for 300 ms", 0.3, _stop_host, needs_host=True),
    "host-killed": Disturbance("a host killed", 0.0, _kill_host, needs_host=True),
    "gateway-stopped": Disturbance(
        "the gateway stopped for 300 ms", 0.3, lambda victims: stop_for(victims.gateway, 0.3)
    ),
    "garbage": Disturbance(
        "the gateway stopped for 200 ms, as by a garbage collection of old objects",
        0.2,
        lambda victims: stop_for(victims.gateway, 0.2),
    ),
    "cpu": Disturbance("a busy process on every core for 5 s", 5.0, _use_all_cores),
    "burst": Disturbance(
        f"{BURST_FACTOR} times the load for 0.5 s",
        0.5,
        lambda victims: time.sleep(0.5),
        burst=BURST_FACTOR - 1,
    ),
    "build": Disturbance("a build on the same machine for 10 s", 10.0, _build),
}
"""Disturbances by the name of the option."""
