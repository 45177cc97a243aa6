"""The Pareto frontier of accuracy and latency.

A pure function of two numbers per variant, used by the report and by the plot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FrontierPoint:
    """Accuracy, 0 to 1, and latency in seconds of a variant."""

    accuracy: float
    latency_s: float

    def dominates(self, other: FrontierPoint) -> bool:
        """Return whether this is at least as accurate and as fast, and better in at least one."""
        return (
            self.accuracy >= other.accuracy and self.latency_s <= other.latency_s and self != other
        )


def frontier(points: Mapping[str, FrontierPoint]) -> frozenset[str]:
    """Return the names of the points that no other point dominates.

    Equal points do not dominate each other, so both are kept.
    """
    return frozenset(
        name
        for name, point in points.items()
        if not any(other.dominates(point) for other in points.values())
    )
