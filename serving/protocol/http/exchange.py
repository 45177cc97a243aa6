"""One request on a connection and its response.

A connection reads requests one after the other and sends their responses in the same order. What
happens in between depends on the request: an inference request is answered by callbacks, any other
by an ASGI application.
"""

from __future__ import annotations

from typing import Protocol


class Exchange(Protocol):
    """A request whose head has been read."""

    keeps_alive: bool
    """Whether the connection stays open after the response. A connection may set it to False."""

    @property
    def response(self) -> bytes | None:
        """The whole response; None if there is none yet, or if the exchange sends its own."""

    @property
    def has_begun(self) -> bool:
        """Whether a response exists or a part of it has been sent."""

    @property
    def is_over(self) -> bool:
        """Whether the whole response exists: what arrives of the body is ignored."""

    def begin(self) -> None:
        """Begin as far as that is possible before earlier requests have been answered."""

    def reach_front(self) -> None:
        """All earlier responses have been sent. An exchange may send now."""

    def add_body(self, part: bytes) -> None:
        """Take a part of the body."""

    def end_body(self) -> None:
        """The request has been read to its end."""

    def hurry(self) -> None:
        """End a wait: the client has sent another request already, or the server stops."""

    def cancel(self) -> None:
        """Drop the request: its response cannot be sent."""
