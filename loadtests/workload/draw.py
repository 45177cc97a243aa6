"""Draws a workload from an arrival process, SLO classes, a rate, a duration and a seed."""

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
    """Draw the requests of `seconds` at `rate_per_s`; shares are the probabilities of the classes.

    Equal arguments give equal workloads. With the same seed the arrival times do not depend on the
    classes. The meaning of the rate depends on the arrival process.

    Raises ValueError if the rate, the duration or a share is not above 0, if there are no classes,
    and as the arrival process does.
    """
    if not classes:
        raise ValueError("a workload requires at least one class of requests")
    for key, value in (
        ("rate_per_s", rate_per_s),
        ("seconds", seconds),
        *((f"share of class {each.name!r}", each.share) for each in classes),
    ):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{key} must be a number above 0, got {value:g}")
    seeds = np.random.SeedSequence(seed).spawn(2)
    arrival_rng, class_rng = map(np.random.default_rng, seeds)
    arrivals_s = arrivals.draw_times(arrival_rng, rate_per_s, seconds)
    cumulative = np.cumsum([each.share for each in classes])
    drawn = class_rng.random(len(arrivals_s)) * cumulative[-1]
    class_of = np.searchsorted(cumulative[:-1], drawn, side="right").astype(np.int16)
    return Workload(
        name=f"{describe_arrivals(arrivals)}, {_format_rate(rate_per_s)}/s",
        arrivals_s=arrivals_s,
        class_of=class_of,
        classes=tuple(classes),
        seconds=seconds,
    )


def _format_rate(rate_per_s: float) -> str:
    return f"{rate_per_s:,.0f}" if rate_per_s >= 100 else f"{rate_per_s:.3g}"
