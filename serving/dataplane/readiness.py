"""Whether the service and its variants are ready, and why not.

The service has started once every variant has had a live replica or is known not to start; then one
live replica of any variant suffices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from serving.dataplane.served import ServedVariants

START_GRACE_S: Final = 60.0
"""Seconds after which a starting service is ready without the variants that are not up yet."""

NO_REPLICA: Final = "no replica is alive"
"""Why a variant is not ready if nothing else is known."""


class Readiness:
    """The readiness of the variants that are served, and of the service."""

    def __init__(
        self, served: ServedVariants, slots: Callable[[str], int], now: Callable[[], float]
    ) -> None:
        """`slots` returns how many batches the live replicas of a routing key accept at a time."""
        self.served = served
        self.is_draining = False
        """Whether the service is stopping."""
        self._slots = slots
        self._now = now
        self._started = now()
        self._settled: set[str] = set()
        """Routing keys of the variants that have had a live replica, or are known not to start."""
        self._is_complete = False
        """Whether every variant has been settled."""
        self._failures: Mapping[str, str] = {}
        """Why variants have no live replica, by routing key."""

    @property
    def is_ready(self) -> bool:
        """True while the service has started and a variant has a live replica.

        One lost variant of several is no reason not to be ready, and neither are variants that are
        added or replaced.
        """
        return not self.is_draining and self.has_started and self._is_any_alive

    @property
    def has_started(self) -> bool:
        """True once every variant has had a live replica, or is known not to start.

        Those that take longer than `START_GRACE_S` do not count.
        """
        if not self._is_complete:
            keys = self.served.by_key
            self._settled.update(key for key in keys if self._slots(key))
            is_late = self._now() - self._started > START_GRACE_S
            self._is_complete = bool(keys) and (is_late or self._settled.issuperset(keys))
        return self._is_complete

    @property
    def _is_any_alive(self) -> bool:
        """True if a request can be answered: a variant has a live replica."""
        return any(map(self._slots, self.served.by_key))

    def why_closed(self) -> str | None:
        """Return why no request is accepted; None if they are.

        While no replica is alive that was, the planner decides which requests wait for one.
        """
        if self.is_draining:
            return "the service is stopping"
        if not self.served.profiles:
            return "there is no variant"
        if not self._is_complete and not self._is_any_alive:
            return "the service is starting"
        return None

    def is_variant_ready(self, variant: str) -> bool:
        """True if the variant has a live replica. Raises `KeyError` for an unknown name."""
        return not self.is_draining and self._slots(self.served.keys[variant]) > 0

    def set_failures(self, failures: Mapping[str, str]) -> None:
        """Set why variants have no live replica, by routing key, as far as that is known."""
        self._failures = dict(failures)
        self._settled.update(failures)

    def unready_reason(self, variant: str | None) -> str:
        """Return why the service, or one of its variants, is not ready; empty if it is.

        Raises `KeyError` for an unknown name.
        """
        if variant is not None:
            key = self.served.keys[variant]
            if self.is_draining:
                return "the service is stopping"
            return "" if self._slots(key) else self._failures.get(key, NO_REPLICA)
        if (closed := self.why_closed()) is not None:
            return closed
        if self._is_any_alive:
            return "" if self.has_started else "the service is starting"
        causes = (
            f"{name}: {self._failures[key]}"
            for name, key in self.served.keys.items()
            if key in self._failures
        )
        return "; ".join([NO_REPLICA, *causes])
