"""Reading the body of an HTTP request, with one limit for its size before and after decoding."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from serving.errors import RequestTooLarge
from serving.protocol.http.compression import decompress

Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]


class ClientDisconnected(Exception):
    """The client disconnected before it had sent the whole request."""


async def read_body(
    headers: Mapping[bytes, bytes],
    receive: Receive,
    limit: int,
    advice: str,
) -> bytes:
    """Return the body with its Content-Encoding decoded.

    `advice` says in an error what would be right.

    Raises `RequestTooLarge` if the body is larger than `limit` bytes, encoded or decoded, and reads
    no more of it; `InvalidRequest` if the body does not match its Content-Encoding;
    `ClientDisconnected` if the client leaves.
    """
    chunks = []
    size = int(headers.get(b"content-length", b"0"))
    received = 0
    while True:
        if size > limit:
            raise RequestTooLarge(f"the body is larger than {limit} bytes; {advice}")
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunks.append(message.get("body", b""))
        received += len(chunks[-1])
        size = max(size, received)
        if size <= limit and not message.get("more_body", False):
            break
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    coding = headers.get(b"content-encoding")
    return body if coding is None else decompress(body, coding, limit)
