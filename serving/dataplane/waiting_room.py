"""Requests that wait, not yet parsed, to be let into a busy gateway.

The newest is let in first (adaptive LIFO: Maurer, "Fail at scale", ACM Queue 13(8), 2015): in an
overload some have to wait too long, and these are those that have waited longest already.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class WaitingRoom(Generic[T]):
    """Waiting requests by priority, each with the time until which it may wait."""

    def __init__(self) -> None:
        self._by_rank: dict[int, OrderedDict[T, float]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_rank.values()))

    @property
    def next_expiry(self) -> float:
        """When the oldest request has waited too long; infinite if none waits."""
        oldest = (next(iter(waiting.values())) for waiting in self._by_rank.values())
        return min(oldest, default=math.inf)

    @property
    def best_rank(self) -> int:
        """The highest priority of a request that waits; there must be one."""
        return min(self._by_rank)

    def add(self, request: T, rank: int, until: float) -> None:
        """Let a request of priority `rank`, 1 the highest, wait until `until`."""
        self._by_rank.setdefault(rank, OrderedDict())[request] = until

    def remove(self, request: T, rank: int) -> bool:
        """Remove a request; return False if it does not wait."""
        waiting = self._by_rank.get(rank, OrderedDict())
        if request not in waiting:
            return False
        del waiting[request]
        if not waiting:
            del self._by_rank[rank]
        return True

    def take(self) -> T:
        """Remove and return the newest request of the highest priority; there must be one."""
        rank = self.best_rank
        request = next(reversed(self._by_rank[rank]))
        self.remove(request, rank)
        return request

    def take_expired(self, now: float) -> list[T]:
        """Remove and return the requests that have waited too long."""
        expired = []
        for rank, waiting in list(self._by_rank.items()):
            while waiting:
                request, until = next(iter(waiting.items()))
                if until > now:
                    break
                expired.append(request)
                self.remove(request, rank)
        return expired
