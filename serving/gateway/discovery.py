"""Keeps a gateway's pool of hosts in step with the replicas that Serve runs.

About once a second, and at once when a host is lost: ask all replicas of all variants for their
addresses, connect and time the new ones, forget those that went.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Final, Protocol

import zmq.asyncio

from serving.dataplane.dataplane import START_GRACE_S
from serving.dataplane.executor import HostLost
from serving.gateway.description import HostDescription
from serving.link.link import BatchFailed, HostConnection, HostPool
from serving.routing.latency import LatencyModel
from serving.telemetry.event import Counted
from serving.telemetry.metrics import Metrics
from serving.telemetry.statistics import Statistics
from variants.catalog.catalog import Model
from variants.catalog.zero_inputs import zero_batch

logger = logging.getLogger(__name__)

PERIOD_S: Final = 1.0

LIST_PERIOD_S: Final = 30.0
"""Which applications there are is asked for rarely: the answer keeps the interpreter for 15 ms."""

ANSWER_WITHIN_S: Final = 5.0
CALIBRATION_PAUSE_S: Final = 0.005

TIMINGS: Final = 8
"""Of each batch size, on a host that joins."""


class Registry(Protocol):
    """Who knows the applications and their hosts: Serve, in production."""

    async def list_apps(self) -> dict[str, list[str]]:
        """Return by variant the names of its applications; raise if that is not known now."""

    async def describe(self, app: str) -> list[HostDescription]:
        """Return what every replica of an application says; raise if not all of them answer."""


class HostDiscovery:
    """Keeps one gateway's pool of hosts up to date."""

    def __init__(
        self,
        model: Model,
        sizes: Mapping[str, tuple[int, ...]],
        pool: HostPool,
        latency: LatencyModel,
        metrics: Metrics,
        statistics: Statistics,
        registry: Registry,
    ) -> None:
        """`sizes` gives by variant the batch sizes to time a new host with."""
        self._model = model
        self._sizes = sizes
        self._pool = pool
        self._latency = latency
        self._metrics = metrics
        self._statistics = statistics
        self._registry = registry
        self._context = zmq.asyncio.Context()
        self._wake = asyncio.Event()
        self._has_begun = False
        self._started = time.monotonic()
        self._removed: set[HostConnection] = set()
        self._apps: dict[str, list[str]] = {}
        self._list_at = 0.0
        self._list_again = True

    async def run(self) -> None:
        """Watch until cancelled."""
        ticked = time.monotonic()
        try:
            while True:
                self._wake.clear()
                try:
                    await self._refresh()
                except Exception:  # Serve may be busy or restarting; the hosts go on without it
                    logger.exception("could not ask Serve for the hosts; trying again")
                now = time.monotonic()
                self._metrics.tick(now - ticked)
                ticked = now
                try:
                    await asyncio.wait_for(self._wake.wait(), PERIOD_S)
                except TimeoutError:
                    continue
        finally:
            for host in [host for variant in self._sizes for host in self._pool.hosts(variant)]:
                host.close()
            self._context.destroy(linger=0)

    async def _refresh(self) -> None:
        if self._list_again or time.monotonic() >= self._list_at:
            self._apps = await self._registry.list_apps()
            self._list_at = time.monotonic() + LIST_PERIOD_S
        answers = await asyncio.gather(*(self._describe_all(name) for name in self._sizes))
        # An application that does not answer may have been replaced.
        self._list_again = None in answers or [] in answers
        await self._match(dict(zip(self._sizes, answers, strict=True)))

    async def _match(self, described: dict[str, list[HostDescription] | None]) -> None:
        """Make the pool what Serve describes; leave a variant alone where it gave no answer."""
        new = {}
        for variant, hosts in described.items():
            if hosts is None:
                if not self._pool.hosts(variant):
                    self._count(variant, [])
                continue
            known = {host.address: host for host in self._pool.hosts(variant)}
            new[variant] = [host.address for host in hosts if host.address not in known]
            for address in known.keys() - {host.address for host in hosts}:
                # Serve no longer counts it: it finishes what it holds, and gets no more.
                self._pool.remove(variant, known[address])
                self._removed.add(known[address])
            self._count(variant, hosts)
        for host in [host for host in self._removed if not host.in_flight]:
            host.close()
            self._removed.discard(host)
        is_late = time.monotonic() - self._started > START_GRACE_S
        if not (self._has_begun or is_late or all(described.values())):
            return  # while hosts still start, what others take to answer means nothing
        self._has_begun = True
        for variant, addresses in new.items():
            for address in addresses:
                await self._connect(variant, address)

    def _count(self, variant: str, hosts: list[HostDescription]) -> None:
        memories = [host.gpu_memory_bytes for host in hosts if host.gpu_memory_bytes is not None]
        counted = Counted(
            variant,
            replicas=len(hosts),
            resident_bytes=sum(host.resident_bytes for host in hosts),
            gpu_memory_bytes=sum(memories) if memories else None,
        )
        self._metrics.counted(counted)
        self._statistics.counted(counted)

    async def _describe_all(self, variant: str) -> list[HostDescription] | None:
        """Return what all hosts of a variant say, or None if not all of them could be asked."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return [
                    host
                    for app in self._apps.get(variant, [])
                    for host in await self._registry.describe(app)
                ]
        except Exception as error:  # an application that starts has no replicas to ask yet
            logger.debug("no answer from the hosts of %s: %r", variant, error)
            return None

    async def _connect(self, variant: str, address: str) -> None:
        """Warm a host up and time it through the link, as requests will use it; then use it."""

        def lost() -> None:
            # One that Serve has stopped is in no pool any more.
            if self._pool.remove(variant, host):
                self._metrics.lost(variant)
                logger.error("a host was lost", extra={"variant": variant, "host": address})
                self._wake.set()

        host = HostConnection(self._context, address, lost)
        try:
            timings: dict[int, list[float]] = {size: [] for size in self._sizes[variant]}
            for round_ in range(1 + TIMINGS):
                for size, took in timings.items():
                    # Spaced out: a lone request meets a machine that has gone to sleep.
                    await asyncio.sleep(CALIBRATION_PAUSE_S)
                    start = time.monotonic()
                    await host.run(zero_batch(self._model, size))
                    if round_:  # the first only warms up
                        took.append(time.monotonic() - start)
            self._latency.calibrate(variant, timings)
        except (HostLost, BatchFailed) as error:
            host.close()
            logger.error(
                "a host failed to warm up", extra={"variant": variant, "cause": str(error)}
            )
            return
        except BaseException:
            host.close()
            raise
        if not host.is_lost:
            self._pool.add(variant, host)
