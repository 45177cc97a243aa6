"""The gateway: a Serve deployment that opens its own listeners.

Serve starts, checks and restarts the replica; it never sees a request.
"""

from __future__ import annotations

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
        await self._gateway.start()

    async def ports(self) -> Ports:
        """Tell which ports are listened on."""
        return Ports(http=self._gateway.http_port, grpc=self._gateway.grpc_port)

    async def is_ready(self) -> bool:
        """Tell whether every variant can answer."""
        return self._gateway.is_ready

    async def check_health(self) -> None:
        """Called by Serve: raise if requests are not accepted, or hosts not watched, any more."""
        self._gateway.check_health()

    async def __del__(self) -> None:
        """Called by Serve on a graceful stop: stop accepting, drain, close."""
        await self._gateway.close()


GatewayDeployment = serve.deployment(
    name="Gateway",
    health_check_period_s=HEALTH_PERIOD_S,
    health_check_timeout_s=HEALTH_TIMEOUT_S,
    graceful_shutdown_wait_loop_s=STOP_POLL_S,
)(GatewayReplica)
