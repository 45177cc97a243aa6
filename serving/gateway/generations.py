"""Brings what a gateway serves in line with the lineup of the service.

    lineup ─▶ watch the hosts of a generation ─▶ warm ─▶ routed: new requests qualify for it
                      the former one: retired ─▶ its requests are answered ─▶ its hosts are released

A generation takes the place of the former one in one iteration of the event loop, once all of its
hosts are connected and timed. Requests that were admitted before are answered by the generations
that qualified for them, and only then do the hosts of a retired one leave the pool.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

from serving.control.state import Lineup, ReplicaReport
from serving.dataplane.batching import Arrays
from serving.dataplane.dataplane import DataPlane
from serving.dataplane.scheduler import Scheduler
from serving.gateway.discovery import HostDiscovery
from serving.gateway.public import public
from serving.link.pool import HostPool
from serving.routing.generation import generation_key
from serving.routing.latency import LatencyModel
from serving.routing.profile import VariantProfile, profiles_of
from serving.telemetry.telemetry import Telemetry
from variants.catalog.catalog import Variant
from variants.catalog.generations import digest
from variants.catalog.recipe import DENSE

logger = logging.getLogger(__name__)

RELEASE_POLL_S: Final = 0.02
"""Interval, in seconds, at which it is checked whether a retired generation is still needed."""

_State: TypeAlias = Literal["starting", "warm", "routed", "draining", "failed"]


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a gateway that know its variants."""

    pool: HostPool
    latency: LatencyModel
    scheduler: Scheduler[Arrays, Arrays]
    dataplane: DataPlane
    telemetry: Telemetry
    discovery: HostDiscovery


@dataclass(frozen=True, slots=True)
class ProfileSource:
    """Makes the profiles of variants from their report cards."""

    dense: Variant
    """The reference of the accuracy tiers, also if it is not served."""
    hardware_key: str
    accuracy_margin: float

    def profiles(
        self, variants: Mapping[str, Variant], numbers: Mapping[str, int]
    ) -> dict[str, VariantProfile]:
        """Return the profiles by name, dense first. Raises `ValueError` without a report card."""
        names = sorted(variants, key=lambda name: (name != DENSE, name))
        return profiles_of(
            {name: variants[name] for name in names},
            variants.get(DENSE, self.dense),
            self.hardware_key,
            accuracy_margin=self.accuracy_margin,
            generations=numbers,
        )


class _Generation(NamedTuple):
    """A generation whose hosts are watched."""

    variant: str
    number: int
    record: Variant


class Generations:
    """The generations of one gateway: those that start, get requests, or are retired."""

    def __init__(
        self,
        gateway: str,
        parts: Parts,
        profile_source: ProfileSource,
        *,
        max_batch: int,
        slots_per_host: int,
    ) -> None:
        """`gateway` is the name of the gateway in its reports."""
        self._gateway = gateway
        self._parts = parts
        self._profile_source = profile_source
        self._max_batch = max_batch
        self._slots_per_host = slots_per_host
        self._published: Mapping[str, int] = {}
        self._wanted: frozenset[str] = frozenset()
        """Routing keys of all generations of the lineup."""
        self._watched: dict[str, _Generation] = {}
        self._unusable: dict[tuple[str, int], str] = {}
        """Generations of the lineup that cannot be served here, and the reason."""
        self._routed: dict[str, str] = {}
        """The routing key that new requests for a variant get, by its name."""
        self._accuracies: dict[str, float] = {}
        """Accuracies of the tiers of all generations that the scheduler knows, by routing key."""
        self._has_started = False
        self._timer: asyncio.TimerHandle | None = None

    def update(self, lineup: Lineup, records: Mapping[tuple[str, int], Variant]) -> None:
        """Serve this lineup as soon as its hosts are warm.

        `records` has the record of each of its generations, by variant and number. A generation
        without a usable one is reported as failed.
        """
        pairs = [*lineup.published.items(), *lineup.warming.items()]
        self._published = dict(lineup.published)
        self._wanted = frozenset(generation_key(*pair) for pair in pairs)
        self._unusable.clear()
        for variant, number in pairs:
            if generation_key(variant, number) not in self._watched:
                try:
                    self._watch(variant, number, records.get((variant, number)))
                except ValueError as error:
                    self._unusable[variant, number] = str(error)
                    logger.error(
                        "a generation cannot be served",
                        extra={"variant": generation_key(variant, number), "cause": str(error)},
                    )
        self.apply()

    def apply(self) -> None:
        """Publish generations that have become warm, and release those that are not needed.

        Call this whenever hosts have joined or left.
        """
        self._has_started = self._has_started or self._parts.dataplane.readiness.has_started
        routed: dict[str, str] = {}
        for variant, number in self._published.items():
            new, former = generation_key(variant, number), self._routed.get(variant)
            if self._may_route(new, former):
                routed[variant] = new
            elif former is not None:
                routed[variant] = former
        if routed != self._routed:
            self._route(routed)
        self._report_failures()
        self._release()

    def set_hosts(self, key: str, hosts: int) -> None:
        """Record the number of live hosts of a generation."""
        if key in self._accuracies:
            self._parts.scheduler.set_slots(key, hosts * self._slots_per_host)

    def reports(self) -> list[ReplicaReport]:
        """Return the state of each generation of the lineup, and of those that still drain."""
        now = time.time()
        reports = []
        for key, generation in self._watched.items():
            reports.append(
                ReplicaReport(
                    gateway=self._gateway,
                    variant=generation.variant,
                    generation=generation.number,
                    state=self._state(key),
                    replicas=len(self._parts.pool.hosts(key)),
                    error=self._parts.discovery.error(key),
                    at=now,
                )
            )
        for (variant, number), hosts in self._parts.discovery.draining().items():
            if generation_key(variant, number) not in self._watched:
                reports.append(
                    ReplicaReport(
                        gateway=self._gateway,
                        variant=variant,
                        generation=number,
                        state="draining",
                        replicas=hosts,
                        at=now,
                    )
                )
        for (variant, number), cause in self._unusable.items():
            reports.append(
                ReplicaReport(
                    gateway=self._gateway,
                    variant=variant,
                    generation=number,
                    state="failed",
                    replicas=0,
                    error=cause,
                    at=now,
                )
            )
        return reports

    def close(self) -> None:
        """Stop checking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self, variant: str, number: int, record: Variant | None) -> None:
        """Bring the hosts of a generation into the pool. Raises `ValueError` if that is no use."""
        if record is None:
            raise ValueError(f"there are no files of {generation_key(variant, number)}")
        profiles = self._profile_source.profiles({variant: record}, {variant: number})
        latencies = profiles[variant].latencies
        key = generation_key(variant, number)
        self._parts.latency.add(key, latencies)
        self._watched[key] = _Generation(variant, number, record)
        self._parts.discovery.watch(
            variant,
            number,
            [size for size in latencies if size <= self._max_batch],
            digest=digest(record),
            is_awaited=not self._has_started and self._published.get(variant) == number,
        )

    def _may_route(self, new: str, former: str | None) -> bool:
        """Return whether a published generation can get requests now, in place of a former one."""
        if new not in self._watched:
            return False
        if new == former or not self._has_started or self._parts.discovery.is_warm(new):
            return True
        hosts = self._parts.pool.hosts
        return former is not None and not hosts(former) and bool(hosts(new))

    def _route(self, routed: Mapping[str, str]) -> None:
        """Let new requests qualify for these generations only, given by name of the variant."""
        chosen = {name: self._watched[key] for name, key in routed.items()}
        profiles = self._profile_source.profiles(
            {name: generation.record for name, generation in chosen.items()},
            {name: generation.number for name, generation in chosen.items()},
        )
        by_key = {profile.key: profile for profile in profiles.values()}
        self._accuracies |= {key: profile.tier_accuracy for key, profile in by_key.items()}
        self._set_variants()
        self._parts.telemetry.serve(by_key)
        self._parts.dataplane.serve(profiles)
        for key in by_key.keys() - self._routed.values():
            self._parts.discovery.report_usage(key)
        self._routed = dict(routed)

    def _report_failures(self) -> None:
        """Pass on why variants that get requests have no hosts, as far as that is known."""
        failures = {}
        for key in self._routed.values():
            error = self._parts.discovery.error(key)
            if error is not None and not self._parts.pool.hosts(key):
                failures[key] = public(error)
        self._parts.dataplane.readiness.set_failures(failures)
        self._parts.telemetry.set_failing(failures.keys())

    def _release(self) -> None:
        """Release the hosts of generations that neither the lineup nor a request needs."""
        self.close()
        retired = self._accuracies.keys() - self._routed.values()
        unused = {key for key in retired if not self._parts.scheduler.is_in_use(key)}
        if unused:
            for key in unused:
                del self._accuracies[key]
            self._set_variants()
        for key in self._watched.keys() - self._wanted - self._accuracies.keys():
            del self._watched[key]
            self._parts.discovery.unwatch(key)
            self._parts.latency.remove(key)
        if unused != retired:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(RELEASE_POLL_S, self._release)

    def _set_variants(self) -> None:
        slots = {
            key: len(self._parts.pool.hosts(key)) * self._slots_per_host for key in self._accuracies
        }
        self._parts.scheduler.set_variants(self._accuracies, slots)

    def _state(self, key: str) -> _State:
        if key in self._routed.values():
            return "routed"
        if key in self._accuracies:
            return "draining"
        if self._parts.discovery.is_warm(key):
            return "warm"
        if self._parts.discovery.error(key) and not self._parts.pool.hosts(key):
            return "failed"
        return "starting"
