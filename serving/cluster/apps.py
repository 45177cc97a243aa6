"""The Serve applications: one gateway, and one per generation of a variant.

`gateway` and `host` are what a RayService names in its serveConfigV2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ray.serve import Application

from serving.cluster.gateway_deployment import GatewayDeployment
from serving.cluster.host_deployment import HostDeployment
from serving.gateway.settings import Settings, load_settings

STOP_SPARE_S: Final = 10.0
"""What a replica gets beyond the time to drain before Serve kills it."""


def gateway(args: Mapping[str, Any]) -> Application:
    """Build the gateway's application; `args` override the settings of the environment."""
    return gateway_app(load_settings(**args))


def host(args: Mapping[str, Any]) -> Application:
    """Build the application of the variant that `args` name."""
    if set(args) != {"variant"}:
        raise ValueError(f"the one argument is `variant`, got {', '.join(args) or 'none'}")
    return host_app(load_settings(), args["variant"])


def gateway_app(settings: Settings) -> Application:
    """Build the gateway's application."""
    return GatewayDeployment.options(
        ray_actor_options={"num_cpus": 1},
        graceful_shutdown_timeout_s=settings.drain_s + STOP_SPARE_S,
    ).bind(settings)


def host_app(settings: Settings, variant: str) -> Application:
    """Build the application of one variant."""
    return HostDeployment.options(
        num_replicas=settings.hosts.replicas,
        ray_actor_options={"num_cpus": settings.hosts.cpus},
        graceful_shutdown_timeout_s=settings.drain_s + STOP_SPARE_S,
    ).bind(settings, variant)
