"""The one sink of a gateway's events: counts each in the metrics and in the statistics."""

from __future__ import annotations

from collections.abc import Mapping, Set

from serving.routing.profile import VariantProfile
from serving.telemetry.event import Answered, Executed, HostUsage
from serving.telemetry.metrics import Metrics
from serving.telemetry.statistics import Statistics


class Telemetry:
    """Forwards events to the metrics and the statistics of one gateway replica.

    There are no locks: all methods, and scrapes, belong to one thread, that of the event loop.
    """

    def __init__(self, metrics: Metrics, statistics: Statistics) -> None:
        self._metrics = metrics
        self.statistics = statistics

    def serve(self, profiles: Mapping[str, VariantProfile]) -> None:
        """Count for these variants, by routing key, from now on; see `Metrics.serve`."""
        self._metrics.serve(profiles)
        self.statistics.serve(profiles)

    def answered(self, event: Answered) -> None:
        """Count an answer."""
        self._metrics.answered(event)
        self.statistics.answered(event)

    def failed(self, error: Exception, arm: str, variant: str | None, took_s: float) -> None:
        """Count a request that failed after `took_s`.

        `variant` is the variant that the request preferred, or None if it failed before its
        qualifying variants were determined; the statistics by variant do not count such a failure.
        """
        self._metrics.failed(error, arm)
        if variant is not None:
            self.statistics.failed(variant, took_s)

    def disconnected(self, arm: str) -> None:
        """Count a request whose caller disconnected before the answer."""
        self._metrics.disconnected(arm)

    def executed(self, event: Executed) -> None:
        """Count a batch."""
        self._metrics.executed(event)
        self.statistics.executed(event)

    def host_usage(self, event: HostUsage) -> None:
        """Record the live replicas of a variant and their memory."""
        self._metrics.host_usage(event)
        self.statistics.host_usage(event)

    def host_lost(self, variant: str) -> None:
        """Count a host replica that was lost."""
        self._metrics.host_lost(variant)

    def set_failing(self, keys: Set[str]) -> None:
        """Record which variants have no live replica, by routing key; all others are well."""
        self._metrics.set_failing(keys)

    def tick(self, elapsed_s: float) -> None:
        """Update the metrics that are rates; the last tick was `elapsed_s` ago."""
        self._metrics.tick(elapsed_s)
