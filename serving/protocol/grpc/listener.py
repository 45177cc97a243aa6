"""The gateway's own gRPC listener: a grpc.aio server inside a running loop."""

from __future__ import annotations

import asyncio
import socket
from errno import EADDRINUSE
from typing import Final

import grpc

from serving.protocol.grpc.service import GrpcProtocol

LAST_CALLS_S: Final = 2.0
"""How long open calls get to end when the listener closes: their requests were drained."""

QUIET_S: Final = 0.3
"""So long after everything is refused hardly anybody calls any more."""

LEAST_PING_INTERVAL_MS: Final = 100
"""Clients that keep their connections alive ping every second at most. By its own defaults grpc
sends away who pings twice in five minutes without data, or in two hours without a call."""


class GrpcListener:
    """Accepts gRPC connections, from `start` to `close`."""

    def __init__(
        self, protocol: GrpcProtocol, host: str, port: int, *, max_message_bytes: int
    ) -> None:
        """Take the port; 0 takes a free one. Gateways on one node share a port by SO_REUSEPORT.

        A message of more than `max_message_bytes`, unpacked if it is compressed, is refused; an
        answer may have any size. Raises `OSError` if the port is taken by anybody else.
        """
        self._protocol = protocol
        self._max_message_bytes = max_message_bytes
        self._server: grpc.aio.Server | None = None
        self._serving: asyncio.Task[bool] | None = None
        # It does not listen: it keeps the port until grpc shares it, and tells what is wrong.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._place = socket.socket(family, socket.SOCK_STREAM)
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            self._place.bind((host, port))
        except OSError:
            self._place.close()
            raise
        address: str = self._place.getsockname()[0]
        self.port: int = self._place.getsockname()[1]
        self._address = f"[{address}]:{self.port}" if ":" in address else f"{address}:{self.port}"

    async def start(self) -> None:
        """Begin to accept connections; once it returns, they are.

        Raises `OSError` if somebody else took the port after all.
        """
        server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", self._max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 1),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", LEAST_PING_INTERVAL_MS),
            )
        )
        for service, handlers in self._protocol.services().items():
            server.add_registered_method_handlers(service, handlers)
        try:
            server.add_insecure_port(self._address)
        except RuntimeError:
            raise OSError(
                EADDRINUSE, f"the port is in use by somebody else: {self._address}"
            ) from None
        finally:
            self._place.close()
        await server.start()
        self._server = server
        self._serving = asyncio.create_task(server.wait_for_termination())

    @property
    def is_alive(self) -> bool:
        """True while connections are accepted."""
        return self._serving is not None and not self._serving.done()

    def stop_accepting(self) -> None:
        """Tell who watches, and end the streams once what was read of them is answered.

        Other calls are still taken, for the data plane to refuse: grpc would cancel those that have
        arrived, and their callers could not tell that from their own doing.
        """
        self._protocol.stop()

    async def close(self, grace_s: float = LAST_CALLS_S) -> None:
        """Stop accepting, wait until refusals are read, let open calls end for `grace_s`, close."""
        self._place.close()
        if self._server is None or self._serving is None:
            return
        self.stop_accepting()
        await asyncio.sleep(QUIET_S)
        await self._server.stop(grace_s)
        await self._serving
