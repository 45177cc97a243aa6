"""The front door of a gateway: refuses inference requests before they are parsed.

It is shared by the listeners of all transports, so that one limit, one pace of refusals and one
count of the requests inside hold for all of them. A transport decides by what precedes a message:
the HTTP headers, or the gRPC metadata.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

from serving.dataplane.load_shedder import LoadShedder
from serving.dataplane.refusal_pacer import MAX_HOLD_S, RefusalPacer
from serving.dataplane.waiting_room import WaitingRoom
from serving.protocol.arrival import ArrivalClock
from serving.protocol.body_budget import BodyBudget
from serving.routing.slo import DEFAULT_PRIORITY, read_number

REFUSAL: Final = (
    "the gateway is too busy to answer this request in time; "
    f"try again in {MAX_HOLD_S:g} s, send fewer requests at once, or allow more time"
)
"""The message of a refusal."""

MIN_DELAY_S: Final = 0.001
"""Minimum time between two looks at the requests that wait, in seconds."""


class Waiting(Protocol):
    """A request that waits to be let in."""

    def let_in(self) -> None:
        """Answer it."""

    def refuse(self) -> None:
        """Refuse it."""


class FrontDoor:
    """Decides on the inference requests of all listeners in the running event loop."""

    def __init__(
        self,
        shedder: LoadShedder,
        on_refused: Callable[[], None],
        now: Callable[[], float] = time.monotonic,
        bodies: BodyBudget | None = None,
    ) -> None:
        """`on_refused` is called once for each refused request; `now` is the clock, in seconds.

        `bodies` limits what all requests together occupy; without it, nothing does.
        """
        self._shedder = shedder
        self._on_refused = on_refused
        self.now = now
        self.bodies = bodies or BodyBudget()
        self._pacer = RefusalPacer()
        self.arrivals = ArrivalClock(now)
        self._room = WaitingRoom[Waiting]()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._is_letting_in = False

    def is_open(self, rank: int, allowed_s: float | None, arrived: float) -> bool:
        """Return whether to let in an inference request that arrived at `arrived`.

        `rank` is its priority, and `allowed_s` its deadline in seconds, None if it is not known.
        """
        now = self.now()
        return self._shedder.is_open(now, now - arrived, rank, allowed_s)

    def wait(self, request: Waiting, rank: int, allowed_s: float | None, arrived: float) -> None:
        """Let a request wait until others leave. It is let in then, or refused after a while."""
        self._room.add(request, rank, self._shedder.wait_until(arrived, allowed_s))
        self._let_in_soon()  # others may have left since its head was read
        self._set_timer()

    def withdraw(self, request: Waiting, rank: int) -> None:
        """Forget a request if it waits."""
        self._room.remove(request, rank)

    def refuse(self) -> float:
        """Count a refusal; return for how many seconds to hold it."""
        self._on_refused()
        return self._pacer.hold_s(self.now())

    def enter(self, rank: int) -> None:
        """Count an inference request that is let in."""
        self._shedder.enter(rank)

    def leave(self, rank: int) -> None:
        """Count an inference request that was let in and has ended."""
        self._shedder.leave(rank)
        self._let_in_soon()

    def _let_in_soon(self) -> None:
        """Let requests in after the callback that runs: it may answer a whole batch."""
        if self._room and not self._is_letting_in:
            self._is_letting_in = True
            self._loop.call_soon(self._let_in)

    def _let_in(self) -> None:
        try:
            while self._room and self._shedder.has_room(self._room.best_rank):
                self._room.take().let_in()
        finally:
            self._is_letting_in = False

    def _set_timer(self) -> None:
        if self._timer is None and self._room:
            delay_s = max(MIN_DELAY_S, self._room.next_expiry - self.now())
            self._timer = self._loop.call_later(delay_s, self._refuse_expired)

    def _refuse_expired(self) -> None:
        self._timer = None
        for request in self._room.take_expired(self.now()):
            request.refuse()
        self._set_timer()


def read_rank(value: bytes | str | None) -> int:
    """Return the priority that the value of a header states, or the default.

    Invalid values count as absent: the request gets its error when it is parsed.
    """
    number = None if value is None else read_number(value)
    return int(number) if number is not None and number >= 1 else DEFAULT_PRIORITY


def read_allowed_s(value: bytes | str | None) -> float | None:
    """Return the deadline, in seconds, that the value of a header states in ms, or None."""
    number = None if value is None else read_number(value)
    return None if number is None else number / 1e3
