"""Load shedding in front: decides, before a request is parsed, whether it is turned away.

A gateway that has more to read, parse and render than it can is late with all of it. The requests
inside it at a time are therefore limited. While the delay that the gateway itself causes is long,
the limit is the number that can leave it in a share of the time that requests allow (Little's law:
capacity x time); otherwise it grows. As in DAGOR (Zhou et al., "Overload control for scaling
WeChat microservices", SoCC'18), the signal is the time spent waiting for the gateway, not the
response time: if hosts are too slow, the router chooses better whom to refuse.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import Final

from serving.dataplane.capacity import Capacity

OVERLOAD_SHARE: Final = 0.3
"""Share of the time that requests allow above which the gateway's own delay is too long."""

SHARE_BOUNDS: Final = (0.2, 0.75)
"""Bounds of the share of the time that requests allow in which they should leave the gateway."""

START_SHARE: Final = 0.5
"""That share at the beginning."""

SHARE_STEPS: Final = (0.96, 1.02)
"""Factors by which one update reduces and increases that share."""

FAILURE_BOUNDS: Final = (0.01, 0.03)
"""Share of requests that fail for want of time below which that share increases, and above which
it is reduced."""

MAX_AGE_SHARE: Final = 0.75
"""Share of the time that a request allows after which it is not read any more, even if no other is
inside. It ends the reading of a burst, before the limit can follow."""

MAX_WAIT_SHARE: Final = 0.3
"""Share of the time that a request allows for which it may wait to be let in."""

MAX_WAIT_S: Final = 0.1
"""Maximum time for which a request may wait to be let in, or keep its place after it failed, in
seconds."""

ALLOWED_QUANTILE: Final = 0.5
"""Quantile of the times that recent requests allowed that stands for them."""

DELAY_QUANTILE: Final = 0.75
"""Quantile of the recent delays that stands for them."""

DELAY_WINDOW: Final = 32
"""Number of recent requests, answered or failed, whose delays are kept."""

MIN_LIMIT: Final = 8.0
"""Lower bound of the limit: some requests are always let in, so that their delay is measured."""

MAX_LIMIT: Final = 1e6
"""Upper bound of the limit, and its value before an overload."""

MIN_PERIOD_S: Final = 0.02
"""Minimum time between two updates, in seconds, and time without an end after which the requests
inside are not waiting for the gateway."""

MIN_AGE_S: Final = 0.001
"""Age, in seconds, up to which no request is too old: that it is read takes some time even when the
gateway is idle. Its deadline is checked later."""

MIN_EVENTS: Final = 4
"""Minimum number of requests that have ended for an update."""

ALLOWED_WINDOW: Final = 256
"""Number of recent requests whose allowed times are kept."""

MEMORY_S: Final = 1.0
"""Time without a request, in seconds, after which all but the requests inside is forgotten."""


class LoadShedder:
    """An adaptive limit on the number of requests inside a gateway. Times are in seconds."""

    def __init__(self, capacity: Capacity | None = None) -> None:
        """`capacity` is that of the event loop; by default, of the one in the calling thread."""
        self.limit = MAX_LIMIT
        self._capacity = capacity or Capacity()
        self._inside = Counter[int]()
        self._failed: deque[tuple[float, int]] = deque()
        """Until when requests that failed keep their places, and their priorities."""
        self._most_inside = 0
        """Largest number of requests inside since the last update."""
        self._last_at = -math.inf
        self._updated_at = -math.inf
        self._ended_at = -math.inf
        """When the last request was answered or failed, or the limit was increased without that."""
        self._allowed: deque[float] = deque(maxlen=ALLOWED_WINDOW)
        self._allowed_s = math.inf
        """Time that most recent requests allow."""
        self._delays: deque[float] = deque(maxlen=DELAY_WINDOW)
        self._delay_s = 0.0
        self._answers = 0
        """Number of answers since the last update."""
        self._failures = 0
        """Number of requests since the last update that were let in and were late, or were refused
        afterwards."""
        self._share = START_SHARE

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
            self._forget(now)
        self._last_at = now
        while self._failed and self._failed[0][0] <= now:
            self.leave(self._failed.popleft()[1])
        allowed_s = self._allowed_s if allowed_s is None else allowed_s
        if age_s > max(MIN_AGE_S, self._max_age_share() * allowed_s):
            return False
        if not self.has_room(rank) and now - self._ended_at > MIN_PERIOD_S:
            self._ended_at = now
            self._increase()  # those inside do not wait for the gateway
        return self.has_room(rank)

    def has_room(self, rank: int) -> bool:
        """Return whether the limit lets in a request of this priority."""
        if self.limit == MAX_LIMIT:
            return True
        ahead = sum(count for other, count in self._inside.items() if other <= rank)
        return ahead < self.limit

    def wait_until(self, arrived: float, allowed_s: float | None = None) -> float:
        """Return until when a request that was not let in may wait for others to leave."""
        allowed_s = self._allowed_s if allowed_s is None else allowed_s
        return arrived + min(MAX_WAIT_S, MAX_WAIT_SHARE * allowed_s)

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

    def record_answer(self, now: float, delay_s: float, *, is_late: bool) -> None:
        """Record an answer, and how long the gateway itself delayed it."""
        self._delays.append(delay_s)
        self._answers += 1
        self._failures += is_late
        self._update_if_due(now)

    def record_failure(self, now: float, rank: int, delay_s: float) -> None:
        """Record a request that was let in and then refused, because it would have been late.

        `delay_s` is how long the gateway itself delayed it. Without it, a gateway that has only
        failures, and no answer that shows its delay, would not limit them.

        The request keeps its place for about as long as an answer takes. If it left at once, the
        limit would not hold for requests that fail at once, and the gateway would only refuse.
        """
        self._failures += 1
        self._delays.append(delay_s)
        if self.limit < MAX_LIMIT:
            place_s = min(MAX_WAIT_S, self._share * self._allowed_s)
            self._failed.append((now + place_s, rank))
            self._inside[rank] += 1
        self._update_if_due(now)

    def _update_if_due(self, now: float) -> None:
        self._ended_at = now
        period_s = now - self._updated_at
        if period_s >= MIN_PERIOD_S and self._answers + self._failures >= MIN_EVENTS:
            self._update(period_s)
            self._updated_at = now

    def _update(self, period_s: float) -> None:
        self._capacity.record(self._answers, period_s)
        if self._allowed:
            self._allowed_s = _quantile(self._allowed, ALLOWED_QUANTILE)
        if self._delays:
            self._delay_s = _quantile(self._delays, DELAY_QUANTILE)
        if self._delay_s > OVERLOAD_SHARE * self._allowed_s:
            self._adjust_share(self._failures / (self._answers + self._failures))
            self.limit = max(MIN_LIMIT, self._capacity.per_s * self._share * self._allowed_s)
        elif self._most_inside >= self.limit:
            self._increase()
        self._answers, self._failures, self._most_inside = 0, 0, self.inside

    def _max_age_share(self) -> float:
        """Return the share of its time after which a request is too old, given those inside.

        With as many inside as the limit allows, an answer takes `_share` of the time.
        """
        return min(MAX_AGE_SHARE, 1 - self._share * min(1.0, self.inside / self.limit))

    def _increase(self) -> None:
        self.limit = min(MAX_LIMIT, self.limit + math.sqrt(self.limit))

    def _adjust_share(self, failed: float) -> None:
        low, high = FAILURE_BOUNDS
        if failed > high:
            self._share = max(SHARE_BOUNDS[0], SHARE_STEPS[0] * self._share)
        elif failed < low:
            self._share = min(SHARE_BOUNDS[1], SHARE_STEPS[1] * self._share)

    def _forget(self, now: float) -> None:
        self.limit, self._share = MAX_LIMIT, START_SHARE
        self._allowed.clear()
        self._delays.clear()
        self._capacity.forget()
        self._allowed_s, self._delay_s = math.inf, 0.0
        self._answers, self._failures, self._most_inside = 0, 0, self.inside
        self._updated_at = self._ended_at = now


def _quantile(values: deque[float], q: float) -> float:
    return sorted(values)[int(q * len(values))]
