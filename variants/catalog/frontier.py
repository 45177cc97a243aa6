"""Which variants are worth serving: those that no other beats on accuracy and latency.

A pure function of two numbers per variant; the report marks its answer, and the plot draws it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class FrontierPoint:
    """A variant's place in the trade: `accuracy` in 0..1, `latency_s` in seconds."""

    accuracy: float
    latency_s: float

    def dominates(self, other: FrontierPoint) -> bool:
        """Return whether this is at least as accurate and as fast, and better in one of them."""
        return (
            self.accuracy >= other.accuracy and self.latency_s <= other.latency_s and self != other
        )


def frontier(points: Mapping[str, FrontierPoint]) -> frozenset[str]:
    """Return the names of the points that no other dominates: the Pareto frontier.

    Equal points do not dominate each other, so that both stay.
    """
    return frozenset(
        name
        for name, point in points.items()
        if not any(other.dominates(point) for other in points.values())
    )
