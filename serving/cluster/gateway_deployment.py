"""The gateway: a Serve deployment that opens its own listeners.

Serve starts, checks and restarts the replica; requests do not pass through Serve.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from functools import partial

from ray import serve

from serving.cluster.loading import load_in_gateway
from serving.cluster.loopback import keep_on_loopback
from serving.cluster.names import HEALTH_PERIOD_S, HEALTH_TIMEOUT_S, STOP_POLL_S
from serving.cluster.registry import ServeRegistry
from serving.cluster.serve_cluster import ServeCluster
from serving.control.cluster import GenerationKey
from serving.control.startup import adopt_catalog, open_store
from serving.control.store.store import Store
from serving.gateway.control_loops import ControlLoops
from serving.gateway.description import Ports
from serving.gateway.gateway import Gateway
from serving.gateway.settings import Settings, absolute
from serving.telemetry.logs import log_as_json
from variants.catalog.storage import open_storage

logger = logging.getLogger(__name__)


class GatewayReplica:
    """One replica of the gateway."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Serve awaits it
        log_as_json()
        keep_on_loopback()
        settings = absolute(settings)
        store, excluded = await asyncio.to_thread(_open, settings)
        load = partial(load_in_gateway, settings)
        self._gateway = Gateway(settings, ServeRegistry(), store, serves_catalog=False, load=load)
        cluster = ServeCluster(settings)
        self._control = ControlLoops(self._gateway, store, cluster, settings, excluded)
        # What exists now lives as long as the process. With it, a full garbage collection would
        # take 70 ms, in which no request is served.
        gc.collect()
        gc.freeze()
        await self._control.start()
        await self._gateway.start()

    async def ports(self) -> Ports:
        """Return the ports on which the gateway listens."""
        return Ports(http=self._gateway.http_port, grpc=self._gateway.grpc_port)

    async def is_ready(self) -> bool:
        """Return whether the gateway is ready; see `DataPlane.is_ready`."""
        return self._gateway.is_ready

    async def check_health(self) -> None:
        """Raise if a listener, or what keeps the gateway up to date, has stopped; see Serve."""
        self._gateway.check_health()
        self._control.check_health()

    async def __del__(self) -> None:
        """Stop accepting requests, drain and close; called by Serve on a graceful stop."""
        await self._gateway.close()
        await self._control.close()


def _open(settings: Settings) -> tuple[Store, frozenset[GenerationKey]]:
    """Open the state of the service and add what the catalog has; see `adopt_catalog`."""
    store = open_store(settings.control, settings.catalog)
    storage = open_storage(settings.artifacts)
    excluded = adopt_catalog(store, settings.catalog, settings.variants, storage=storage)
    named = () if settings.hosts.in_gateway == "all" else settings.hosts.in_gateway
    unknown = sorted(set(named) - {variant.name for variant in store.variants()})
    if unknown:  # they may be added later
        logger.warning("hosts.in_gateway names unknown variants", extra={"variants": unknown})
    return store, excluded


GatewayDeployment = serve.deployment(
    name="Gateway",
    health_check_period_s=HEALTH_PERIOD_S,
    health_check_timeout_s=HEALTH_TIMEOUT_S,
    graceful_shutdown_wait_loop_s=STOP_POLL_S,
)(GatewayReplica)
