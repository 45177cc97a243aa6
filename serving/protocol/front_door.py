"""The front door of a gateway: refuses inference requests before they are parsed.

It is shared by the listeners of all transports, so that one limit, one pace of refusals and one
count of the requests inside hold for all of them. A transport decides by what precedes a message:
the HTTP headers, or the gRPC metadata.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import AnyStr, Final

from serving.dataplane.load_shedder import LoadShedder
from serving.dataplane.refusal_pacer import MAX_HOLD_S, RefusalPacer
from serving.protocol.arrival import ArrivalClock
from serving.routing.slo import DEFAULT_PRIORITY

REFUSAL: Final = (
    "the gateway has more requests than it can answer in time; "
    f"try again in {MAX_HOLD_S:g} s, send fewer requests at once, or allow more time"
)
"""The message of a refusal."""

PRIORITY: Final = "x-slo-priority"
"""Name of the header, and key of the metadata, of the priority."""

LATENCY: Final = "x-slo-latency-ms"
"""Name of the header, and key of the metadata, of the deadline in milliseconds."""


class FrontDoor:
    """Decides on the inference requests of all listeners in the running event loop."""

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
        self.arrivals = ArrivalClock(now)

    def is_open(self, rank: int, allowed_s: float | None, arrived: float) -> bool:
        """Return whether to let in an inference request that arrived at `arrived`.

        `rank` is its priority, and `allowed_s` its deadline in seconds, None if it is not known.
        """
        now = self._now()
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


def read_rank(headers: Iterable[tuple[AnyStr, AnyStr]], name: AnyStr) -> int:
    """Return the priority that the header `name` states, or the default.

    Invalid values count as absent: the request gets its error when it is parsed.
    """
    number = _number(headers, name)
    return int(number) if number is not None and number >= 1 else DEFAULT_PRIORITY


def read_allowed_s(headers: Iterable[tuple[AnyStr, AnyStr]], name: AnyStr) -> float | None:
    """Return the deadline, in seconds, that the header `name` states in milliseconds, or None."""
    number = _number(headers, name)
    return None if number is None else number / 1e3


def _number(headers: Iterable[tuple[AnyStr, AnyStr]], wanted: AnyStr) -> float | None:
    for name, value in headers:
        if name == wanted:
            try:
                number = float(value)
            except ValueError:
                return None
            return number if math.isfinite(number) else None
    return None
