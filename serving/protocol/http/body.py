"""The body of an HTTP request: read within a limit, and unpacked within the same limit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from serving.errors import RequestTooLarge
from serving.protocol.http.compression import decompress

Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]


class ClientGone(Exception):
    """The client left before its request was whole: there is nobody to answer."""


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, limit: int) -> bytes:
    """Return the body, without its Content-Encoding.

    Raises `RequestTooLarge` above `limit` bytes, as it comes or unpacked, without taking in more;
    `InvalidRequest` if it is not what its Content-Encoding says; `ClientGone`.
    """
    chunks = []
    size = int(headers.get(b"content-length", b"0"))
    arrived = 0
    while True:
        if size > limit:
            raise RequestTooLarge(f"the body is larger than {limit} bytes; send fewer samples")
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunks.append(message.get("body", b""))
        arrived += len(chunks[-1])
        size = max(size, arrived)
        if size <= limit and not message.get("more_body", False):
            break
    body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    coding = headers.get(b"content-encoding")
    return body if coding is None else decompress(body, coding, limit)
