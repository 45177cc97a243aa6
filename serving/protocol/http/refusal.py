"""Refusals of HTTP requests by their heads.

A refusal is a fixed response. It costs a small part of an answer: the body is not parsed, and
neither a task nor the application is involved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import orjson

from serving.dataplane.refusal_pacer import MAX_HOLD_S
from serving.protocol.front_door import REFUSAL, read_allowed_s, read_rank
from serving.routing.slo import LATENCY_HEADER, PRIORITY_HEADER

INFERENCE: Final = "/infer"
"""End of the paths of inference requests. Others are never refused here."""

_PRIORITY: Final = PRIORITY_HEADER.encode()
_LATENCY: Final = LATENCY_HEADER.encode()


def _response(connection: bytes) -> bytes:
    body = orjson.dumps({"error": REFUSAL})
    return (
        b"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\n"
        b"retry-after: %d\r\n%scontent-length: %d\r\n\r\n%s"
    ) % (MAX_HOLD_S, connection, len(body), body)


KEEP_ALIVE: Final = _response(b"")
"""The response to a refused request on a connection that stays open."""
CLOSE: Final = _response(b"connection: close\r\n")
"""The response to a refused request on a connection that is then closed."""


class HeldRefusal:
    """The refusal that a connection owes to its client, if any."""

    def __init__(self, send: Callable[[bool], None]) -> None:
        """`send` sends a refusal; its argument is whether the connection stays open."""
        self._send = send
        self._keeps_alive = True
        self._timer: asyncio.TimerHandle | None = None

    def hold(self, hold_s: float, *, keeps_alive: bool) -> None:
        """Send a refusal after `hold_s` seconds; at once if that is 0."""
        self._keeps_alive = keeps_alive
        if hold_s:
            self._timer = asyncio.get_running_loop().call_later(hold_s, self.release)
        else:
            self._send(keeps_alive)

    def release(self) -> None:
        """Send the refusal now if one is held."""
        if self._timer is not None:
            self.drop()
            self._send(self._keeps_alive)

    def drop(self) -> None:
        """Forget the refusal if one is held."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def rank_of(method: str, target: str, headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    """Return the priority of an inference request by its headers; None for other requests."""
    if method != "POST" or not target.partition("?")[0].endswith(INFERENCE):
        return None
    return read_rank(headers, _PRIORITY)


def allowed_s_of(headers: Iterable[tuple[bytes, bytes]]) -> float | None:
    """Return the deadline of a request, in seconds, by its headers; None if they state none."""
    return read_allowed_s(headers, _LATENCY)
