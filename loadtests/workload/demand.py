"""What is asked of a service: arrivals, classes, rate and time, as a command line says them."""

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
    """A workload but for its seed."""

    arrivals: Arrivals
    classes: tuple[SloClass, ...]
    rate_per_s: float
    """Requests, not samples."""
    seconds: float
    load: float | None = None
    """The rate of samples over what the dense variant can serve, where that is known."""

    def draw(self, seed: int) -> Workload:
        """Return the requests; raises `ValueError` as `loadtests.workload.draw` does."""
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
    """Read a demand: either a load or a rate, and either a time or about how many requests.

    `load` is in samples, as a multiple of what the dense variant of `profiles` answers on `cores`.

    Raises `ValueError` that says what would be right, also as `parse_arrivals`, `parse_mix` and
    `capacity_per_s` do.
    """
    if (load is None) == (rate_per_s is None):
        raise ValueError("give the load or the rate, one of them: --load or --rate")
    if (seconds is None) == (requests is None):
        raise ValueError("give the time or the requests, one of them: --seconds or --requests")
    process, classes = parse_arrivals(arrivals), parse_mix(slos, profiles)
    if rate_per_s is None:
        if not profiles:
            raise ValueError("--load needs a catalog, to know what dense can serve; or give --rate")
        assert load is not None
        capacity = capacity_per_s(profiles, cores=cores) / _mean_size(classes)
        rate_per_s = load * capacity
    if not (math.isfinite(rate_per_s) and rate_per_s > 0):
        raise ValueError(f"the rate must be a number above 0, got {rate_per_s:g} requests a second")
    if seconds is None:
        assert requests is not None
        if isinstance(process, Acceleration):
            raise ValueError("acceleration needs a time, since its rate changes: --seconds")
        seconds = requests / rate_per_s
    return Demand(process, classes, rate_per_s, seconds, load)


def _mean_size(classes: Sequence[SloClass]) -> float:
    return sum(one.share * one.size for one in classes) / sum(one.share for one in classes)
