"""Exploration: measures the times of unused variants again, with shadow batches.

A policy that considers a variant too slow does not use it, and so would never learn that it has
become faster. While the gateway is idle, a copy of a recent request runs on such a variant. Its
result is discarded; no request waits for it or is answered by it. Without requests there is no
exploration.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, Generic, NamedTuple

from serving.routing.latency import LatencyModel
from serving.routing.policy.lookahead import NEGLIGIBLE_MISSES
from serving.routing.policy.state import Payload, QueuedRequest
from serving.routing.slots import VariantSlots

EXPLORE_AFTER_S: Final = 10.0
"""Time, in seconds, after which a variant that ran no batch is explored."""

CHECK_INTERVAL_S: Final = 0.1
"""Minimum time, in seconds, between two searches for a variant to explore."""


class Target(NamedTuple, Generic[Payload]):
    """A variant to explore, and the request of which a copy runs on it."""

    variant: str
    request: QueuedRequest[Payload]


class Exploration(Generic[Payload]):
    """Remembers recent requests, and chooses which variant runs a copy of one."""

    def __init__(self, latency: LatencyModel, slots: VariantSlots) -> None:
        self._latency = latency
        self._slots = slots
        self._sent: dict[int, QueuedRequest[Payload]] = {}
        """The first request of each running batch."""
        self._recent: dict[str, tuple[float, QueuedRequest[Payload]]] = {}
        """The last answered request for which a variant qualified, and when it was answered."""
        self._explored_at: dict[str, float] = {}
        self._checked_at = -math.inf

    def forget_others(self) -> None:
        """Forget the variants that are not in the slots any more."""
        self._recent = {name: each for name, each in self._recent.items() if name in self._slots}
        self._explored_at = {n: at for n, at in self._explored_at.items() if n in self._slots}

    def record_sent(self, number: int, first: QueuedRequest[Payload]) -> None:
        """Record the first request of a batch that was sent."""
        self._sent[number] = first

    def record_end(self, number: int, now: float, *, is_answered: bool) -> None:
        """Record the end of a batch, also of a shadow batch.

        Only a request that was answered is run again: another may be the cause of a failure.
        """
        request = self._sent.pop(number, None)
        if request is not None and is_answered:
            answered = (now, request)
            for name in request.key.variants:
                if name in self._slots:
                    self._recent[name] = answered

    def next_target(
        self, now: float, expected_misses: Callable[[float], Callable[[float], float]]
    ) -> Target[Payload] | None:
        """Return the variant to explore now, or None. Call this when nothing is queued.

        `expected_misses` is `Forecast.expected_misses`.
        """
        if self._slots.is_busy or now - self._checked_at < CHECK_INTERVAL_S:
            return None
        self._checked_at = now
        for name, (answered_at, request) in self._recent.items():
            if not self._is_due(name, answered_at, now):
                continue
            took_s = self._latency.times(name).within_s(request.size)
            if expected_misses(now)(took_s) < NEGLIGIBLE_MISSES:
                self._explored_at[name] = now
                return Target(name, request)
        return None

    def _is_due(self, name: str, answered_at: float, now: float) -> bool:
        """Return whether a variant has not run for a while but could have been of use."""
        explored_at = self._explored_at.get(name, -math.inf)
        return (
            self._slots[name] > 0
            and self._latency.since_last_batch_s(name) > EXPLORE_AFTER_S
            and now - explored_at > EXPLORE_AFTER_S
            and answered_at > explored_at
        )
