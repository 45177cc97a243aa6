"""From a description to a workload: arrival process + classes + rate + time + seed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from loadtests.workload.arrivals import Arrivals, describe_arrivals
from loadtests.workload.workload import SloClass, Workload


def draw(
    arrivals: Arrivals,
    classes: Sequence[SloClass],
    rate_per_s: float,
    seconds: float,
    seed: int,
) -> Workload:
    """Draw the requests of `seconds` at `rate_per_s` of them, each of a class by its share.

    Equal arguments give equal workloads. With the same seed the arrivals are the same for any
    classes. What the rate is the mean of, the arrival process says.

    Raises `ValueError` for a rate, a time or a share that is not above 0, no classes, and what the
    arrival process refuses.
    """
    if not classes:
        raise ValueError("a workload needs at least one class of requests")
    for key, value in (
        ("rate_per_s", rate_per_s),
        ("seconds", seconds),
        *((f"share of class {each.name!r}", each.share) for each in classes),
    ):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{key} must be a number above 0, got {value:g}")
    seeds = np.random.SeedSequence(seed).spawn(2)
    timing, choosing = map(np.random.default_rng, seeds)
    arrivals_s = arrivals.times(timing, rate_per_s, seconds)
    upto = np.cumsum([each.share for each in classes])
    drawn = choosing.random(len(arrivals_s)) * upto[-1]
    class_of = np.searchsorted(upto[:-1], drawn, side="right").astype(np.int16)
    return Workload(
        name=f"{describe_arrivals(arrivals)}, {_shown(rate_per_s)}/s",
        arrivals_s=arrivals_s,
        class_of=class_of,
        classes=tuple(classes),
        seconds=seconds,
    )


def _shown(rate_per_s: float) -> str:
    return f"{rate_per_s:,.0f}" if rate_per_s >= 100 else f"{rate_per_s:.3g}"
