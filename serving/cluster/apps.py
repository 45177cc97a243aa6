"""The Serve applications: one gateway, and one per generation of a variant.

A RayService names the builders `gateway` and `host` in its serveConfigV2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ray.serve import Application

from serving.cluster import host_worker
from serving.cluster.gateway_deployment import GatewayDeployment
from serving.cluster.host_deployment import HostDeployment
from serving.gateway.settings import Settings, load_settings

STOP_MARGIN_S: Final = 10.0
"""Time after the end of the drain, in seconds, after which Serve kills a stopping replica."""


def gateway(args: Mapping[str, Any]) -> Application:
    """Return the application of the gateway; `args` override the settings of the environment."""
    return gateway_app(load_settings(**args))


def host(args: Mapping[str, Any]) -> Application:
    """Return the application of the variant in `args`; raise `ValueError` for other arguments."""
    if set(args) != {"variant"}:
        raise ValueError(f"the only argument is `variant`, got {', '.join(args) or 'none'}")
    return host_app(load_settings(), args["variant"])


def gateway_app(settings: Settings) -> Application:
    """Return the application of the gateway."""
    return GatewayDeployment.options(
        ray_actor_options={"num_cpus": 1},
        graceful_shutdown_timeout_s=settings.drain_s + STOP_MARGIN_S,
    ).bind(settings)


def host_app(settings: Settings, variant: str) -> Application:
    """Return the application of one variant."""
    cpus = settings.hosts.cpus
    runtime_env = {
        "py_executable": host_worker.command(),
        # Ray sets it too, but only after numpy has started a thread for each CPU.
        "env_vars": {"OMP_NUM_THREADS": str(cpus)},
    }
    return HostDeployment.options(
        num_replicas=settings.hosts.replicas,
        ray_actor_options={"num_cpus": cpus, "runtime_env": runtime_env},
        graceful_shutdown_timeout_s=settings.drain_s + STOP_MARGIN_S,
    ).bind(settings, variant)
