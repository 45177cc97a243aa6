"""The highest rate that a service can hold: replays at rising rates until too few are on time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from loadtests.trials.grid import Grid
from loadtests.trials.tables import NO_VALUE

HELD: Final = 0.99
"""The share on time of a rate that is held."""

TRIES: Final = 2
"""So often a rate must fail: a machine that hiccups once says nothing about a rate."""

MOST: Final = 100
"""Rates at most, should none fail."""


@dataclass(frozen=True, slots=True)
class RatePoint:
    """One replay at one rate."""

    rate_per_s: float
    attainment: float
    p99_s: float | None
    lag_s: float
    """Of the client: the 99th percentile."""
    is_valid: bool
    """Whether the client kept up, so that this is the service's doing."""

    @property
    def is_held(self) -> bool:
        """True if the service could hold this rate, for all that can be said."""
        return self.is_valid and self.attainment >= HELD


def climb(
    measure: Callable[[float, int], RatePoint], start_per_s: float, step: float
) -> list[RatePoint]:
    """Measure rates from a first one on, each `step` times the one before, until one is not held.

    `measure` takes the rate and a seed, another for each replay. A rate is not held once it has
    failed `TRIES` times in a row.

    Raises `ValueError` if `step` is not above 1.
    """
    if not step > 1:
        raise ValueError(f"each rate must be above the one before: step above 1, got {step:g}")
    points: list[RatePoint] = []
    for number in range(MOST):
        rate_per_s = start_per_s * step**number
        for _ in range(TRIES):
            points.append(measure(rate_per_s, len(points)))
            if points[-1].is_held:
                break
        else:
            break
    return points


def last_held(points: Sequence[RatePoint]) -> float | None:
    """Return the highest rate that was held; None if none was."""
    return max((point.rate_per_s for point in points if point.is_held), default=None)


def rates_grid(points: Sequence[RatePoint], title: str, note: str = "") -> Grid:
    """Show every replay, and say what was held."""
    rows = [
        (
            f"{point.rate_per_s:,.0f}",
            f"{100 * point.attainment:.3f}",
            NO_VALUE if point.p99_s is None else f"{point.p99_s * 1e3:.2f}",
            f"{point.lag_s * 1e3:.2f}",
            _verdict(point),
        )
        for point in points
    ]
    held = last_held(points)
    reported = f"held: {held:,.0f} requests/s" if held else "no rate was held"
    columns = ("requests/s", "on time, %", "p99, ms", "client p99 late, ms", "verdict")
    return Grid(title, columns, rows, ". ".join(filter(None, (reported, note))))


def _verdict(point: RatePoint) -> str:
    if not point.is_valid:
        return "invalid: the client was late"
    return "held" if point.is_held else f"below {100 * HELD:g} %"
