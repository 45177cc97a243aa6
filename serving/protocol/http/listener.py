"""The HTTP listener of a gateway: its socket and its connections, in a running event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection
from typing import Final

from serving.dataplane.load_shedder import LoadShedder
from serving.protocol.control import Asgi
from serving.protocol.front_door import FrontDoor
from serving.protocol.http.connection import Connection
from serving.protocol.http.inference_endpoint import InferenceEndpoint
from serving.protocol.http.site import (
    KEEP_ALIVE_S,
    MAX_HEADER_BYTES,
    READ_TIMEOUT_S,
    OpenConnection,
    Site,
)

BACKLOG: Final = 2048
"""Connections that the kernel queues until the listener accepts them."""

CLOSE_TIMEOUT_S: Final = 2.0
"""Seconds until `close` cuts open connections. Their requests were drained before."""

CLOSE_POLL_S: Final = 0.01
"""Interval, in seconds, at which `close` looks whether all connections have ended."""


class HttpListener:
    """Accepts HTTP connections, from `start` to `close`."""

    def __init__(
        self,
        app: Asgi,
        host: str,
        port: int,
        *,
        endpoint: InferenceEndpoint | None = None,
        front_door: FrontDoor | None = None,
        max_header_bytes: int = MAX_HEADER_BYTES,
        read_timeout_s: float = READ_TIMEOUT_S,
        keep_alive_s: float = KEEP_ALIVE_S,
        close_timeout_s: float = CLOSE_TIMEOUT_S,
    ) -> None:
        """Bind the port; 0 binds a free one. Gateways on one node share a port by SO_REUSEPORT.

        `endpoint` answers inference requests, the ASGI application `app` all others. `front_door`
        decides which inference requests are refused before they are parsed; without one, none is.
        A request is rejected if its request line and headers together are larger than
        `max_header_bytes`, or if it is incomplete and no data arrive for `read_timeout_s`. A
        connection without a request is closed after `keep_alive_s`. Raises `OSError` if another
        program uses the port.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # asyncio disables Nagle's algorithm only on sockets with an explicit protocol. Otherwise
        # each response would take 40 ms longer.
        self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            self._socket.bind((host, port))
        except OSError:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]
        self._close_timeout_s = close_timeout_s
        self._site = Site(
            app=app,
            endpoint=endpoint,
            front_door=front_door or FrontDoor(LoadShedder(), on_refused=lambda: None),
            max_header_bytes=max_header_bytes,
            read_timeout_s=read_timeout_s,
            keep_alive_s=keep_alive_s,
        )
        self._server: asyncio.Server | None = None
        self._is_closed = False

    async def start(self) -> None:
        """Start to accept connections; return once they are accepted."""
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self._site), sock=self._socket, backlog=BACKLOG
        )

    @property
    def connections(self) -> Collection[OpenConnection]:
        """The connections that are open."""
        return self._site.connections

    @property
    def is_alive(self) -> bool:
        """True from `start` until `close`."""
        return self._server is not None and not self._is_closed

    def stop_accepting(self) -> None:
        """Accept no more connections; open ones continue."""
        if self._server is not None:
            self._server.close()

    async def close(self) -> None:
        """Stop accepting, wait for open connections to end, then close them."""
        if self._server is None:
            self._socket.close()
            return
        self.stop_accepting()
        site = self._site
        site.is_closing = True  # for connections that were accepted and are not there yet
        for connection in list(site.connections):
            connection.stop()
        deadline = asyncio.get_running_loop().time() + self._close_timeout_s
        await asyncio.sleep(CLOSE_POLL_S)
        while site.connections or site.tasks:
            if asyncio.get_running_loop().time() > deadline:
                self._cut()
                break
            await asyncio.sleep(CLOSE_POLL_S)
        self._is_closed = True

    def _cut(self) -> None:
        for task in self._site.tasks:
            task.cancel()
        for connection in self._site.connections:
            connection.abort()
