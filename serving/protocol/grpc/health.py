"""The service grpc.health.v1: `Check` returns the readiness, `Watch` streams its changes.

The data plane is queried each time; no state is kept here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2 as pb

from serving.errors import InvalidRequest, ModelNotFound
from serving.protocol.grpc.call import Context, Services, fail, parse_message, unary

SERVICE: Final = pb.DESCRIPTOR.services_by_name["Health"].full_name
OVERALL: Final = ""
"""Name that stands for the server as a whole."""

POLL_INTERVAL_S: Final = 0.5
"""Seconds between two queries of the readiness for a watcher."""


class Health:
    """The health service of a gateway, whose services all have the same status."""

    def __init__(
        self,
        is_ready: Callable[[], bool],
        services: Collection[str],
        *,
        poll_interval_s: float,
    ) -> None:
        self._is_ready = is_ready
        self._services = {OVERALL, SERVICE, *services}
        self._poll_interval_s = poll_interval_s
        self._stopping = asyncio.Event()

    def services(self) -> Services:
        """Return the handlers."""
        check = unary(f"/{SERVICE}/Check", pb.HealthCheckRequest, self._check)
        return {
            SERVICE: {"Check": check, "Watch": grpc.unary_stream_rpc_method_handler(self._watch)}
        }

    def stop(self) -> None:
        """Send NOT_SERVING to every watcher, and end its call."""
        self._stopping.set()

    async def _check(self, request: Any, context: Context) -> Any:
        if request.service not in self._services:
            raise ModelNotFound(f"unknown service {request.service!r:.100}")
        return pb.HealthCheckResponse(status=self._status(request.service))

    async def _watch(self, raw: bytes, context: Context) -> None:
        try:
            request = parse_message(pb.HealthCheckRequest, raw)
        except InvalidRequest as error:
            fail(error, f"/{SERVICE}/Watch", context)
            return
        sent = None
        while True:
            is_last = self._stopping.is_set()  # before the write, during which it may be set
            status = self._status(request.service)
            if status != sent:
                await context.write(pb.HealthCheckResponse(status=status).SerializeToString())
                sent = status
            if is_last:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the service is stopping")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._poll_interval_s)

    def _status(self, service: str) -> int:
        status = pb.HealthCheckResponse
        if service not in self._services:
            return int(status.SERVICE_UNKNOWN)
        is_serving = self._is_ready() and not self._stopping.is_set()
        return int(status.SERVING if is_serving else status.NOT_SERVING)
