"""A request that offers to speak another protocol, as it would be without the offer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

OFFERS: Final = (b"upgrade", b"http2-settings")
"""What Java's HTTP client and `curl --http2` send along, in case the server would speak HTTP/2."""


def without_offer(
    method: bytes, url: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]
) -> bytes:
    """Return the head of the request, ready to be parsed; names of headers are lower-case."""
    lines = [b"%s %s HTTP/%s" % (method, url, version.encode())]
    for name, value in headers:
        if name == b"connection":
            tokens = [token.strip().lower() for token in value.split(b",")]
            value = b", ".join(token for token in tokens if token not in OFFERS)
        if name not in OFFERS:
            lines.append(b"%s: %s" % (name, value))
    return b"\r\n".join([*lines, b"", b""])
