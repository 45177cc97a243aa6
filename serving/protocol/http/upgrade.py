"""Removal of an upgrade offer from the head of an HTTP request."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_UPGRADE_HEADERS: Final = (b"upgrade", b"http2-settings")
"""Headers that Java's HTTP client and `curl --http2` send to offer HTTP/2."""


def strip_upgrade(
    method: bytes, url: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]
) -> bytes:
    """Return the head of the request, as bytes, without its offer to upgrade.

    The names of `headers` must be lower-case.
    """
    lines = [b"%s %s HTTP/%s" % (method, url, version.encode())]
    for name, value in headers:
        if name == b"connection":
            tokens = [token.strip().lower() for token in value.split(b",")]
            value = b", ".join(token for token in tokens if token not in _UPGRADE_HEADERS)
        if name not in _UPGRADE_HEADERS:
            lines.append(b"%s: %s" % (name, value))
    return b"\r\n".join([*lines, b"", b""])
