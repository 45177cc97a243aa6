"""What all connections of a listener share."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final, Protocol

from serving.protocol.control import Asgi
from serving.protocol.front_door import FrontDoor
from serving.protocol.http.inference_endpoint import InferenceEndpoint

MAX_HEADER_BYTES: Final = 64 * 1024
READ_TIMEOUT_S: Final = 60.0
KEEP_ALIVE_S: Final = 75.0


class OpenConnection(Protocol):
    """A connection of a client."""

    def stop(self) -> None:
        """Close the connection once the requests that were read are answered."""

    def abort(self) -> None:
        """Close the connection now."""


@dataclass(slots=True)
class Site:
    """What all connections of a listener share."""

    app: Asgi
    endpoint: InferenceEndpoint | None
    """Answers inference requests; without it, `app` does."""
    front_door: FrontDoor
    max_header_bytes: int = MAX_HEADER_BYTES
    """Maximum size of a request line and headers together."""
    read_timeout_s: float = READ_TIMEOUT_S
    """A request is rejected if its head does not arrive within this time from its first byte, or
    nothing of its body for this time."""
    keep_alive_s: float = KEEP_ALIVE_S
    """A connection without a request is closed after this time."""
    connections: set[OpenConnection] = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """The tasks of the application."""
    is_closing: bool = False
    """Whether the listener stops: connections that are accepted now are closed at once."""
