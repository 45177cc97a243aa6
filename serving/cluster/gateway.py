"""The gateway: a Serve deployment that opens its own listener, and holds all the parts together.

Serve starts, checks and restarts the replica; it never sees a request.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from importlib.metadata import version

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from ray import serve

from serving.batch import Arrays, join, part
from serving.clock import LoopClock
from serving.cluster.directory import Directory
from serving.cluster.names import HEALTH_PERIOD_S, HEALTH_TIMEOUT_S, STOP_POLL_S
from serving.cluster.registry import ServeRegistry
from serving.dataplane import DataPlane
from serving.latency import LatencyModel
from serving.link import HostPool
from serving.logs import log_as_json
from serving.metrics import Metrics
from serving.offer import offers
from serving.policy import POLICIES
from serving.protocol.http import HttpProtocol
from serving.protocol.listener import HttpListener
from serving.scheduler import Ran, Scheduler
from serving.settings import Settings
from variants.catalog import Catalog
from variants.hardware import hardware


class Gateway:
    """One replica of the gateway."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Serve awaits it
        log_as_json()
        self._settings = settings
        clock = LoopClock()
        catalog = Catalog.load(settings.catalog)
        offered = offers(catalog, hardware(settings.hosts.cpus).key, settings.variants)

        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self._metrics = metrics = Metrics(registry, catalog.model.name)
        metrics.offered(offered)

        latency = LatencyModel(
            {name: offer.latencies_s for name, offer in offered.items()}, clock.time
        )
        slots = settings.hosts.slots
        self._pool = HostPool(
            lambda variant, hosts: self._scheduler.set_slots(variant, hosts * slots)
        )
        self._scheduler = Scheduler(
            POLICIES[settings.policy],
            latency,
            self._run,
            clock,
            max_batch=settings.limits.batch_size,
            max_queue=settings.limits.queue_length,
            on_decision=metrics.decided,
        )
        metrics.queue_length(lambda: self._scheduler.queued)
        self._dataplane = DataPlane(
            catalog.model,
            offered,
            self._scheduler,
            latency,
            metrics,
            clock.time,
            max_batch=settings.limits.batch_size,
            experiment=settings.experiment,
        )
        sizes = {
            name: tuple(size for size in offer.latencies_s if size <= settings.limits.batch_size)
            for name, offer in offered.items()
        }
        directory = Directory(catalog.model, sizes, self._pool, latency, metrics, ServeRegistry())
        self._watching = asyncio.create_task(directory.run())
        protocol = HttpProtocol(
            self._dataplane,
            registry,
            version=version("paretoserve"),
            default_slo=settings.slo,
            max_body_bytes=settings.limits.body_bytes,
            now=clock.time,
        )
        self._listener = HttpListener(protocol, settings.http.host, settings.http.port)
        await self._listener.start()

    async def port(self) -> int:
        """Tell which port is listened on."""
        return self._listener.port

    async def is_ready(self) -> bool:
        """Tell whether every variant can answer."""
        return self._dataplane.is_ready

    async def check_health(self) -> None:
        """Called by Serve: raise if requests are not accepted, or hosts not watched, any more."""
        if not self._listener.is_alive:
            raise RuntimeError("the listener has stopped")
        if self._watching.done():
            raise RuntimeError("the hosts are not watched any more")

    async def __del__(self) -> None:
        """Called by Serve on a graceful stop: stop accepting, drain, close."""
        self._listener.stop_accepting()
        self._dataplane.is_draining = True
        deadline = time.monotonic() + self._settings.drain_s
        while not self._scheduler.is_idle and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        await self._listener.close()
        self._watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watching

    async def _run(self, variant: str, requests: Sequence[Arrays]) -> Ran:
        sizes = [len(next(iter(request.values()))) for request in requests]
        result = await self._pool.run(variant, join(requests))
        self._metrics.ran(variant, sum(sizes), result.compute_s)
        return Ran(part(result.outputs, sizes), result.compute_s)


GatewayDeployment = serve.deployment(
    name="Gateway",
    health_check_period_s=HEALTH_PERIOD_S,
    health_check_timeout_s=HEALTH_TIMEOUT_S,
    graceful_shutdown_wait_loop_s=STOP_POLL_S,
)(Gateway)
