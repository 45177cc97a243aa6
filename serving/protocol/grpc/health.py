"""grpc.health.v1: whether requests are answered, asked for once or watched.

The answer is always the data plane's own, as of now.
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
LOOK_EVERY_S: Final = 1.0
"""Between two looks of a watcher: readiness is asked for, nobody announces it."""


class Health:
    """The health service of a gateway; every service of it is as ready as the others."""

    def __init__(
        self,
        is_ready: Callable[[], bool],
        services: Collection[str],
        *,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._is_ready = is_ready
        self._services = {OVERALL, SERVICE, *services}
        self._look_every_s = look_every_s
        self._stopping = asyncio.Event()

    def services(self) -> Services:
        """Return the handlers."""
        check = unary(f"/{SERVICE}/Check", pb.HealthCheckRequest, self._check)
        return {
            SERVICE: {"Check": check, "Watch": grpc.unary_stream_rpc_method_handler(self._watch)}
        }

    def stop(self) -> None:
        """Tell every watcher that requests are not answered any more, and let it go."""
        self._stopping.set()

    async def _check(self, request: Any, context: Context) -> Any:
        if request.service not in self._services:
            raise ModelNotFound(f"there is no service {request.service!r:.100} here")
        return pb.HealthCheckResponse(status=self._status(request.service))

    async def _watch(self, raw: bytes, context: Context) -> None:
        try:
            request = parse_message(pb.HealthCheckRequest, raw)
        except InvalidRequest as error:
            fail(error, f"/{SERVICE}/Watch", context)
            return
        last = None
        while True:
            status = self._status(request.service)
            if status != last:
                await context.write(pb.HealthCheckResponse(status=status).SerializeToString())
                last = status
            if self._stopping.is_set():
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the service is stopping")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._look_every_s)

    def _status(self, service: str) -> int:
        status = pb.HealthCheckResponse
        if service not in self._services:
            return int(status.SERVICE_UNKNOWN)
        is_serving = self._is_ready() and not self._stopping.is_set()
        return int(status.SERVING if is_serving else status.NOT_SERVING)
