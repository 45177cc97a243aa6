"""Who sent an HTTP request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serving.protocol.control import AUTHORIZATION, Caller


def read_caller(headers: Mapping[bytes, bytes], client: Sequence[Any] | None) -> Caller:
    """Return the caller of a request from its headers and its client's address and port."""
    authorization = headers.get(AUTHORIZATION.encode())
    return Caller(
        None if authorization is None else authorization.decode("latin-1"),
        client[0] if client else "",
    )
