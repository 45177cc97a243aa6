"""An HTTP client whose requests are read and answered by a `Connection` without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httptools
import httpx

from serving.protocol.http.connection import Connection
from serving.protocol.http.site import Site


class MemoryTransport(asyncio.Transport):
    """The server's end of a connection; it parses the responses that are written to it."""

    def __init__(self, method: str) -> None:
        self._is_head = method == "HEAD"
        super().__init__({"peername": ("127.0.0.1", 1)})
        self._parser = httptools.HttpResponseParser(self)
        self._is_closing = False
        self.complete = asyncio.Event()
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""

    def write(self, data: Any) -> None:
        if not self._is_closing:
            self._parser.feed_data(data)

    def write_eof(self) -> None:
        pass

    def close(self) -> None:
        self._is_closing = True

    def abort(self) -> None:
        self._is_closing = True

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    # Called by the parser.

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self._is_head:
            self.complete.set()  # the length in its headers is that of a GET

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        if self.status >= 200:
            self.complete.set()


class ConnectionTransport(httpx.AsyncBaseTransport):
    """Sends each request of a client over a connection of its own."""

    def __init__(self, site: Site) -> None:
        self._site = site

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        connection, transport = Connection(self._site), MemoryTransport(request.method)
        connection.connection_made(transport)
        try:
            connection.data_received(_head(request))
            for _ in range(3):  # an application may answer without the body
                await asyncio.sleep(0)
            if not transport.complete.is_set():
                async for part in _encoded(request):
                    connection.data_received(part)
                    await asyncio.sleep(0)  # an application reads it in a task
                    if transport.complete.is_set():
                        break
            await transport.complete.wait()
        finally:
            connection.connection_lost(None)
        return httpx.Response(transport.status, headers=transport.headers, content=transport.body)


def _head(request: httpx.Request) -> bytes:
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    lines += [b"%b: %b" % header for header in request.headers.raw]
    return b"\r\n".join([*lines, b"", b""])


async def _encoded(request: httpx.Request) -> AsyncIterator[bytes]:
    """Yield the body as it is sent, in chunks if its length is not known."""
    assert isinstance(request.stream, httpx.AsyncByteStream)
    is_chunked = "transfer-encoding" in request.headers
    if is_chunked or request.headers.get("content-length", "0") != "0":
        async for part in request.stream:
            if part:
                yield b"%x\r\n%b\r\n" % (len(part), part) if is_chunked else part
    if is_chunked:
        yield b"0\r\n\r\n"
