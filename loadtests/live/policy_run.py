"""Runs one policy on a service of its own, and simulates the same requests.

start ─▶ calibrate (every variant, at a low rate) ─▶ warm up ─▶ replay ─▶ stop ─▶ simulate

Only the replay counts for the results.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from loadtests.live.kill_impact import KillSummary, summarize_kills
from loadtests.live.service import LiveService, run_service
from loadtests.replay.client_statistics import MAX_DELAY_S
from loadtests.replay.live_run import LiveRun, replay_live, simulate_same_requests
from loadtests.replay.timings import MIN_BATCHES, Timings, correct_profiles
from loadtests.simulator.compare import Comparison
from loadtests.simulator.faults import HostFailure
from loadtests.simulator.service import SimulatedService
from loadtests.workload.arrivals import Uniform
from loadtests.workload.demand import Demand
from loadtests.workload.workload import SloClass
from serving.gateway.settings import Settings
from serving.routing.profile import VariantProfile
from serving.routing.slo import Slo

WARM_UP_S: Final = 2.0
"""Duration of the warm-up, in seconds."""
CALIBRATION_LOAD: Final = 0.2
"""Load of one core during the calibration: so low that batches hardly ever wait."""
MAX_CALIBRATION_RATE_PER_S: Final = 150.0
"""Maximum request rate of the calibration, in requests per second."""
_SEED_OFFSET: Final = 1_000_003
"""Added to the seed for calibration and warm-up, so that they do not send the measured requests."""


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """The settings that the runs of all policies share."""

    service: Settings
    """Settings of the service; the policy is replaced."""
    profiles: Mapping[str, VariantProfile]
    demand: Demand
    max_client_delay_s: float = MAX_DELAY_S
    """Maximum 99th percentile of the delay with which the client sends requests."""
    kill_every_s: float | None = None
    """Interval between host kills, in seconds; None if no host is killed."""


@dataclass(frozen=True, slots=True)
class PolicyRun:
    """The results of a policy on the requests of one seed."""

    policy: str
    seed: int
    live: LiveRun
    timings: Timings
    """Batch durations measured by the calibration. The simulation uses them."""
    simulated: Comparison
    """Simulation of the same requests, with the same hosts absent for as long."""
    kill_summary: KillSummary | None
    """Effect of the host kills; None if no host was killed."""
    invalid_reason: str
    """Why the live run is invalid; empty if it is valid."""


def run_policy(settings: LiveSettings, policy: str, seed: int) -> PolicyRun:
    """Run one policy on the requests drawn with a seed, live and simulated.

    Raises RuntimeError if the service does not start, and ValueError as `replay_live` does.
    """
    demand, profiles, kill_every_s = settings.demand, settings.profiles, settings.kill_every_s
    with run_service(settings.service.model_copy(update={"policy": policy})) as service:
        timings = calibrate(service, settings, policy, seed)
        warm_up(service, demand, profiles, policy, seed)
        if kill_every_s is not None:
            # No kills near the end, where no time would be left to observe their effect.
            service.start_killing(kill_every_s, demand.seconds - kill_every_s / 2)
        live = replay_live(service.url, demand, policy=policy, seed=seed, profiles=profiles)
        kills = service.stop_killing() if kill_every_s is not None else None
    summary = None
    if kills is not None:
        summary = summarize_kills(f"{policy}, seed {seed}", live.outcomes, kills, live.started_s)
    failures = summary.host_failures(demand.seconds) if summary else ()
    return PolicyRun(
        policy=policy,
        seed=seed,
        live=live,
        timings=timings,
        simulated=_simulate(settings, policy, seed, timings, failures),
        kill_summary=summary,
        invalid_reason=invalid_reason(live, settings.max_client_delay_s),
    )


def calibrate(service: LiveService, settings: LiveSettings, policy: str, seed: int) -> Timings:
    """Measure the duration of batches of every variant and size, at a rate without queueing."""
    demand = calibration_demand(settings.profiles, settings.service.limits.batch_size)
    live = replay_live(
        service.url, demand, policy=policy, seed=seed + _SEED_OFFSET, profiles=settings.profiles
    )
    return live.timings


def calibration_demand(profiles: Mapping[str, VariantProfile], max_batch: int) -> Demand:
    """Return requests pinned to each variant, with the batch sizes of its report card.

    There are twice as many of each kind as the quantiles require, because the random draw gives
    some kinds fewer.
    """
    kinds = [
        (name, size, latency.p50_s)
        for name, profile in profiles.items()
        for size, latency in profile.latencies.items()
        if size <= max_batch
    ]
    classes = tuple(
        SloClass(f"{name} {size}", Slo(variant=name), size=size) for name, size, _ in kinds
    )
    mean_s = sum(p50_s for *_, p50_s in kinds) / len(kinds)
    rate_per_s = min(MAX_CALIBRATION_RATE_PER_S, CALIBRATION_LOAD / mean_s)
    return Demand(Uniform(), classes, rate_per_s, seconds=2 * MIN_BATCHES * len(kinds) / rate_per_s)


def warm_up(
    service: LiveService,
    demand: Demand,
    profiles: Mapping[str, VariantProfile],
    policy: str,
    seed: int,
) -> None:
    """Send the first `WARM_UP_S` of a demand, drawn with another seed, and discard the results."""
    short = replace(demand, seconds=min(WARM_UP_S, demand.seconds))
    replay_live(service.url, short, policy=policy, seed=seed + _SEED_OFFSET, profiles=profiles)


def invalid_reason(live: LiveRun, max_client_delay_s: float) -> str:
    """Return why a live run is invalid; an empty string if it is valid."""
    try:
        live.client.check(max_client_delay_s)
    except ValueError as error:
        return str(error)
    return ""


def _simulate(
    settings: LiveSettings,
    policy: str,
    seed: int,
    timings: Timings,
    failures: Sequence[HostFailure],
) -> Comparison:
    hosts, limits = settings.service.hosts, settings.service.limits
    service = SimulatedService(
        correct_profiles(settings.profiles, timings),
        cores=hosts.cores or math.inf,
        slots=hosts.slots,
        max_batch=limits.batch_size,
        max_queue=limits.queue_length,
    )
    return simulate_same_requests(
        service, settings.demand, policy=policy, seed=seed, faults=failures
    )
