"""The front door of the HTTP listener: refuses requests by their heads while there are too many.

A refusal is a fixed response. It costs a small part of an answer: the body is not parsed, and
neither a task nor the application is involved.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from typing import Final

import orjson

from serving.dataplane.load_shedder import LoadShedder
from serving.dataplane.refusal_pacer import MAX_HOLD_S, RefusalPacer
from serving.protocol.http.arrival import ArrivalClock
from serving.routing.slo import DEFAULT_PRIORITY

INFERENCE: Final = "/infer"
"""End of the paths of inference requests. Others are never refused here."""

REFUSAL: Final = (
    "the gateway has more requests than it can answer in time; "
    f"try again in {MAX_HOLD_S:g} s, send fewer requests at once, or allow more time"
)

_PRIORITY: Final = b"x-slo-priority"
_LATENCY: Final = b"x-slo-latency-ms"


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


class FrontDoor:
    """Decides on the requests of all connections of a listener in the running event loop."""

    def __init__(
        self,
        shedder: LoadShedder,
        on_refused: Callable[[], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_refused` is called once for each refused request."""
        self._shedder = shedder
        self._on_refused = on_refused
        self._now = now
        self._pacer = RefusalPacer()
        self._arrivals = ArrivalClock(now)

    def arrived_at(self, transport: asyncio.Transport) -> float:
        """Return when the data that were just read from a connection arrived."""
        return self._arrivals.arrived_at(transport.get_extra_info("socket"))

    def is_open(self, rank: int, headers: Iterable[tuple[bytes, bytes]], arrived: float) -> bool:
        """Return whether to let in an inference request that arrived at `arrived`."""
        now, allowed_ms = self._now(), _number(headers, _LATENCY)
        allowed_s = None if allowed_ms is None else allowed_ms / 1e3
        return self._shedder.is_open(now, now - arrived, rank, allowed_s)

    def refuse(self) -> float:
        """Count a refusal; return for how many seconds to hold it."""
        self._on_refused()
        return self._pacer.hold_s(self._now())

    def enter(self, rank: int) -> None:
        """Count an inference request that is let in."""
        self._shedder.enter(rank)

    def leave(self, rank: int) -> None:
        """Count an inference request that was let in and has ended."""
        self._shedder.leave(rank)


def rank_of(method: str, target: str, headers: Iterable[tuple[bytes, bytes]]) -> int | None:
    """Return the priority of an inference request by its headers; None for other requests.

    Invalid values count as absent: the request gets its error when it is parsed.
    """
    if method != "POST" or not target.partition("?")[0].endswith(INFERENCE):
        return None
    number = _number(headers, _PRIORITY)
    return int(number) if number is not None and number >= 1 else DEFAULT_PRIORITY


def _number(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> float | None:
    for name, value in headers:
        if name == wanted:
            try:
                number = float(value)
            except ValueError:
                return None
            return number if math.isfinite(number) else None
    return None
