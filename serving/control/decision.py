"""Decides what to do next to bring a cluster to the desired state.

    desired state + what the cluster runs + what gateways report ─▶ actions

A pure function: no clock, no I/O, no memory. It is called again after its actions, so each of them
may be lost: an action that did not happen is decided again. Actions that did happen show in the
arguments of the next call, and repeating one has no effect.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Final

from serving.control.actions import (
    Action,
    Build,
    Cancelled,
    Delete,
    Deploy,
    Drained,
    EndBuild,
    Fail,
    Publish,
    Removed,
    Requeue,
    Routed,
    SetError,
)
from serving.control.cluster import App, GenerationKey
from serving.control.in_gateways import apps_in_gateways
from serving.control.state import (
    Generation,
    GenerationState,
    Job,
    JobStage,
    ReplicaReport,
    Snapshot,
)

BUILDER_LOST_S: Final = 5.0
"""Seconds without a report and without a process after which a builder counts as lost.

A job that was just started has no process yet.
"""

BUILD_ATTEMPTS: Final = 2
"""How often a build is started: once more if its process is lost."""

UNDRAINED_S: Final = 30.0
"""Seconds after which a draining generation is stopped although a gateway still uses it.

Its successor gets the requests by then.
"""

UNROUTED_S: Final = 30.0
"""Seconds after which the job of a published generation ends although a gateway does not route it.

That gateway reports why, and follows when it can.
"""

UNUSABLE_S: Final = 20.0
"""Seconds of warming after which a generation fails if a gateway cannot use its hosts.

Before, a host may have been killed, and the cluster replaces it.
"""

BUILD_STAGES: Final[frozenset[JobStage]] = frozenset(
    {"queued", "techniques", "recovery", "evaluation", "profiling", "gate"}
)
"""Stages of a running job in which its builder works."""

WITH_HOSTS: Final = frozenset({"warming", "published", "draining"})
"""States of a generation that has hosts."""


@dataclass(frozen=True)
class Observation:
    """What runs in the cluster. Times are in seconds since 1970."""

    apps: Mapping[GenerationKey, App]
    builds: Set[str]
    """Jobs whose builder exists. To be read before the desired state, in which its result shows."""
    replicas: int
    """Number of host replicas of each generation that has hosts."""
    rollback_window_s: float = 0.0
    """Seconds for which a replaced generation keeps its hosts, so that it can be taken back."""
    retry_at: Mapping[GenerationKey, float] = field(default_factory=dict)
    """When to deploy a generation again whose hosts failed to start."""
    in_gateways: Set[str] = frozenset()
    """Variants that gateways compute themselves. Such a variant has no hosts."""


def decide(state: Snapshot, seen: Observation) -> list[Action]:
    """Return what to do now, in order."""
    generations = {
        (variant.name, generation.number): generation
        for variant in state.variants
        for generation in variant.generations
    }
    active = {(job.variant, job.generation): job for job in state.jobs if job.status == "running"}
    actions: list[Action] = []
    actions += _unwanted_apps(generations, seen)
    seen = replace(seen, apps={**seen.apps, **apps_in_gateways(state, seen.in_gateways)})
    actions += _builds(state, seen)
    actions += _routed(generations, state)
    for key, generation in generations.items():
        match generation.state:
            case "warming":
                actions += _warm(generation, active.get(key), state, seen)
            case "published":
                actions += _keep_running(generation, state, seen)
            case "draining":
                actions += _drain(generation, state, seen)
            case _:
                pass
    actions += _removals(generations.values(), state.jobs)
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
        is_hosted = key[0] not in seen.in_gateways
        wanted = is_hosted and key in generations and generations[key].state in WITH_HOSTS
        if not wanted and app.status != "stopping":
            yield Delete(*key)


def _builds(state: Snapshot, seen: Observation) -> Iterator[Action]:
    """Start queued builds, one at a time, and end or restart builds."""
    active = {job.id for job in state.jobs if job.status == "running" and job.stage in BUILD_STAGES}
    for orphan in sorted(seen.builds - active):
        yield EndBuild(orphan)
    is_building = bool(seen.builds)
    for job in state.jobs:
        if job.status != "running" or job.kind != "build" or job.stage not in BUILD_STAGES:
            continue
        is_building = True
        if job.cancel_requested:
            yield EndBuild(job.id) if job.id in seen.builds else Cancelled(job.id)
        elif job.id not in seen.builds and _is_lost(job, state.at):
            if job.attempts < BUILD_ATTEMPTS:
                yield Requeue(job.id, "the builder was lost; starting it again")
            else:
                yield Fail(job.id, f"the builder was lost {BUILD_ATTEMPTS} times")
    queued = next((job for job in state.jobs if job.status == "queued"), None)
    if queued is not None and not is_building:
        yield Build(queued)


def _routed(generations: Mapping[GenerationKey, Generation], state: Snapshot) -> Iterator[Action]:
    """End jobs whose generation gets the requests of all gateways, or does not any more."""
    for job in state.jobs:
        if job.stage != "published" or job.generation is None:
            continue
        generation = generations.get((job.variant, job.generation))
        if (
            generation is None
            or generation.state != "published"
            or (state.gateways and _is_routed(generation, state))
            or state.at - (generation.published_at or state.at) > UNROUTED_S
        ):
            yield Routed(job.variant)


def _is_lost(job: Job, now: float) -> bool:
    last = max(job.started_at or 0.0, job.heartbeat_at or 0.0)
    return now - last > BUILDER_LOST_S


def _warm(
    generation: Generation, job: Job | None, state: Snapshot, seen: Observation
) -> Iterator[Action]:
    """Deploy a generation, wait until every gateway has timed it, and publish it."""
    key = (generation.variant, generation.number)
    app = seen.apps.get(key)
    reports = _reports(key, state)
    error = None
    if app is not None and app.status == "failed":
        error = app.error or "its hosts could not be started"
    elif state.at - (generation.since or state.at) > UNUSABLE_S:
        failed = (each for each in reports.values() if each.state == "failed")
        error = next((each.error or "a gateway cannot use its hosts" for each in failed), None)
    if error is not None and job is not None:
        yield Fail(job.id, error)
        if app is not None:
            yield Delete(*key)
        return
    if error is not None:
        yield from _back_off(generation, error, app)
    elif app is None:
        if state.at >= seen.retry_at.get(key, 0.0):
            yield Deploy(*key)
    elif app.status == "running" and _is_warm(reports, state.gateways, _replicas(key, seen)):
        yield Publish(*key)
    elif app.error and app.error != generation.error:
        yield SetError(*key, app.error)


def _is_warm(reports: Mapping[str, ReplicaReport], gateways: Set[str], replicas: int) -> bool:
    """Return whether all gateways have timed all replicas."""
    return bool(gateways) and all(
        gateway in reports
        and reports[gateway].state in ("warm", "routed")
        and reports[gateway].replicas >= replicas
        for gateway in gateways
    )


def _replicas(key: GenerationKey, seen: Observation) -> int:
    """Return the number of replicas of a generation in each gateway's view."""
    return 1 if key[0] in seen.in_gateways else seen.replicas


def _keep_running(generation: Generation, state: Snapshot, seen: Observation) -> Iterator[Action]:
    """Deploy a published generation again after it was lost, and record its errors."""
    key = (generation.variant, generation.number)
    app = seen.apps.get(key)
    reports = _reports(key, state)
    failed = next((each.error for each in reports.values() if each.state == "failed"), None)
    if app is None:
        if state.at >= seen.retry_at.get(key, 0.0):
            yield Deploy(*key)
    elif app.status == "failed" or _is_hopeless(app, reports):
        yield from _back_off(generation, app.error or "its hosts could not be started", app)
    elif (error := app.error or failed) != generation.error:
        is_well = any(each.state == "routed" and each.replicas for each in reports.values())
        if error or (app.status == "running" and is_well):
            yield SetError(*key, error)


def _is_hopeless(app: App, reports: Mapping[str, ReplicaReport]) -> bool:
    """Return whether hosts cannot start again, and every gateway knows why and has no other."""
    are_gone = all(each.error and not each.replicas for each in reports.values())
    return app.status == "failing" and bool(reports) and are_gone


def _back_off(generation: Generation, error: str, app: App | None) -> Iterator[Action]:
    """Record why hosts cannot start, and stop them; they are deployed again later."""
    if error != generation.error:
        yield SetError(generation.variant, generation.number, error)
    if app is not None and app.status != "stopping":
        yield Delete(generation.variant, generation.number, failed=True)


def _drain(generation: Generation, state: Snapshot, seen: Observation) -> Iterator[Action]:
    """Stop the hosts of a generation once no gateway uses them and its rollback window is over."""
    key = (generation.variant, generation.number)
    app = seen.apps.get(key)
    if app is None:
        yield Drained(*key)
        return
    if app.status == "stopping" or not state.gateways or not _has_successor(generation, state):
        return  # without a live gateway, it is not known who uses it
    since_s = state.at - (generation.since or state.at)
    if since_s < seen.rollback_window_s and _can_be_taken_back(generation, state, seen):
        return
    is_used = any(report.state != "failed" for report in _reports(key, state).values())
    if not is_used or since_s > UNDRAINED_S:
        yield Delete(*key)


def _can_be_taken_back(generation: Generation, state: Snapshot, seen: Observation) -> bool:
    """Return whether a draining generation is the one that the published one replaced.

    While other hosts start, it makes room for them.
    """
    apps = [seen.apps.get(key) for key in state.lineup.warming.items()]
    is_room_needed = any(app is None or app.status == "starting" for app in apps)
    if is_room_needed or generation.variant not in state.lineup.published:
        return False
    draining = _in_state("draining", generation.variant, state)
    return generation == max(draining, key=lambda each: each.since or 0.0)


def _has_successor(generation: Generation, state: Snapshot) -> bool:
    """Return whether all gateways route to the published generation of the variant, if any."""
    published = _in_state("published", generation.variant, state)
    return all(_is_routed(each, state) for each in published)


def _in_state(wanted: GenerationState, variant: str, state: Snapshot) -> list[Generation]:
    """Return the generations of a variant that are in a state."""
    records = (record for record in state.variants if record.name == variant)
    return [each for record in records for each in record.generations if each.state == wanted]


def _is_routed(generation: Generation, state: Snapshot) -> bool:
    """Return whether all gateways route to a generation."""
    reports = _reports((generation.variant, generation.number), state)
    return all(
        gateway in reports and reports[gateway].state == "routed" for gateway in state.gateways
    )


def _reports(key: GenerationKey, state: Snapshot) -> dict[str, ReplicaReport]:
    """Return the reports of live gateways on a generation, by gateway."""
    return {
        report.gateway: report
        for report in state.reports
        if (report.variant, report.generation) == key and report.gateway in state.gateways
    }
