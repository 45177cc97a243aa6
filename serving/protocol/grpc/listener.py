"""The gRPC listener of a gateway: a grpc.aio server in a running event loop."""

from __future__ import annotations

import asyncio
import socket
from errno import EADDRINUSE
from typing import Final

import grpc

from serving.protocol.grpc.service import GrpcProtocol

CLOSE_TIMEOUT_S: Final = 2.0
"""Seconds until `close` cuts open calls. Their requests were drained before."""

CLOSE_DELAY_S: Final = 0.3
"""Seconds for which `close` rejects calls before it ends the server, so that clients get the status
and stop calling."""

MIN_PING_INTERVAL_MS: Final = 100
"""Minimum time between keep-alive pings of a client. Clients ping once per second at most. The
defaults of grpc disconnect clients that ping twice in five minutes without data, or in two hours
without a call."""


class GrpcListener:
    """Accepts gRPC connections, from `start` to `close`."""

    def __init__(
        self,
        protocol: GrpcProtocol,
        host: str,
        port: int,
        *,
        max_message_bytes: int,
        close_delay_s: float = CLOSE_DELAY_S,
    ) -> None:
        """Reserve the port; 0 reserves a free one. Gateways on one node share it by SO_REUSEPORT.

        A message is rejected if it is larger than `max_message_bytes`, decompressed; a response may
        have any size. `close` rejects calls for `close_delay_s` before it ends the server. Raises
        `OSError` if another program uses the port.
        """
        self._protocol = protocol
        self._max_message_bytes = max_message_bytes
        self._close_delay_s = close_delay_s
        self._server: grpc.aio.Server | None = None
        self._serving: asyncio.Task[bool] | None = None
        # This socket does not listen. It reserves the port until grpc binds it, and raises errors
        # that grpc would not describe.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._port_socket = socket.socket(family, socket.SOCK_STREAM)
        self._port_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            self._port_socket.bind((host, port))
        except OSError:
            self._port_socket.close()
            raise
        address: str = self._port_socket.getsockname()[0]
        self.port: int = self._port_socket.getsockname()[1]
        self._address = f"[{address}]:{self.port}" if ":" in address else f"{address}:{self.port}"

    async def start(self) -> None:
        """Start to accept connections; return once they are accepted.

        Raises `OSError` if another program has taken the port in the meantime.
        """
        server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", self._max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 1),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
            )
        )
        server.add_generic_rpc_handlers((self._protocol.inference(),))
        for service, handlers in self._protocol.services().items():
            server.add_registered_method_handlers(service, handlers)
        try:
            server.add_insecure_port(self._address)
        except RuntimeError:
            raise OSError(EADDRINUSE, f"another program uses the port: {self._address}") from None
        finally:
            self._port_socket.close()
        await server.start()
        self._server = server
        self._serving = asyncio.create_task(server.wait_for_termination())

    @property
    def is_alive(self) -> bool:
        """True while the server runs."""
        return self._serving is not None and not self._serving.done()

    def stop_accepting(self) -> None:
        """Notify the health watchers, and end each stream once the requests read from it are done.

        Other calls are still accepted, and the data plane rejects them. grpc itself would cancel
        calls that have arrived, which their clients could not tell from a cancellation of their
        own.
        """
        self._protocol.stop()

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Reject new calls for the delay, then close; cut open calls after `timeout_s`."""
        self._port_socket.close()
        if self._server is None or self._serving is None:
            return
        self.stop_accepting()
        await asyncio.sleep(self._close_delay_s)
        await self._server.stop(timeout_s)
        await self._serving
