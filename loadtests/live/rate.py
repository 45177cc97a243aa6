"""Finds the highest rate that a service sustains: replays at rising rates until one fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from loadtests.trials.grid import Grid
from loadtests.trials.tables import NO_VALUE

MIN_ATTAINMENT: Final = 0.99
"""Share of requests that must be on time at a sustained rate."""

ATTEMPTS: Final = 2
"""Number of consecutive failures after which a rate counts as not sustained.

One failure can be a disturbance of the machine.
"""

MAX_RATES: Final = 100
"""Maximum number of rates, in case none fails."""


@dataclass(frozen=True, slots=True)
class RatePoint:
    """One replay at one rate."""

    rate_per_s: float
    attainment: float
    p99_s: float | None
    """99th percentile of the latency; None if no request was answered."""
    client_delay_p99_s: float
    """99th percentile of the delay with which the client sent requests."""
    is_valid: bool
    """Whether the client kept up, so that the result describes the service."""

    @property
    def is_sustained(self) -> bool:
        """True if the replay is valid and enough requests were on time."""
        return self.is_valid and self.attainment >= MIN_ATTAINMENT


def measure_rising_rates(
    measure: Callable[[float, int], RatePoint], start_per_s: float, step: float
) -> list[RatePoint]:
    """Measure rates from `start_per_s` on, each `step` times the last, until one is not sustained.

    `measure` receives the rate and a seed, which differs for each replay. A rate is not sustained
    if it fails `ATTEMPTS` times in a row.

    Raises ValueError if `step` is not above 1.
    """
    if not step > 1:
        raise ValueError(f"step must be above 1 so that rates rise, got {step:g}")
    points: list[RatePoint] = []
    for number in range(MAX_RATES):
        rate_per_s = start_per_s * step**number
        for _ in range(ATTEMPTS):
            points.append(measure(rate_per_s, len(points)))
            if points[-1].is_sustained:
                break
        else:
            break
    return points


def highest_sustained_rate(points: Sequence[RatePoint]) -> float | None:
    """Return the highest sustained rate; None if there is none."""
    return max((point.rate_per_s for point in points if point.is_sustained), default=None)


def rates_grid(points: Sequence[RatePoint], title: str, note: str = "") -> Grid:
    """Return a table with a row per replay; its note names the highest sustained rate."""
    rows = [
        (
            f"{point.rate_per_s:,.0f}",
            f"{100 * point.attainment:.3f}",
            NO_VALUE if point.p99_s is None else f"{point.p99_s * 1e3:.2f}",
            f"{point.client_delay_p99_s * 1e3:.2f}",
            _verdict(point),
        )
        for point in points
    ]
    highest = highest_sustained_rate(points)
    result = f"sustained: {highest:,.0f} requests/s" if highest else "no rate was sustained"
    columns = ("requests/s", "on time, %", "p99, ms", "client delay p99, ms", "verdict")
    return Grid(title, columns, rows, ". ".join(filter(None, (result, note))))


def _verdict(point: RatePoint) -> str:
    if not point.is_valid:
        return "invalid: the client was late"
    return "sustained" if point.is_sustained else f"below {100 * MIN_ATTAINMENT:g} %"
