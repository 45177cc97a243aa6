"""What Serve knows of the hosts: its applications, and what their replicas say of themselves."""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve

from serving.cluster.names import variant_of
from serving.gateway.description import HostDescription


class ServeRegistry:
    """Asks Serve. What blocks runs on a thread: the event loop has requests to answer."""

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}

    async def list_apps(self) -> dict[str, list[str]]:
        """Return by variant the names of its applications; raises if Serve does not answer."""
        status = await asyncio.to_thread(serve.status)
        if not status.applications:  # there is at least the gateway's own
            raise RuntimeError("Serve's controller is away")
        for app in self._handles.keys() - status.applications.keys():
            del self._handles[app]
        apps: dict[str, list[str]] = {}
        for app in status.applications:
            variant = variant_of(app)
            if variant is not None:
                apps.setdefault(variant, []).append(app)
        return apps

    async def describe(self, app: str) -> list[HostDescription]:
        """Return what every replica of an application says; raises if not all of them answer."""
        if app not in self._handles:
            self._handles[app] = await asyncio.to_thread(serve.get_app_handle, app)
        answers: list[HostDescription] = await (
            self._handles[app].broadcast("describe").results_async()
        )
        return answers
