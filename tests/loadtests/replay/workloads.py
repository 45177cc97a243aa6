"""Small workloads, and services that stall, for the tests of the replay."""

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
    """Requests at these times, of the first class where nothing else is said."""
    times_s = np.asarray(arrivals_s, dtype=np.float64)
    return Workload(
        name="test",
        arrivals_s=times_s,
        class_of=np.array(class_of or [0] * len(times_s), dtype=np.int16),
        classes=tuple(classes),
        seconds=float(times_s.max(initial=0.0)),
    )


class Stalling:
    """Lets an application answer requests to infer only once `count` of them have come.

    Of those that have come since, it answers all; `answers` says which are answered at all.
    """

    def __init__(
        self,
        application: object,
        count: int = 0,
        answers: Callable[[int], bool] = lambda number: True,
    ) -> None:
        self._application = application
        self._count = count
        self._answers = answers
        self._enough = asyncio.Event()
        self.came_s: list[float] = []
        self.most = 0
        self._now = 0

    async def __call__(self, scope: dict[str, str], receive: Receive, send: Send) -> None:
        application: Application = self._application  # type: ignore[assignment]
        if scope["method"] != "POST":
            await application(scope, receive, send)
            return
        number = len(self.came_s)
        self.came_s.append(time.monotonic())
        self._now += 1
        self.most = max(self.most, self._now)
        if len(self.came_s) >= self._count:
            self._enough.set()
        await self._enough.wait()
        if not self._answers(number):
            await asyncio.Event().wait()
        await application(scope, receive, send)
        self._now -= 1
