"""Small workloads and stalling services for tests of the replay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import numpy.typing as npt

from loadtests.workload.workload import SloClass, Workload
from serving.routing.slo import Slo
from tests.serving.protocol.http.sockets import Receive, Send

PLAIN = SloClass("plain", Slo())

Application = Callable[[dict[str, str], Receive, Send], Awaitable[None]]


def workload(
    arrivals_s: npt.ArrayLike,
    classes: Sequence[SloClass] = (PLAIN,),
    class_of: Sequence[int] | None = None,
) -> Workload:
    """Return requests with these arrival times, by default all of the first class."""
    times_s = np.asarray(arrivals_s, dtype=np.float64)
    return Workload(
        name="test",
        arrivals_s=times_s,
        class_of=np.array(class_of or [0] * len(times_s), dtype=np.int16),
        classes=tuple(classes),
        seconds=float(times_s.max(initial=0.0)),
    )


class StallingApplication:
    """Delays inference requests to an application until `count` of them have arrived.

    Later requests are not delayed. `is_answered` selects the requests, by number, that get a
    response.
    """

    def __init__(
        self,
        application: object,
        count: int = 0,
        is_answered: Callable[[int], bool] = lambda number: True,
    ) -> None:
        self._application = application
        self._count = count
        self._is_answered = is_answered
        self._has_enough = asyncio.Event()
        self.arrivals_s: list[float] = []
        self.max_in_flight = 0
        self._in_flight = 0

    async def __call__(self, scope: dict[str, str], receive: Receive, send: Send) -> None:
        application: Application = self._application  # type: ignore[assignment]
        if scope["method"] != "POST":
            await application(scope, receive, send)
            return
        number = len(self.arrivals_s)
        self.arrivals_s.append(time.monotonic())
        self._in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self._in_flight)
        if len(self.arrivals_s) >= self._count:
            self._has_enough.set()
        await self._has_enough.wait()
        if not self._is_answered(number):
            await asyncio.Event().wait()
        await application(scope, receive, send)
        self._in_flight -= 1
