"""Load shedding in front: decides, before a request is parsed, whether it is turned away.

A gateway that has more to read, parse and render than it can is late with all of it. The requests
that are inside it at a time are therefore limited. The limit follows the delay that the gateway
itself causes (waiting for the event loop, not for hosts) by a gradient: it is multiplied by
target / delay while the delay is too long, and grows by its square root while it is not. Signal and
target follow DAGOR (Zhou et al., "Overload control for scaling WeChat microservices", SoCC'18):
time spent waiting rather than response time; the growth is that of Netflix's concurrency-limits.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import Final

TARGET_SHARE: Final = 0.3
"""Share of the time that requests allow which the gateway's own delay may take. The rest is for
queue and host, and for requests that are delayed longer than most."""

ALLOWED_QUANTILE: Final = 0.25
"""Quantile of the times that recent requests allowed from which the target is derived."""

DELAY_QUANTILE: Final = 0.75
"""Quantile of the delays of a period that is compared with the target."""

MAX_AGE_SHARE: Final = 0.5
"""Share of the time that a request allows after which it is not read any more. It ends the reading
of a burst, before the limit can follow."""

MIN_LIMIT: Final = 8.0
"""Lower bound of the limit: some requests are always let in, so that their delay is measured."""

MAX_LIMIT: Final = 1e6
"""Upper bound of the limit, while it does not bind."""

MIN_GRADIENT: Final = 0.05
"""Lower bound of the factor by which one update reduces the limit."""

MIN_PERIOD_S: Final = 0.01
"""Minimum time between two updates, in seconds. It is also at least as long as the delay itself,
because an update has no effect on requests that are inside already."""

MIN_DELAYS: Final = 4
"""Minimum number of delays for an update."""

ALLOWED_WINDOW: Final = 256
"""Number of recent requests whose allowed times are kept."""

MEMORY_S: Final = 1.0
"""Time without a request, in seconds, after which the limit and the allowed times are forgotten."""


class LoadShedder:
    """An adaptive limit on the number of requests inside a gateway. Times are in seconds."""

    def __init__(self) -> None:
        self.limit = MAX_LIMIT
        self._inside = Counter[int]()
        self._most_inside = 0
        """Largest number of requests inside since the last update."""
        self._delays: list[float] = []
        self._allowed: deque[float] = deque(maxlen=ALLOWED_WINDOW)
        self._allowed_s = math.inf
        """Time that all but the tightest recent requests allow."""
        self._next_update_at = -math.inf
        self._last_at = -math.inf

    @property
    def inside(self) -> int:
        """Number of requests that were let in and have not left."""
        return self._inside.total()

    def is_open(self, now: float, age_s: float, rank: int, allowed_s: float | None = None) -> bool:
        """Return whether to let a request in. Does not count it; call `enter` for that.

        `age_s` is the time that its bytes have waited to be read, `rank` its priority, 1 the
        highest, and `allowed_s` its deadline, None if it is not known before parsing. Requests of a
        higher priority count, those of a lower one do not: these are turned away first.
        """
        if now - self._last_at > MEMORY_S:
            self._forget()
        self._last_at = now
        if age_s > MAX_AGE_SHARE * (self._allowed_s if allowed_s is None else allowed_s):
            return False
        if self.limit == MAX_LIMIT:
            return True
        ahead = sum(count for other, count in self._inside.items() if other <= rank)
        return ahead < self.limit

    def enter(self, rank: int) -> None:
        """Count a request that is let in."""
        self._inside[rank] += 1
        self._most_inside = max(self._most_inside, self.inside)

    def leave(self, rank: int) -> None:
        """Count a request that has been answered, or whose client has disconnected."""
        self._inside[rank] -= 1
        if not self._inside[rank]:
            del self._inside[rank]

    def record_allowed(self, allowed_s: float) -> None:
        """Record the time that a parsed request allows, infinite if it has no deadline."""
        self._allowed.append(allowed_s)

    def record_delay(self, now: float, delay_s: float) -> None:
        """Record how long an answered request was delayed by the gateway itself."""
        self._delays.append(delay_s)
        if len(self._delays) >= MIN_DELAYS and now >= self._next_update_at:
            self._update(now)

    def _update(self, now: float) -> None:
        delays, most_inside = sorted(self._delays), self._most_inside
        delay_s = delays[int(DELAY_QUANTILE * len(delays))]
        self._delays.clear()
        self._most_inside = self.inside
        self._next_update_at = now + max(MIN_PERIOD_S, min(delay_s, MEMORY_S))
        allowed = sorted(self._allowed)
        self._allowed_s = allowed[int(ALLOWED_QUANTILE * len(allowed))]
        target_s = TARGET_SHARE * self._allowed_s
        if delay_s > target_s:
            gradient = max(MIN_GRADIENT, target_s / delay_s)
            self.limit = max(MIN_LIMIT, gradient * min(self.limit, most_inside))
        elif most_inside >= self.limit:
            self.limit = min(MAX_LIMIT, self.limit + math.sqrt(self.limit))

    def _forget(self) -> None:
        self.limit = MAX_LIMIT
        self._allowed_s = math.inf
        self._next_update_at = -math.inf
        self._delays.clear()
        self._allowed.clear()
