"""The registry of hosts that Serve provides: applications, and descriptions by their replicas."""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray import serve
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

from serving.cluster.names import variant_of
from serving.gateway.description import HostDescription


class ServeRegistry:
    """Queries Serve. Blocking calls run on a thread, so that the event loop can answer requests."""

    def __init__(self) -> None:
        self._controller: Any = None
        self._handles: dict[str, Any] = {}

    async def list_apps(self) -> dict[str, list[str]]:
        """Return the names of the applications by variant; raise if Serve does not answer.

        Asks Serve's controller for no more than the names: `serve.status` is the public function,
        but its answer has all configurations, and Python needs 65 ms to read it, during which a
        gateway answers no request.
        """
        if self._controller is None:
            self._controller = await asyncio.to_thread(
                ray.get_actor, SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
            )
        deployments = await self._controller.list_deployment_ids.remote()
        names = {deployment.app_name for deployment in deployments}
        for app in self._handles.keys() - names:
            del self._handles[app]
        apps: dict[str, list[str]] = {}
        for app in sorted(names):
            variant = variant_of(app)
            if variant is not None:
                apps.setdefault(variant, []).append(app)
        return apps

    async def describe(self, app: str) -> list[HostDescription]:
        """Return the descriptions of all replicas of an application; raise if one is missing."""
        if app not in self._handles:
            self._handles[app] = await asyncio.to_thread(serve.get_app_handle, app)
        descriptions: list[HostDescription] = await (
            self._handles[app].broadcast("describe").results_async()
        )
        return descriptions
