"""The demand on a service: arrival process, SLO classes, rate and duration, parsed from options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.workload.arrivals import Acceleration, Arrivals, parse_arrivals
from loadtests.workload.capacity import capacity_per_s
from loadtests.workload.draw import draw
from loadtests.workload.mix import Profiles, parse_mix
from loadtests.workload.workload import SloClass, Workload


@dataclass(frozen=True, slots=True)
class Demand:
    """The parameters of a workload, without the seed."""

    arrivals: Arrivals
    classes: tuple[SloClass, ...]
    rate_per_s: float
    """Requests per second; a request may have several samples."""
    seconds: float
    load: float | None = None
    """Samples per second divided by the capacity of the dense variant; None if unknown."""

    def draw(self, seed: int) -> Workload:
        """Draw the requests; raises ValueError as `loadtests.workload.draw` does."""
        return draw(self.arrivals, self.classes, self.rate_per_s, self.seconds, seed)


def parse_demand(
    arrivals: str,
    slos: Sequence[str],
    *,
    load: float | None = None,
    rate_per_s: float | None = None,
    seconds: float | None = None,
    requests: int | None = None,
    profiles: Profiles | None = None,
    cores: int = 1,
) -> Demand:
    """Parse a demand from a load or a rate, and a duration or an expected number of requests.

    `load` is the rate of samples as a multiple of the capacity of the dense variant of `profiles`
    on `cores`.

    Raises ValueError with the valid options, and as `parse_arrivals`, `parse_mix` and
    `capacity_per_s` do.
    """
    if (load is None) == (rate_per_s is None):
        raise ValueError("give either the load or the rate: --load or --rate")
    if (seconds is None) == (requests is None):
        raise ValueError(
            "give either the duration or the number of requests: --seconds or --requests"
        )
    process, classes = parse_arrivals(arrivals), parse_mix(slos, profiles)
    if rate_per_s is None:
        if not profiles:
            raise ValueError("--load requires a catalog, for the capacity of dense; or give --rate")
        assert load is not None
        capacity = capacity_per_s(profiles, cores=cores) / _mean_size(classes)
        rate_per_s = load * capacity
    if not (math.isfinite(rate_per_s) and rate_per_s > 0):
        raise ValueError(
            f"the rate must be a number above 0, got {rate_per_s:g} requests per second"
        )
    if seconds is None:
        assert requests is not None
        if isinstance(process, Acceleration):
            raise ValueError(
                "acceleration requires a duration, because its rate changes: --seconds"
            )
        seconds = requests / rate_per_s
    return Demand(process, classes, rate_per_s, seconds, load)


def _mean_size(classes: Sequence[SloClass]) -> float:
    return sum(each.share * each.size for each in classes) / sum(each.share for each in classes)
