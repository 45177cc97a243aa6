"""The parts of a gateway, put together: from its listeners down to the link. Knows no Ray.

Who knows the hosts is an argument, so a gateway can also be put together where Serve is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from serving.dataplane.batching import Arrays, join, part
from serving.dataplane.clock import LoopClock
from serving.dataplane.dataplane import DataPlane
from serving.dataplane.executor import Ran
from serving.dataplane.scheduler import Scheduler
from serving.gateway.discovery import HostDiscovery, Registry
from serving.gateway.settings import Settings
from serving.link.link import HostPool
from serving.protocol.documents import Documents
from serving.protocol.grpc.listener import GrpcListener
from serving.protocol.grpc.service import GrpcProtocol
from serving.protocol.http.application import HttpProtocol
from serving.protocol.http.listener import HttpListener
from serving.protocol.inference import Inference
from serving.routing.latency import LatencyModel
from serving.routing.planner import Planner
from serving.routing.policy import POLICIES
from serving.routing.profile import variant_profiles
from serving.telemetry.event import Executed
from serving.telemetry.metrics import Metrics
from serving.telemetry.statistics import Statistics
from variants.catalog.catalog import Catalog
from variants.catalog.hardware import hardware

DRAIN_POLL_S: Final = 0.02


class Gateway:
    """One gateway in the running event loop: listening, scheduling, in touch with its hosts."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        """Put the parts together; `start` lets requests in.

        Raises `OSError` if a port is taken, `ValueError` if catalog and settings do not agree.
        """
        clock = LoopClock()
        catalog = Catalog.load(settings.catalog)
        profiles = variant_profiles(catalog, hardware(settings.hosts.cpus).key, settings.variants)
        limits = settings.limits
        self._drain_s = settings.drain_s
        self._now = clock.time

        collectors = CollectorRegistry()
        ProcessCollector(registry=collectors)
        PlatformCollector(registry=collectors)
        GCCollector(registry=collectors)
        self._metrics = metrics = Metrics(collectors, catalog.model.name)
        metrics.profiles(profiles)
        self._statistics = Statistics(profiles)

        latency = LatencyModel(
            {name: profile.latencies for name, profile in profiles.items()}, clock.time
        )
        slots = settings.hosts.slots
        self._pool = HostPool(
            lambda variant, hosts: self._scheduler.set_slots(variant, hosts * slots)
        )
        planner = Planner(
            POLICIES[settings.policy],
            latency,
            {name: profile.accuracy for name, profile in profiles.items()},
            max_batch=limits.batch_size,
            max_queue=limits.queue_length,
            max_lanes=limits.lanes,
            cores=settings.hosts.cores or math.inf,
        )
        self._scheduler = Scheduler(
            planner,
            self._run,
            clock,
            on_decision=metrics.decided,
            on_cancelled=metrics.cancelled,
            on_expired=metrics.expired,
        )
        metrics.queue_length(lambda: self._scheduler.queued)
        self._dataplane = DataPlane(
            catalog.model,
            profiles,
            self._scheduler,
            latency,
            metrics,
            self._statistics,
            clock.time,
            max_batch=limits.batch_size,
            experiment=settings.experiment,
        )
        self._directory = HostDiscovery(
            catalog.model,
            {
                name: tuple(size for size in profile.latencies if size <= limits.batch_size)
                for name, profile in profiles.items()
            },
            self._pool,
            latency,
            metrics,
            self._statistics,
            registry,
        )
        inference = Inference(self._dataplane, settings.slo)
        documents = Documents(self._dataplane, version("paretoserve"))
        self._http = HttpListener(
            HttpProtocol(
                self._dataplane,
                inference,
                documents,
                collectors,
                max_body_bytes=limits.body_bytes,
                now=clock.time,
            ),
            settings.http.host,
            settings.http.port,
            max_header_bytes=limits.header_bytes,
        )
        self._grpc = GrpcListener(
            GrpcProtocol(
                self._dataplane,
                inference,
                documents,
                stream_requests=limits.stream_requests,
                now=clock.time,
            ),
            settings.grpc.host,
            settings.grpc.port,
            max_message_bytes=limits.body_bytes,
        )

    async def start(self) -> None:
        """Look for hosts and accept requests; once it returns, they are."""
        self._watching = asyncio.create_task(self._directory.run())
        await self._http.start()
        await self._grpc.start()

    @property
    def http_port(self) -> int:
        """Where HTTP is listened for."""
        return self._http.port

    @property
    def grpc_port(self) -> int:
        """Where gRPC is listened for."""
        return self._grpc.port

    @property
    def is_ready(self) -> bool:
        """True if requests are answered."""
        return self._dataplane.is_ready

    def check_health(self) -> None:
        """Raise if requests are not accepted, or hosts not watched, any more."""
        for name, listener in (("HTTP", self._http), ("gRPC", self._grpc)):
            if not listener.is_alive:
                raise RuntimeError(f"the {name} listener has stopped")
        if self._watching.done():
            raise RuntimeError("the hosts are not watched any more")

    async def close(self) -> None:
        """Refuse what comes, answer what was accepted, close."""
        self._http.stop_accepting()
        self._grpc.stop_accepting()
        await asyncio.sleep(0)  # what was read of streams is accepted
        self._dataplane.is_draining = True
        deadline = time.monotonic() + self._drain_s
        while not self._scheduler.is_idle and time.monotonic() < deadline:
            await asyncio.sleep(DRAIN_POLL_S)
        await asyncio.gather(self._http.close(), self._grpc.close())
        self._watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watching

    async def _run(self, variant: str, requests: Sequence[Arrays]) -> Ran:
        start = self._now()
        sizes = [len(next(iter(request.values()))) for request in requests]
        batch = join(requests)
        joined = self._now()
        result = await self._pool.run(variant, batch)
        parts = part(result.outputs, sizes)
        input_s, compute_s = joined - start, result.compute_s
        executed = Executed(
            variant,
            samples=sum(sizes),
            input_s=input_s,
            compute_s=compute_s,
            output_s=max(0.0, self._now() - joined - compute_s),
        )
        self._metrics.executed(executed)
        self._statistics.executed(executed)
        return Ran(parts, compute_s, input_s)
