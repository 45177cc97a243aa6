"""The head of an HTTP request: its request line and headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import unquote

import httptools

Headers: TypeAlias = list[tuple[bytes, bytes]]
"""Names, in lower case, and values."""


@dataclass(eq=False, slots=True)
class RequestHead:
    """What precedes the body of a request."""

    method: bytes
    target: bytes
    version: str
    """`1.0` or `1.1`."""
    headers: Headers
    """As they were sent, for an ASGI application."""
    fields: Mapping[bytes, bytes]
    """The headers by name; see `read_fields`."""
    keeps_alive: bool
    """Whether the connection stays open after the response."""
    expects_continue: bool
    """Whether the client waits for "100 Continue" before it sends the body."""
    client: tuple[str, int] | None
    """Address of the client."""
    arrived: float
    """When an inference request arrived, in seconds of the gateway's clock; 0 for others."""


@dataclass(frozen=True, slots=True)
class Target:
    """The parts of a request target."""

    raw_path: bytes
    path: str
    """The path, percent-decoded."""
    query: bytes


ORIGIN_FORM: Final = "the target of the request must be a path that begins with /"


def split_target(target: bytes) -> Target:
    """Return the parts of a target. Raises `ValueError` if it is neither a path nor a URL."""
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        raise ValueError(ORIGIN_FORM) from None
    if url.path is None:
        raise ValueError(ORIGIN_FORM)
    return Target(url.path, unquote(url.path.decode("ascii")), url.query or b"")
