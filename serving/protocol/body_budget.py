"""The bytes that all requests of a gateway may occupy together, whoever sends them.

Reading could also pause at the limit instead. Then requests of which parts are held would wait for
each other: none of them could be completed, so none would free its part. The request that exceeds
the limit is therefore rejected, and one that takes memory for long and hardly progresses is given
up while others need it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from serving.errors import NotReady

SCARCE: Final = 0.5
"""Share of the limit from which on slow bodies are given up."""

LOOK_S: Final = 5.0
"""Interval, in seconds, at which the progress of unfinished bodies is then examined."""

MIN_PROGRESS_BYTES: Final = 64 * 1024
"""What must arrive of an unfinished body in this time: a slow mobile connection sends more."""


class Unfinished(Protocol):
    """A body of which a part is held."""

    @property
    def body_bytes(self) -> int:
        """Size of the parts that have arrived."""

    def give_up(self) -> None:
        """Reject the request, and thereby free what is held of it."""


class BodyBudget:
    """Counts the bytes that requests occupy, from their first part until they are answered."""

    def __init__(self, limit: float = math.inf) -> None:
        """Hold at most `limit` bytes."""
        self.limit = limit
        self.held = 0
        self._unfinished: dict[Unfinished, int | None] = {}
        """What had arrived of each at the last look; None for those that began after it."""
        self._timer: asyncio.TimerHandle | None = None

    def take(self, size: int) -> None:
        """Count `size` more bytes. Raises `NotReady` if there is no room for them."""
        if self.held + size > self.limit:
            raise NotReady(
                f"all requests together may occupy {self.limit:.0f} bytes of memory, and there is "
                "no room for this one now; send it again later"
            )
        self.held += size
        self._look_later()

    def free(self, size: int) -> None:
        """Count `size` bytes less."""
        self.held -= size

    @contextmanager
    def occupied(self, size: int) -> Iterator[None]:
        """Count `size` bytes more for a while. Raises `NotReady` if there is no room for them."""
        self.take(size)
        try:
            yield
        finally:
            self.free(size)

    def watch(self, body: Unfinished) -> None:
        """Watch a body, which is given up if it hardly progresses while memory is scarce."""
        self._unfinished.setdefault(body, None)
        self._look_later()

    def unwatch(self, body: Unfinished) -> None:
        """Forget a body that is complete or rejected, if it is watched."""
        self._unfinished.pop(body, None)

    @property
    def _is_scarce(self) -> bool:
        return self.held > SCARCE * self.limit

    def _look_later(self) -> None:
        """Look at the unfinished bodies after a while, if memory is scarce."""
        if self._timer is None and self._unfinished and self._is_scarce:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._timer = None
        earlier = self._unfinished
        self._unfinished = {body: body.body_bytes for body in earlier}
        for body, bytes_then in earlier.items():
            if not self._is_scarce:
                break
            if bytes_then is not None and body.body_bytes - bytes_then < MIN_PROGRESS_BYTES:
                body.give_up()
        self._look_later()
