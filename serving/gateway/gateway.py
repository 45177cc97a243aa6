"""A gateway: listeners, data plane, scheduler and the link to its hosts, put together.

Imports no ray. The registry of hosts is an argument, so a gateway also runs without Serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from serving.control.api.administration import Administration
from serving.control.state import Lineup, ReplicaReport
from serving.control.store.store import Store
from serving.dataplane.batching import Arrays
from serving.dataplane.clock import LoopClock
from serving.dataplane.dataplane import DataPlane
from serving.dataplane.executor import BatchExecutor
from serving.dataplane.load_shedder import LoadShedder
from serving.dataplane.request import PendingRequest
from serving.dataplane.scheduler import Scheduler
from serving.gateway.administration import administration
from serving.gateway.discovery import Connect, HostDiscovery
from serving.gateway.generations import Generations, Parts, ProfileSource
from serving.gateway.local_hosts import Load, LocalHosts
from serving.gateway.probe import probe
from serving.gateway.registry import Registry
from serving.gateway.settings import Settings
from serving.link.connection import HostConnection
from serving.link.pool import HostPool
from serving.protocol.body_budget import BodyBudget
from serving.protocol.documents import Documents
from serving.protocol.front_door import FrontDoor
from serving.protocol.grpc.listener import GrpcListener
from serving.protocol.grpc.service import GrpcProtocol
from serving.protocol.http.application import HttpProtocol
from serving.protocol.http.inference_endpoint import InferenceEndpoint
from serving.protocol.http.listener import HttpListener
from serving.protocol.inference import Inference
from serving.routing.latency import LatencyModel
from serving.routing.planner import Planner
from serving.routing.policy import POLICIES
from serving.routing.profile import VariantProfile, variant_profiles
from serving.telemetry.metrics import Metrics
from serving.telemetry.statistics import Statistics
from serving.telemetry.telemetry import Telemetry
from variants.catalog.catalog import Catalog, Variant
from variants.catalog.hardware import hardware
from variants.catalog.recipe import DENSE
from variants.catalog.sample_request import read_inputs

MAX_BUSY_S: Final = 0.01
"""Maximum time, in seconds, for which each timing of a new host waits for other batches to end."""

BUSY_POLL_S: Final = 0.001
"""Interval, in seconds, at which such a timing looks whether they have."""

DRAIN_POLL_S: Final = 0.02
"""Interval, in seconds, at which `close` looks whether all accepted requests are answered."""


class Gateway:
    """One gateway in the running event loop."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        store: Store | None = None,
        *,
        serves_catalog: bool = True,
        load: Load | None = None,
    ) -> None:
        """Build the parts; no request is accepted before `start`.

        With the `store` of the service, it can be changed through this gateway. The first lineup
        has generation 1 of each variant of the catalog that the settings name. Without
        `serves_catalog` nothing is served, and the gateway is not ready, until `update`.
        `load` loads the variants that the settings name in `hosts.in_gateway`.

        Raises `OSError` if a port is taken, `ValueError` if the settings do not fit the catalog.
        """
        clock = LoopClock()
        catalog = Catalog.load(settings.catalog)
        limits = settings.limits
        hardware_key = hardware(settings.hosts.cpus, settings.hosts.device).key
        profiles: dict[str, VariantProfile] = {}
        if serves_catalog:
            profiles = variant_profiles(
                catalog, hardware_key, settings.variants, settings.accuracy_margin
            )
        self._drain_s = settings.drain_s
        self.on_change: Callable[[], None] = lambda: None
        """Called on the event loop when what `reports` returns may have changed."""

        collectors = CollectorRegistry()
        ProcessCollector(registry=collectors)
        PlatformCollector(registry=collectors)
        GCCollector(registry=collectors)
        metrics = Metrics(collectors, catalog.model.name)
        telemetry = Telemetry(metrics, Statistics())

        latency = LatencyModel({}, clock.time)
        pool = HostPool(lambda key, hosts: self._generations.set_hosts(key, hosts))
        self._pool = pool
        planner = Planner[PendingRequest[Arrays, Arrays]](
            POLICIES[settings.policy],
            latency,
            {},
            max_batch=limits.batch_size,
            max_queue=limits.queue_length,
            max_lanes=limits.lanes,
            cores=settings.hosts.parallel_batches,
        )
        self._scheduler = Scheduler(
            planner,
            BatchExecutor(pool.send, telemetry, clock.time).run,
            clock,
            on_decision=metrics.decided,
            on_cancelled=metrics.cancelled,
            on_expired=metrics.expired,
        )
        metrics.queue_length(lambda: self._scheduler.queued)
        shedder = LoadShedder()
        self._dataplane = DataPlane(
            catalog.model,
            profiles,
            self._scheduler,
            latency,
            telemetry,
            clock.time,
            max_batch=limits.batch_size,
            shedder=shedder,
            experiment=settings.experiment,
        )
        connect: Connect = HostConnection
        self._local: LocalHosts | None = None
        if settings.hosts.in_gateway:
            assert load is not None, "nothing can load the variants of hosts.in_gateway"
            others = None if settings.hosts.in_gateway == "all" else registry
            self._local = LocalHosts(load, settings.hosts.is_in_gateway, others)
            registry, connect = self._local, self._local.connect
        self._discovery = HostDiscovery(
            catalog.model,
            pool,
            latency,
            telemetry,
            registry,
            connect=connect,
            on_change=self._apply,
            pause=self._pause,
        )
        self._generations = Generations(
            self.name,
            Parts(pool, latency, self._scheduler, self._dataplane, telemetry, self._discovery),
            ProfileSource(catalog.variants[DENSE], hardware_key, settings.accuracy_margin),
            max_batch=limits.batch_size,
            slots_per_host=settings.hosts.slots,
        )
        if serves_catalog:
            self.update(
                Lineup(revision=0, published=dict.fromkeys(profiles, 1), warming={}),
                {(name, 1): catalog.variants[name] for name in profiles},
            )
        inference = Inference(self._dataplane, settings.slo)
        self._administration: Administration | None = None
        if store is not None:
            self._administration = administration(
                settings,
                store,
                catalog.model.name,
                lambda: self._dataplane.profiles,
                latency.best_case_s,
            )
        control = self._administration.control if self._administration else None
        documents = Documents(
            self._dataplane, version("paretoserve"), has_repository=control is not None
        )
        front_door = FrontDoor(
            shedder,
            self._dataplane.count_refused,
            clock.time,
            BodyBudget(limits.total_body_bytes),
        )
        self._http = HttpListener(
            HttpProtocol(
                self._dataplane,
                documents,
                collectors,
                max_body_bytes=limits.body_bytes,
                control=control,
                example=read_inputs(settings.catalog, catalog.model),
            ),
            settings.http.host,
            settings.http.port,
            endpoint=InferenceEndpoint(
                self._dataplane,
                inference,
                max_body_bytes=limits.body_bytes,
                check_caller=control.check_inference if control else None,
                now=clock.time,
            ),
            front_door=front_door,
            max_header_bytes=limits.header_bytes,
        )
        self._grpc = GrpcListener(
            GrpcProtocol(
                self._dataplane,
                inference,
                documents,
                front_door=front_door,
                control=control,
                max_stream_requests=limits.stream_requests,
                now=clock.time,
            ),
            settings.grpc.host,
            settings.grpc.port,
            max_message_bytes=limits.body_bytes,
        )

    async def start(self) -> None:
        """Start the discovery of hosts and the listeners. On return, requests are accepted."""
        self._discovery_task = asyncio.create_task(self._discovery.run())
        await self._http.start()
        await self._grpc.start()

    def update(self, lineup: Lineup, records: Mapping[tuple[str, int], Variant]) -> None:
        """Serve this lineup from now on; see `Generations.update`. Call this on the event loop."""
        self._generations.update(lineup, records)
        self._load_wanted()

    def reports(self) -> list[ReplicaReport]:
        """Return what this gateway sees of each generation. Call this on the event loop."""
        return self._generations.reports()

    async def probe(self, variant: str, generation: int) -> float:
        """Return the latency of a warm generation in seconds; see `probe`."""
        return await probe(self._pool, self._dataplane.model, variant, generation)

    @property
    def name(self) -> str:
        """The name of this gateway in its reports: host and process."""
        return f"{socket.gethostname()}:{os.getpid()}"

    def _apply(self) -> None:
        """Take note of the hosts that have joined or left."""
        self._generations.apply()
        self._load_wanted()
        self.on_change()

    def _load_wanted(self) -> None:
        """Load what is computed here, and release what is not needed any more."""
        if self._local is not None:
            self._local.want(self._discovery.watched())

    async def _pause(self, seconds: float) -> None:
        """Wait for this time, and then for a moment without requests, but not for long."""
        await asyncio.sleep(seconds)
        deadline = time.monotonic() + MAX_BUSY_S
        while not self._scheduler.is_idle and time.monotonic() < deadline:
            await asyncio.sleep(BUSY_POLL_S)

    @property
    def http_port(self) -> int:
        """Port of the HTTP listener."""
        return self._http.port

    @property
    def grpc_port(self) -> int:
        """Port of the gRPC listener."""
        return self._grpc.port

    @property
    def is_ready(self) -> bool:
        """True if the gateway is ready; see `DataPlane.is_ready`."""
        return self._dataplane.readiness.is_ready

    def check_health(self) -> None:
        """Raise `RuntimeError` if a listener, the discovery or a compute thread has stopped."""
        for name, listener in (("HTTP", self._http), ("gRPC", self._grpc)):
            if not listener.is_alive:
                raise RuntimeError(f"the {name} listener has stopped")
        if self._discovery_task.done():
            raise RuntimeError("the discovery of hosts has stopped")
        if self._local is not None:
            self._local.check_health()

    async def close(self) -> None:
        """Refuse new requests, answer those that were accepted, then close."""
        self._http.stop_accepting()
        self._grpc.stop_accepting()
        await asyncio.sleep(0)  # stream messages that were read already are accepted
        self._dataplane.readiness.is_draining = True
        if self._administration is not None:
            self._administration.stop()
        deadline = time.monotonic() + self._drain_s
        while not self._scheduler.is_idle and time.monotonic() < deadline:
            await asyncio.sleep(DRAIN_POLL_S)
        await asyncio.gather(self._http.close(), self._grpc.close())
        self._generations.close()
        self._discovery_task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._discovery_task
        if self._local is not None:
            self._local.close()
        if self._administration is not None:
            self._administration.close()
