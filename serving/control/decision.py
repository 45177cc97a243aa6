"""Decides what to do next to bring a cluster to the desired state.

    desired state + what the cluster runs + what gateways report ─▶ actions

A pure function: no clock, no I/O, no memory. It is called again after its actions, so each of them
may be lost: an action that did not happen is decided again. Actions that did happen show in the
arguments of the next call, and repeating one has no effect.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from serving.control.cluster import App, GenerationKey
from serving.control.state import Generation, Job, JobStage, ReplicaReport, VariantRecord

BUILDER_LOST_S: Final = 5.0
"""Seconds without a report and without a process after which a builder counts as lost.

A job that was just started has no process yet.
"""

BUILD_ATTEMPTS: Final = 2
"""How often a build is started: once more if its process is lost."""

UNDRAINED_S: Final = 30.0
"""Seconds after which a draining generation is stopped although a gateway still uses it."""

BUILD_STAGES: Final[frozenset[JobStage]] = frozenset(
    {"queued", "techniques", "recovery", "evaluation", "profiling", "gate"}
)
"""Stages of a running job in which its builder works."""

WITH_HOSTS: Final = frozenset({"warming", "published", "draining"})
"""States of a generation that has hosts."""


@dataclass(frozen=True)
class Observation:
    """What runs, and what the gateways see of it. Times are in seconds since 1970."""

    now: float
    apps: Mapping[GenerationKey, App]
    builds: Set[str]
    """Jobs whose builder exists. To be read before the desired state, in which its result shows."""
    gateways: Set[str]
    """Gateways that are alive."""
    reports: Sequence[ReplicaReport]
    replicas: int
    """Number of host replicas of each generation."""
    retry_at: Mapping[GenerationKey, float] = field(default_factory=dict)
    """When to deploy a generation again whose hosts failed to start."""
    draining_since: Mapping[GenerationKey, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """Mark a job as started."""

    job: str


@dataclass(frozen=True)
class Build:
    """Mark a job as started, then start its builder."""

    job: Job


@dataclass(frozen=True)
class EndBuild:
    """End the builder of a job."""

    job: str


@dataclass(frozen=True)
class Requeue:
    """Put a job whose builder is lost back into the queue."""

    job: str
    why: str


@dataclass(frozen=True)
class Fail:
    """End a job without success; its generation gets no request."""

    job: str
    error: str


@dataclass(frozen=True)
class Deploy:
    """Start the hosts of a generation."""

    variant: str
    generation: int


@dataclass(frozen=True)
class Delete:
    """Stop the hosts of a generation."""

    variant: str
    generation: int
    failed: bool = False
    """Its hosts could not start: wait before they are deployed again."""


@dataclass(frozen=True)
class Probe:
    """Time a warm generation through the serving path, and store the result."""

    variant: str
    generation: int


@dataclass(frozen=True)
class Publish:
    """Send requests to a generation, and drain the one that got them so far."""

    variant: str
    generation: int


@dataclass(frozen=True)
class Drained:
    """Record that a generation has no hosts any more."""

    variant: str
    generation: int


@dataclass(frozen=True)
class Removed:
    """Record that a variant has no hosts any more and is removed."""

    variant: str


@dataclass(frozen=True)
class SetError:
    """Record the last error of a generation in words."""

    variant: str
    generation: int
    error: str | None


Action: TypeAlias = (
    Start
    | Build
    | EndBuild
    | Requeue
    | Fail
    | Deploy
    | Delete
    | Probe
    | Publish
    | Drained
    | Removed
    | SetError
)


def decide(
    variants: Sequence[VariantRecord], jobs: Sequence[Job], seen: Observation
) -> list[Action]:
    """Return what to do now, in order.

    `variants` has all generations that are not deleted. `jobs` has all jobs that have not ended,
    oldest first.
    """
    generations = {
        (variant.name, generation.number): generation
        for variant in variants
        for generation in variant.generations
    }
    published = {variant.name: variant.published for variant in variants}
    actions: list[Action] = []
    actions += _unwanted_apps(generations, seen)
    actions += _jobs(jobs, seen)
    by_generation = {(job.variant, job.generation): job for job in jobs if job.status == "running"}
    for key, generation in generations.items():
        match generation.state:
            case "warming":
                actions += _warm(generation, by_generation.get(key), seen)
            case "published":
                actions += _keep_running(generation, seen)
            case "draining":
                actions += _drain(generation, published[generation.variant], seen)
            case _:
                pass
    actions += _removals(generations.values(), jobs)
    return actions


def _removals(generations: Collection[Generation], jobs: Sequence[Job]) -> Iterator[Action]:
    """Complete the removal of variants that have no hosts any more."""
    with_hosts = {each.variant for each in generations if each.state in WITH_HOSTS}
    for job in jobs:
        if job.kind == "remove" and job.status == "running" and job.variant not in with_hosts:
            yield Removed(job.variant)


def _unwanted_apps(
    generations: Mapping[GenerationKey, Generation], seen: Observation
) -> Iterator[Action]:
    """Stop hosts of generations that should have none."""
    for key, app in seen.apps.items():
        wanted = key in generations and generations[key].state in WITH_HOSTS
        if not wanted and app.status != "stopping":
            yield Delete(*key)


def _jobs(jobs: Sequence[Job], seen: Observation) -> Iterator[Action]:
    """Start queued jobs, one build at a time, and end or restart builds."""
    active = {job.id for job in jobs if job.status == "running" and job.stage in BUILD_STAGES}
    for orphan in sorted(seen.builds - active):
        yield EndBuild(orphan)
    is_building = bool(seen.builds)
    for job in jobs:
        if job.status != "running" or job.kind != "build" or job.stage not in BUILD_STAGES:
            continue
        is_building = True
        if job.cancel_requested:
            if job.id in seen.builds:
                yield EndBuild(job.id)
            yield Fail(job.id, "cancelled")
        elif job.id not in seen.builds and _is_lost(job, seen.now):
            if job.attempts < BUILD_ATTEMPTS:
                yield Requeue(job.id, "the builder was lost; starting it again")
            else:
                yield Fail(job.id, f"the builder was lost {BUILD_ATTEMPTS} times")
    for job in jobs:
        if job.status != "queued":
            continue
        if job.cancel_requested:
            yield Fail(job.id, "cancelled")
        elif job.kind != "build":
            yield Start(job.id)
        elif not is_building:
            is_building = True
            yield Build(job)


def _is_lost(job: Job, now: float) -> bool:
    last = max(job.started_at or 0.0, job.heartbeat_at or 0.0)
    return now - last > BUILDER_LOST_S


def _warm(generation: Generation, job: Job | None, seen: Observation) -> Iterator[Action]:
    """Deploy a generation, wait until every gateway has timed it, probe it and publish it."""
    key = (generation.variant, generation.number)
    app = seen.apps.get(key)
    reports = _reports(key, seen)
    error = None
    if job is not None and job.cancel_requested:
        error = "cancelled"
    elif app is not None and app.status == "failed":
        error = app.error or "its hosts could not be started"
    else:
        error = next((each.error or "a gateway could not use its hosts"
                      for each in reports.values() if each.state == "failed"), None)  # fmt: skip
    if error is not None and job is not None:
        yield Fail(job.id, error)
        if app is not None:
            yield Delete(*key)
        return
    if error is not None:
        yield from _back_off(generation, error, app)
    elif app is None:
        if seen.now >= seen.retry_at.get(key, 0.0):
            yield Deploy(*key)
    elif _is_warm(reports, seen):
        yield Publish(*key) if generation.probe_ms is not None else Probe(*key)
    elif app.error and app.error != generation.error:
        yield SetError(*key, app.error)


def _is_warm(reports: Mapping[str, ReplicaReport], seen: Observation) -> bool:
    """Return whether all gateways have timed all replicas."""
    return bool(seen.gateways) and all(
        gateway in reports
        and reports[gateway].state in ("warm", "routed")
        and reports[gateway].replicas >= seen.replicas
        for gateway in seen.gateways
    )


def _keep_running(generation: Generation, seen: Observation) -> Iterator[Action]:
    """Deploy a published generation again after it was lost, and record its errors."""
    key = (generation.variant, generation.number)
    app = seen.apps.get(key)
    reports = _reports(key, seen)
    failed = next((each.error for each in reports.values() if each.state == "failed"), None)
    if app is None:
        if seen.now >= seen.retry_at.get(key, 0.0):
            yield Deploy(*key)
    elif app.status == "failed":
        yield from _back_off(generation, app.error or "its hosts could not be started", app)
    elif (error := app.error or failed) != generation.error:
        is_well = any(each.state == "routed" and each.replicas for each in reports.values())
        if error or (app.status == "running" and is_well):
            yield SetError(*key, error)


def _back_off(generation: Generation, error: str, app: App | None) -> Iterator[Action]:
    """Record why hosts cannot start, and stop them; they are deployed again later."""
    if error != generation.error:
        yield SetError(generation.variant, generation.number, error)
    if app is not None and app.status != "stopping":
        yield Delete(generation.variant, generation.number, failed=True)


def _drain(generation: Generation, published: int | None, seen: Observation) -> Iterator[Action]:
    """Stop the hosts of a generation once no gateway sends them batches."""
    key = (generation.variant, generation.number)
    app = seen.apps.get(key)
    if app is None:
        yield Drained(*key)
        return
    waited_s = seen.now - seen.draining_since.get(key, seen.now)
    if app.status != "stopping" and (_is_unused(key, published, seen) or waited_s > UNDRAINED_S):
        yield Delete(*key)


def _is_unused(key: GenerationKey, published: int | None, seen: Observation) -> bool:
    """Return whether all gateways route to the successor, if any, and none to this generation."""
    if any(report.state != "failed" for report in _reports(key, seen).values()):
        return False
    if published is None:
        return True
    successor = _reports((key[0], published), seen)
    return all(
        gateway in successor and successor[gateway].state == "routed" for gateway in seen.gateways
    )


def _reports(key: GenerationKey, seen: Observation) -> dict[str, ReplicaReport]:
    """Return the reports of live gateways on a generation, by gateway."""
    return {
        report.gateway: report
        for report in seen.reports
        if (report.variant, report.generation) == key and report.gateway in seen.gateways
    }
