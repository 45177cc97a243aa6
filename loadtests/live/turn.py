"""One policy's turn: a service of its own, warmed up and timed, then the replay that counts.

start ─▶ calibrate (every variant, at a low rate) ─▶ warm up ─▶ replay ─▶ stop ─▶ simulate
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from loadtests.live.kill_impact import Survived, survived
from loadtests.live.service import Running, running
from loadtests.replay.client_statistics import MAX_DELAY_S
from loadtests.replay.live_run import LiveRun, replay_live, simulate_same_requests
from loadtests.replay.timings import MIN_BATCHES, Timings, correct_profiles
from loadtests.simulator.compare import Comparison
from loadtests.simulator.simulate import HostFailure, SimulatedService
from loadtests.workload.arrivals import Uniform
from loadtests.workload.demand import Demand
from loadtests.workload.workload import SloClass
from serving.gateway.settings import Settings
from serving.routing.profile import VariantProfile
from serving.routing.slo import Slo

WARM_S: Final = 2.0
CALIBRATION_LOAD: Final = 0.2
"""Of one core, while batches are timed: hardly any waits for another."""
CALIBRATION_MOST_PER_S: Final = 150.0
_OTHER_SEED: Final = 1_000_003
"""Added for what comes before: it must not send what is then measured."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What every policy is put through."""

    settings: Settings
    """Of the service, but for its policy."""
    profiles: Mapping[str, VariantProfile]
    demand: Demand
    lag_s: float = MAX_DELAY_S
    """How late the client may be with one request in a hundred."""
    kill_every_s: float | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """A policy on the requests of one seed."""

    policy: str
    seed: int
    live: LiveRun
    timings: Timings
    """Of the calibration, by which the simulation goes."""
    simulated: Comparison
    """The same requests, and the same hosts away for as long."""
    survived: Survived | None
    """What killing hosts did; None if none was."""
    invalid: str
    """Why the live run does not count; empty if it does."""


def take_turn(plan: Plan, policy: str, seed: int) -> Turn:
    """Run one policy on the requests that a seed draws, live and simulated.

    Raises `RuntimeError` if the service does not start, and `ValueError` as `replay_live` does.
    """
    with running(plan.settings.model_copy(update={"policy": policy})) as service:
        timings = calibrate(service, plan, policy, seed)
        warm_up(service, plan.demand, plan.profiles, policy, seed)
        if plan.kill_every_s is not None:
            # None in the last seconds: there would be nothing to see afterwards.
            service.start_killing(plan.kill_every_s, plan.demand.seconds - plan.kill_every_s / 2)
        live = replay_live(
            service.url, plan.demand, policy=policy, seed=seed, profiles=plan.profiles
        )
        kills = service.stop_killing() if plan.kill_every_s is not None else None
    found = None
    if kills is not None:
        found = survived(f"{policy}, seed {seed}", live.outcomes, kills, live.started_s)
    deaths = found.deaths(plan.demand.seconds) if found else ()
    return Turn(
        policy=policy,
        seed=seed,
        live=live,
        timings=timings,
        simulated=_simulate(plan, policy, seed, timings, deaths),
        survived=found,
        invalid=why_invalid(live, plan.lag_s),
    )


def calibrate(service: Running, plan: Plan, policy: str, seed: int) -> Timings:
    """Return what batches of every variant and size take, at a rate so low that none waits."""
    demand = calibration(plan.profiles, plan.settings.limits.batch_size)
    seed += _OTHER_SEED
    live = replay_live(service.url, demand, policy=policy, seed=seed, profiles=plan.profiles)
    return live.timings


def calibration(profiles: Mapping[str, VariantProfile], max_batch: int) -> Demand:
    """Return requests that pin each variant, as large as the batches of its report card.

    Of each kind twice as many as it takes to know the quantiles: some are bound to be fewer.
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
    rate_per_s = min(CALIBRATION_MOST_PER_S, CALIBRATION_LOAD / mean_s)
    return Demand(Uniform(), classes, rate_per_s, seconds=2 * MIN_BATCHES * len(kinds) / rate_per_s)


def warm_up(
    service: Running, demand: Demand, profiles: Mapping[str, VariantProfile], policy: str, seed: int
) -> None:
    """Send the beginning of other requests of the same kind; nobody looks at what comes of it."""
    short = replace(demand, seconds=min(WARM_S, demand.seconds))
    replay_live(service.url, short, policy=policy, seed=seed + _OTHER_SEED, profiles=profiles)


def why_invalid(live: LiveRun, lag_s: float) -> str:
    """Return why a live run does not count; nothing if it does."""
    try:
        live.client.check(lag_s)
    except ValueError as error:
        return str(error)
    return ""


def _simulate(
    plan: Plan, policy: str, seed: int, timings: Timings, deaths: Sequence[HostFailure]
) -> Comparison:
    settings = plan.settings
    service = SimulatedService(
        correct_profiles(plan.profiles, timings),
        cores=settings.hosts.cores or math.inf,
        slots=settings.hosts.slots,
        max_batch=settings.limits.batch_size,
        max_queue=settings.limits.queue_length,
    )
    return simulate_same_requests(service, plan.demand, policy=policy, seed=seed, faults=deaths)
