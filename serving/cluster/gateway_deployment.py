"""The gateway: a Serve deployment that opens its own listeners.

Serve starts, checks and restarts the replica; requests do not pass through Serve.
"""

from __future__ import annotations

import gc

from ray import serve

from serving.cluster.names import HEALTH_PERIOD_S, HEALTH_TIMEOUT_S, STOP_POLL_S
from serving.cluster.registry import ServeRegistry
from serving.gateway.description import Ports
from serving.gateway.gateway import Gateway
from serving.gateway.settings import Settings
from serving.telemetry.logs import log_as_json


class GatewayReplica:
    """One replica of the gateway."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Serve awaits it
        log_as_json()
        self._gateway = Gateway(settings, ServeRegistry())
        # What exists now lives as long as the process. With it, a full garbage collection would
        # take 70 ms, in which no request is served.
        gc.collect()
        gc.freeze()
        await self._gateway.start()

    async def ports(self) -> Ports:
        """Return the ports on which the gateway listens."""
        return Ports(http=self._gateway.http_port, grpc=self._gateway.grpc_port)

    async def is_ready(self) -> bool:
        """Return whether the gateway is ready; see `DataPlane.is_ready`."""
        return self._gateway.is_ready

    async def check_health(self) -> None:
        """Raise if a listener or the discovery of hosts has stopped; called by Serve."""
        self._gateway.check_health()

    async def __del__(self) -> None:
        """Stop accepting requests, drain and close; called by Serve on a graceful stop."""
        await self._gateway.close()


GatewayDeployment = serve.deployment(
    name="Gateway",
    health_check_period_s=HEALTH_PERIOD_S,
    health_check_timeout_s=HEALTH_TIMEOUT_S,
    graceful_shutdown_wait_loop_s=STOP_POLL_S,
)(GatewayReplica)
