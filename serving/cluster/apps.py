"""The Serve application of the gateway. A RayService names its builder in serveConfigV2.

The reconciler starts and stops the applications of hosts, one per generation of a variant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.serve import Application

from serving.cluster.gateway_deployment import GatewayDeployment
from serving.cluster.names import STOP_MARGIN_S
from serving.gateway.settings import Settings, load_settings


def gateway(args: Mapping[str, Any]) -> Application:
    """Return the application of the gateway; `args` override the settings of the environment."""
    return gateway_app(load_settings(**args))


def gateway_app(settings: Settings) -> Application:
    """Return the application of the gateway."""
    return GatewayDeployment.options(
        ray_actor_options={"num_cpus": settings.hosts.gateway_cpus},
        graceful_shutdown_timeout_s=settings.drain_s + STOP_MARGIN_S,
    ).bind(settings)
