"""A request that has been read but not let in: it waits at the front door."""

from __future__ import annotations

from typing import Final

MAX_BODY_BYTES: Final = 64 * 1024
"""Maximum size of the body of a request that may wait to be let in. A larger one is refused."""


class UnadmittedRequest:
    """What is kept of a request while its body is read and while it waits."""

    def __init__(self, rank: int, allowed_s: float | None, arrived: float) -> None:
        """`rank` and `allowed_s` are its priority and its deadline by its headers."""
        self.rank = rank
        self.allowed_s = allowed_s
        self.arrived = arrived
        self.waits_from = arrived
        """When it had been read, and began to wait."""
        self.body = bytearray()
        self.may_wait = True
        self.is_complete = False
        self.keeps_alive = True

    def add(self, body: bytes) -> None:
        """Keep a part of the body, unless it is too large."""
        self.may_wait = self.may_wait and len(self.body) + len(body) <= MAX_BODY_BYTES
        if self.may_wait:
            self.body += body

    def end(self, now: float, *, keeps_alive: bool) -> None:
        """Record that the whole request has been read."""
        self.is_complete, self.keeps_alive, self.waits_from = True, keeps_alive, now
