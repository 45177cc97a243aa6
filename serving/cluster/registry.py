"""The registry of hosts that Serve provides: applications, and descriptions by their replicas."""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve

from serving.cluster.names import variant_of
from serving.gateway.description import HostDescription


class ServeRegistry:
    """Queries Serve. Blocking calls run on a thread, so that the event loop can answer requests."""

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}

    async def list_apps(self) -> dict[str, list[str]]:
        """Return the names of the applications by variant; raise if Serve does not answer."""
        status = await asyncio.to_thread(serve.status)
        if not status.applications:  # the gateway's own application is always listed
            raise RuntimeError("Serve's controller does not answer")
        for app in self._handles.keys() - status.applications.keys():
            del self._handles[app]
        apps: dict[str, list[str]] = {}
        for app in status.applications:
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
