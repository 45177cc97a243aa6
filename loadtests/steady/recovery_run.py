"""Applies a steady load, disturbs the service, and measures how goodput recovers.

settle ─▶ before ─▶ disturbance ─▶ observation
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import numpy as np

from loadtests.steady.client_process import LoadClient
from loadtests.steady.curve import CAPACITY_CLIENTS
from loadtests.steady.disturbances import DISTURBANCES, Disturbance, Victims
from loadtests.steady.load import Floats
from loadtests.steady.measurement import summarize_load
from loadtests.steady.processes import cpu_seconds, find_busiest, find_listener
from loadtests.steady.recovery import Recovery, in_time_s, measure_recovery
from loadtests.steady.target import Target
from loadtests.workload.arrivals import Uniform
from variants.catalog.record import Record

OPEN_LOAD: Final = 0.7
"""Rate of the steady open loop, as a share of the capacity."""

CAPACITY_S: Final = 2.0
"""Duration of the measurement of the capacity, in seconds."""

START_S: Final = 2.0
"""Time allowed for the start and the end of a disturbance, in addition to its length."""


class SteadyLoad(StrEnum):
    """The load during a disturbance."""

    CLOSED = "closed"
    """`CAPACITY_CLIENTS` clients in a closed loop."""
    OPEN = "open"
    """Equal gaps between requests, at `OPEN_LOAD` of the capacity."""


class DisturbedRun(Record):
    """One disturbance under one load in one round."""

    policy: str
    round: int
    disturbance: str
    """Name in `DISTURBANCES`."""
    load: SteadyLoad
    recovery: Recovery


class DisturbedRuns(Record):
    """All disturbances of one benchmark."""

    deadline_ms: float
    observed_s: float
    note: str
    """The conditions of the measurement."""
    runs: tuple[DisturbedRun, ...]


@dataclass(frozen=True)
class DisturbancePlan:
    """What is measured in each round, and for how long."""

    disturbances: Sequence[str]
    """Names in `DISTURBANCES`."""
    loads: Sequence[SteadyLoad]
    deadline_ms: float
    loose_deadline_ms: float
    settle_s: float
    before_s: float
    """Time before the disturbance from which the mean goodput is taken."""
    observed_s: float
    """Time after the disturbance in which the recovery is looked for."""


def measure_disturbances(
    client: LoadClient,
    target: Target,
    plan: DisturbancePlan,
    policy: str,
    number: int,
    hosts: Callable[[], Sequence[int]],
    on_run: Callable[[], None] = lambda: None,
) -> list[DisturbedRun]:
    """Cause every disturbance once under every load; `number` is that of the round.

    `hosts` waits until all hosts are ready and returns their processes. `on_run` is called after
    each disturbance.

    Raises OSError if no connection can be opened, ValueError if a process is not found.
    """
    gateway = find_listener(target.port)
    runs = []
    for name in plan.disturbances:
        for load in plan.loads:
            pids = hosts()
            rate_per_s = _measure_capacity(client, target, plan)
            recovery = _disturb(client, target, plan, name, load, rate_per_s, gateway, pids)
            runs.append(
                DisturbedRun(
                    policy=policy, round=number, disturbance=name, load=load, recovery=recovery
                )
            )
            on_run()
    return runs


def _measure_capacity(client: LoadClient, target: Target, plan: DisturbancePlan) -> float:
    seconds = plan.settle_s + CAPACITY_S
    deadline_ms = plan.loose_deadline_ms
    record = client.run(target.load(deadline_ms, seconds, clients=CAPACITY_CLIENTS))
    return summarize_load(record, deadline_ms, plan.settle_s, seconds).goodput_per_s


def _disturb(
    client: LoadClient,
    target: Target,
    plan: DisturbancePlan,
    name: str,
    steady: SteadyLoad,
    capacity_per_s: float,
    gateway: int,
    hosts: Sequence[int],
) -> Recovery:
    disturbance = DISTURBANCES[name]
    onset_s = plan.settle_s + plan.before_s
    seconds = onset_s + disturbance.seconds + plan.observed_s + START_S
    fields = _steady_fields(steady, disturbance, capacity_per_s, onset_s, seconds)
    started_s = client.start(target.load(plan.deadline_ms, seconds, **fields))
    cpu_s = cpu_seconds(hosts)
    time.sleep(max(0.0, started_s + onset_s - time.monotonic()))
    host = find_busiest(cpu_s, cpu_seconds(hosts)) if disturbance.needs_host else None
    began_s = time.monotonic()
    try:
        disturbance.cause(Victims(gateway, host))
    finally:
        ended_s = time.monotonic()
        record = client.result()
    return measure_recovery(
        in_time_s(record, plan.deadline_ms),
        from_s=started_s + plan.settle_s,
        onset_s=began_s,
        end_s=ended_s,
        until_s=min(ended_s + plan.observed_s, started_s + seconds),
    )


def _steady_fields(
    steady: SteadyLoad,
    disturbance: Disturbance,
    capacity_per_s: float,
    onset_s: float,
    seconds: float,
) -> dict[str, Any]:
    """Return the fields of the load, with the additional requests of a burst."""
    rng = np.random.default_rng(0)
    rate_per_s = capacity_per_s * (OPEN_LOAD if steady is SteadyLoad.OPEN else 1.0)
    arrivals_s: Floats = np.empty(0)
    if disturbance.burst:
        burst_s = Uniform().draw_times(rng, disturbance.burst * rate_per_s, disturbance.seconds)
        arrivals_s = onset_s + burst_s
    if steady is SteadyLoad.CLOSED:
        return {"clients": CAPACITY_CLIENTS, "arrivals_s": arrivals_s}
    steady_s = Uniform().draw_times(rng, rate_per_s, seconds)
    return {"arrivals_s": np.sort(np.concatenate([steady_s, arrivals_s]))}
