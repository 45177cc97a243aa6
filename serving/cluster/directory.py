"""Keeps a gateway's pool of hosts in step with the replicas that Serve runs.

About once a second, and at once when a host is lost: ask Serve which variants run, ask all their
replicas for their addresses, connect and warm up the new ones, forget those that went.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Final

import zmq.asyncio
from ray import serve

from serving.cluster.host import HostDescription, zeros
from serving.cluster.names import variant_of
from serving.latency import ENOUGH, LatencyModel
from serving.link import BatchFailed, HostConnection, HostPool
from serving.metrics import Metrics
from serving.scheduler import HostLost
from variants.catalog import Model

logger = logging.getLogger(__name__)

PERIOD_S: Final = 1.0
ANSWER_WITHIN_S: Final = 5.0


class Directory:
    """Watches Serve on behalf of one gateway."""

    def __init__(
        self,
        model: Model,
        sizes: dict[str, tuple[int, ...]],
        pool: HostPool,
        latency: LatencyModel,
        metrics: Metrics,
    ) -> None:
        """`sizes` gives by variant the batch sizes to warm a new host up with."""
        self._model = model
        self._sizes = sizes
        self._pool = pool
        self._latency = latency
        self._metrics = metrics
        self._context = zmq.asyncio.Context()
        self._handles: dict[str, Any] = {}
        self._wake = asyncio.Event()
        self._has_begun = False

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
            for variant in self._sizes:
                for host in self._pool.hosts(variant):
                    host.close()
            self._context.destroy(linger=0)

    async def _refresh(self) -> None:
        status = await asyncio.to_thread(serve.status)
        apps: dict[str, list[str]] = {}
        for app in status.applications:
            variant = variant_of(app)
            if variant in self._sizes:
                apps.setdefault(variant, []).append(app)
        for app in self._handles.keys() - {app for names in apps.values() for app in names}:
            del self._handles[app]
        answers = await asyncio.gather(
            *(self._describe_all(apps.get(variant, [])) for variant in self._sizes)
        )
        await self._match(dict(zip(self._sizes, answers, strict=True)))

    async def _match(self, described: dict[str, list[HostDescription]]) -> None:
        """Make the pool what Serve describes."""
        new = {}
        for variant, hosts in described.items():
            known = {host.address: host for host in self._pool.hosts(variant)}
            new[variant] = [host.address for host in hosts if host.address not in known]
            for address in known.keys() - {host.address for host in hosts}:
                # Serve no longer counts it: it finishes what it holds, and gets no more.
                self._pool.remove(variant, known[address])
            self._count(variant, hosts)
        if not self._has_begun and not all(described.values()):
            return  # while hosts still start, what others take to answer means nothing
        self._has_begun = True
        for variant, addresses in new.items():
            for address in addresses:
                await self._connect(variant, address)

    def _count(self, variant: str, hosts: list[HostDescription]) -> None:
        memories = [host.gpu_memory_bytes for host in hosts if host.gpu_memory_bytes is not None]
        self._metrics.replicas(
            variant,
            len(hosts),
            sum(host.resident_bytes for host in hosts),
            sum(memories) if memories else None,
        )

    async def _describe_all(self, apps: list[str]) -> list[HostDescription]:
        return [host for app in apps for host in await self._describe(app)]

    async def _describe(self, app: str) -> list[HostDescription]:
        try:
            if app not in self._handles:
                self._handles[app] = await asyncio.to_thread(serve.get_app_handle, app)
            async with asyncio.timeout(ANSWER_WITHIN_S):
                response = self._handles[app].broadcast("describe")
                answers = await response.results_async(return_exceptions=True)
        except Exception as error:  # an application that starts has no replicas to ask yet
            logger.debug("no answer from %s: %r", app, error)
            return []
        return [answer for answer in answers if isinstance(answer, HostDescription)]

    async def _connect(self, variant: str, address: str) -> None:
        """Warm a host up and time it through the link, as requests will use it; then use it."""

        def lost() -> None:
            if self._pool.remove(variant, host):  # one that Serve has stopped is in no pool any more
                self._metrics.lost(variant)
                logger.error("a host was lost", extra={"variant": variant, "host": address})
                self._wake.set()

        host = HostConnection(self._context, address, lost)
        try:
            for size in self._sizes[variant]:
                await host.run(zeros(self._model, size))
            for size in self._sizes[variant] * ENOUGH:
                start = time.monotonic()
                await host.run(zeros(self._model, size))
                self._latency.observe(variant, size, time.monotonic() - start)
        except (HostLost, BatchFailed) as error:
            host.close()
            logger.error(
                "a host failed to warm up", extra={"variant": variant, "cause": str(error)}
            )
            return
        self._pool.add(variant, host)
