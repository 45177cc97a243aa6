"""Host discovery: keeps a gateway's pool of hosts equal to the replicas that Serve runs.

About once per second, and at once after a host is lost, it queries the addresses of all
replicas of all variants, connects to new ones and times them, and removes those that are gone. A
replacement on a node where its variant was timed before is not timed again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Final, Protocol, TypeAlias

import zmq

from serving.dataplane.dataplane import START_GRACE_S
from serving.dataplane.executor import HostLost
from serving.gateway.description import HostDescription
from serving.link.connection import BatchFailed, HostConnection
from serving.link.pool import HostPool
from serving.routing.latency import LatencyModel
from serving.telemetry.event import HostUsage
from serving.telemetry.telemetry import Telemetry
from variants.catalog.catalog import Model
from variants.catalog.zero_inputs import zero_batch

logger = logging.getLogger(__name__)

PERIOD_S: Final = 1.0
"""Interval of discovery, in seconds."""

LIST_TIMEOUT_S: Final = 5.0
"""Time limit, in seconds, for the registry to list the applications."""

DESCRIBE_TIMEOUT_S: Final = 5.0
"""Time limit, in seconds, for the replicas of a variant to describe themselves."""

CALIBRATION_PAUSE_S: Final = 0.005
"""Pause, in seconds, before each batch with which a new host is timed."""

TIMINGS: Final = 8
"""Number of timings of each batch size on a new host."""


_Timings: TypeAlias = dict[int, list[float]]
"""Times of batches in seconds, by batch size."""


class Registry(Protocol):
    """The source of applications and their hosts: Serve in production."""

    async def list_apps(self) -> dict[str, list[str]]:
        """Return the names of the applications by variant; raise if they are not known now."""

    async def describe(self, app: str) -> list[HostDescription]:
        """Return the descriptions of all replicas of an application; raise if one is missing."""


class HostDiscovery:
    """Keeps the pool of hosts of one gateway up to date."""

    def __init__(
        self,
        model: Model,
        sizes: Mapping[str, tuple[int, ...]],
        pool: HostPool,
        latency: LatencyModel,
        telemetry: Telemetry,
        registry: Registry,
        *,
        period_s: float = PERIOD_S,
    ) -> None:
        """`sizes` are the batch sizes, by variant, with which a new host is timed."""
        self._model = model
        self._sizes = sizes
        self._pool = pool
        self._latency = latency
        self._telemetry = telemetry
        self._registry = registry
        self._period_s = period_s
        self._context = zmq.Context()
        self._wake = asyncio.Event()
        self._may_connect = False
        self._started = time.monotonic()
        self._removed: set[HostConnection] = set()
        self._timed: set[tuple[str, str]] = set()
        """Variants and nodes on which a host of the variant was timed."""

    async def run(self) -> None:
        """Discover hosts until cancelled, then close the connections."""
        ticked = time.monotonic()
        try:
            while True:
                self._wake.clear()
                try:
                    await self._refresh()
                except Exception:  # Serve may be busy or restarting; hosts work without it
                    logger.exception("the hosts could not be listed; trying again")
                now = time.monotonic()
                self._telemetry.tick(now - ticked)
                ticked = now
                try:
                    await asyncio.wait_for(self._wake.wait(), self._period_s)
                except TimeoutError:
                    continue
        finally:
            for host in [host for variant in self._sizes for host in self._pool.hosts(variant)]:
                host.close()
            self._context.destroy(linger=0)

    async def _refresh(self) -> None:
        async with asyncio.timeout(LIST_TIMEOUT_S):
            apps = await self._registry.list_apps()
        answers = await asyncio.gather(
            *(self._describe(name, apps.get(name, [])) for name in self._sizes)
        )
        await self._update_pool(dict(zip(self._sizes, answers, strict=True)))

    async def _update_pool(self, described: dict[str, list[HostDescription] | None]) -> None:
        """Make the pool equal to the described hosts; skip variants without an answer (None)."""
        new = {}
        for variant, hosts in described.items():
            if hosts is None:
                if not self._pool.hosts(variant):
                    self._report_usage(variant, [])
                continue
            known = {host.address: host for host in self._pool.hosts(variant)}
            new[variant] = [host.address for host in hosts if host.address not in known]
            for address in known.keys() - {host.address for host in hosts}:
                # Serve is stopping this host. It may finish its batches and gets no new ones.
                self._pool.remove(variant, known[address])
                self._removed.add(known[address])
            self._report_usage(variant, hosts)
        for host in [host for host in self._removed if not host.in_flight]:
            host.close()
            self._removed.discard(host)
        is_late = time.monotonic() - self._started > START_GRACE_S
        if not (self._may_connect or is_late or all(described.values())):
            return  # timings are not representative while other hosts are starting
        self._may_connect = True
        for variant, addresses in new.items():
            for address in addresses:
                await self._connect(variant, address)

    def _report_usage(self, variant: str, hosts: list[HostDescription]) -> None:
        memories = [host.gpu_memory_bytes for host in hosts if host.gpu_memory_bytes is not None]
        self._telemetry.host_usage(
            HostUsage(
                variant,
                replicas=len(hosts),
                resident_bytes=sum(host.resident_bytes for host in hosts),
                gpu_memory_bytes=sum(memories) if memories else None,
            )
        )

    async def _describe(self, variant: str, apps: Sequence[str]) -> list[HostDescription] | None:
        """Return the descriptions of all hosts of a variant, or None if one did not answer."""
        try:
            async with asyncio.timeout(DESCRIBE_TIMEOUT_S):
                return [host for app in apps for host in await self._registry.describe(app)]
        except Exception as error:  # a starting application has no replicas yet
            logger.debug("no description of the hosts of %s: %r", variant, error)
            return None

    async def _connect(self, variant: str, address: str) -> None:
        """Connect to a host, time it through the link if necessary, then add it to the pool."""

        def on_lost() -> None:
            # A host that Serve has stopped is not in the pool any more.
            if self._pool.remove(variant, host):
                self._telemetry.host_lost(variant)
                logger.error("a host was lost", extra={"variant": variant, "host": address})
                self._wake.set()

        host = HostConnection(self._context, address, on_lost)
        node = address.rpartition(":")[0]
        try:
            if (variant, node) in self._timed:
                # Timings would take CPU from hosts that serve, and be distorted by their load.
                await host.run(zero_batch(self._model, min(self._sizes[variant])))
            else:
                self._latency.calibrate(variant, *await self._time(variant, host))
                self._timed.add((variant, node))
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

    async def _time(self, variant: str, host: HostConnection) -> tuple[_Timings, _Timings]:
        """Return the times of batches on a host, and those on the way to it and back."""
        host_s: _Timings = {size: [] for size in self._sizes[variant]}
        way_s: _Timings = {size: [] for size in self._sizes[variant]}
        for round_ in range(1 + TIMINGS):
            for size in self._sizes[variant]:
                # The pause lets the CPUs sleep, as they do before a single request.
                await asyncio.sleep(CALIBRATION_PAUSE_S)
                start = time.monotonic()
                result = await host.run(zero_batch(self._model, size))
                if round_:  # the first round is a warm-up
                    host_s[size].append(result.compute_s)
                    way_s[size].append(time.monotonic() - start - result.compute_s)
        return host_s, way_s
