"""The registry of hosts that Serve provides: applications, and descriptions by their replicas."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import ray
from ray import serve
from ray.serve._private.common import DeploymentStatus, DeploymentStatusInfo
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.generated.serve_pb2 import (  # type: ignore[attr-defined]  # it has no stub
    DeploymentStatusInfo as DeploymentStatusInfoProto,
)

from serving.cluster.names import HOST, parse_app
from serving.cluster.start_failure import start_failure
from serving.gateway.description import HostDescription

FAILED: Final = frozenset({DeploymentStatus.DEPLOY_FAILED, DeploymentStatus.UNHEALTHY})
"""Statuses of a deployment whose replicas do not start."""


class ServeRegistry:
    """Queries Serve. Blocking calls run on a thread, so that the event loop can answer requests."""

    def __init__(self) -> None:
        self._controller: Any = None
        self._handles: dict[str, Any] = {}

    async def list_apps(self) -> dict[tuple[str, int], str]:
        """Return the names of the applications by variant and generation.

        Raises if Serve does not answer.

        Asks Serve's controller for no more than the names: `serve.status` is the public function,
        but its answer has all configurations, and Python needs 65 ms to read it, during which a
        gateway answers no request.
        """
        controller = await self._find_controller()
        deployments = await controller.list_deployment_ids.remote()
        names = {deployment.app_name for deployment in deployments}
        for app in self._handles.keys() - names:
            del self._handles[app]
        parsed = {app: parse_app(app) for app in sorted(names)}
        return {generation: app for app, generation in parsed.items() if generation is not None}

    async def describe(self, app: str) -> list[HostDescription]:
        """Return the descriptions of all replicas of an application; raise if one is missing."""
        if app not in self._handles:
            self._handles[app] = await asyncio.to_thread(serve.get_app_handle, app)
        descriptions: list[HostDescription] = await (
            self._handles[app].broadcast("describe").results_async()
        )
        return descriptions

    async def failure(self, app: str) -> str | None:
        """Return why the hosts of an application cannot start, or None if that is not known."""
        controller = await self._find_controller()
        raw = await controller.get_deployment_status.remote(HOST, app)
        if raw is None:
            return None
        status = DeploymentStatusInfo.from_proto(DeploymentStatusInfoProto.FromString(raw))
        if status.status not in FAILED:
            return None
        if (failure := start_failure([status.message])) is not None:
            return failure
        # Unhealthy without a traceback: a replica has ended, and Serve starts another one.
        has_failed = status.status == DeploymentStatus.DEPLOY_FAILED
        return f"its deployment is {status.status.value}" if has_failed else None

    async def _find_controller(self) -> Any:
        if self._controller is None:
            self._controller = await asyncio.to_thread(
                ray.get_actor, SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
            )
        return self._controller
