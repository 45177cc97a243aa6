"""The gateway's own HTTP listener: a uvicorn server on a socket of ours, inside a running loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator
from functools import partial
from typing import Any

import uvicorn

from serving.protocol.http.connection import Connection

BACKLOG = 2048
MAX_HEADER_BYTES = 64 * 1024
SILENCE_S = 60.0
KEEP_ALIVE_S = 75.0
LAST_CONNECTIONS_S = 2
"""How long open connections get to end when the listener closes: their requests were drained."""


class _Server(uvicorn.Server):
    """Leaves signals to the process that it lives in."""

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
        max_header_bytes: int = MAX_HEADER_BYTES,
        silence_s: float = SILENCE_S,
        keep_alive_s: float = KEEP_ALIVE_S,
        last_connections_s: int = LAST_CONNECTIONS_S,
    ) -> None:
        """Bind; port 0 takes a free one. Gateways on one node share a port by SO_REUSEPORT.

        A request line and headers of more than `max_header_bytes` together are refused, and so is
        a request of which nothing comes for `silence_s` before it is whole. A connection on which
        no request begins for `keep_alive_s` is closed. The task that runs `app` is cancelled when
        its client leaves.
        Raises `OSError` if the port is taken by anybody else.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # Named, or asyncio would not turn Nagle's algorithm off: 40 ms for every answer.
        self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            self._socket.bind((host, port))
        except OSError:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]
        protocol: Any = partial(Connection, max_header_bytes=max_header_bytes, silence_s=silence_s)
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
            timeout_keep_alive=keep_alive_s,  # type: ignore[arg-type]  # any number will do
            timeout_graceful_shutdown=last_connections_s,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to accept connections; once it returns, they are."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0.001)

    @property
    def is_alive(self) -> bool:
        """True while connections are accepted."""
        return self._task is not None and not self._task.done()

    def stop_accepting(self) -> None:
        """Take no more connections; those that are open go on."""
        for server in self._server.servers:
            server.close()

    async def close(self) -> None:
        """Stop accepting, let open connections end, close them."""
        self._server.should_exit = True
        if self._task is None:
            self._socket.close()
        else:
            await self._task
