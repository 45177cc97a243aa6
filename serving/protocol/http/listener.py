"""The HTTP listener of a gateway: a uvicorn server on its own socket, in a running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from functools import partial
from typing import Any, Final

import uvicorn

from serving.dataplane.load_shedder import LoadShedder
from serving.protocol.front_door import FrontDoor
from serving.protocol.http.connection import Connection

BACKLOG: Final = 2048
"""Connections that the kernel queues until the listener accepts them."""

MAX_HEADER_BYTES: Final = 64 * 1024
READ_TIMEOUT_S: Final = 60.0
KEEP_ALIVE_S: Final = 75.0
CLOSE_TIMEOUT_S: Final = 2
"""Seconds until `close` cuts open connections. Their requests were drained before."""


class _Server(uvicorn.Server):
    """A uvicorn server that installs no signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class HttpListener:
    """Accepts HTTP connections for an ASGI application, from `start` to `close`."""

    def __init__(
        self,
        app: Any,
        host: str,
        port: int,
        *,
        front_door: FrontDoor | None = None,
        max_header_bytes: int = MAX_HEADER_BYTES,
        read_timeout_s: float = READ_TIMEOUT_S,
        keep_alive_s: float = KEEP_ALIVE_S,
        close_timeout_s: int = CLOSE_TIMEOUT_S,
    ) -> None:
        """Bind the port; 0 binds a free one. Gateways on one node share a port by SO_REUSEPORT.

        `front_door` decides which inference requests are refused before they are parsed; without
        one, none is.
        A request is rejected if its request line and headers together are larger than
        `max_header_bytes`, or if it is incomplete and no data arrive for `read_timeout_s`. A
        connection without a request is closed after `keep_alive_s`. A client that disconnects
        cancels the task that runs `app`. Raises `OSError` if another program uses the port.
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
        protocol: Any = partial(
            Connection,
            max_header_bytes=max_header_bytes,
            read_timeout_s=read_timeout_s,
            front_door=front_door or FrontDoor(LoadShedder(), on_refused=lambda: None),
        )
        config = uvicorn.Config(
            app,
            loop="none",
            interface="asgi3",
            http=protocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=keep_alive_s,  # type: ignore[arg-type]  # floats work
            timeout_graceful_shutdown=close_timeout_s,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start to accept connections; return once they are accepted."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0.001)

    @property
    def is_alive(self) -> bool:
        """True while the server runs."""
        return self._task is not None and not self._task.done()

    def stop_accepting(self) -> None:
        """Accept no more connections; open ones continue."""
        for server in self._server.servers:
            server.close()

    async def close(self) -> None:
        """Stop accepting, wait for open connections to end, then close them."""
        self._server.should_exit = True
        if self._task is None:
            self._socket.close()
        else:
            await self._task
