"""Peers on plain sockets, for what a host or a gateway of this project would not send."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from serving.link.wire import PREFIX, Message, Received, read_prefix, unpack
from tests.serving.link.hosts import TIMEOUT_S


@contextmanager
def connected_socket(address: str) -> Iterator[socket.socket]:
    """Connect to a host over TCP within a `with`."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as peer:
        yield peer


def read_message(peer: socket.socket) -> Message:
    """Wait for a message and return it."""
    size = 0
    while not size:  # heartbeats have no content
        prefix = _read(peer, PREFIX.size)
        header_bytes, size, number, compute_s = read_prefix(prefix)
    return unpack(Received(header_bytes, number, compute_s, memoryview(_read(peer, size))))


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[str]:
    """Run a host that sends `answer` once it gets a message; yield its address."""
    writers: list[asyncio.StreamWriter] = []

    async def answer_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readexactly(PREFIX.size)
        writer.write(answer)

    async with await asyncio.start_server(answer_one, "127.0.0.1", 0) as server:
        yield f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for writer in writers:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def _read(peer: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        part = peer.recv(size - len(content))
        assert part, "the host has closed the connection"
        content += part
    return content
