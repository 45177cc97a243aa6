"""Services that are simulated in tests: three variants, and the times that their batches take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from loadtests.simulator.simulate import SimulatedService
from loadtests.workload.workload import SloClass, Workload
from serving.routing.profile import LatencyQuantiles, VariantProfile
from tests.serving.builders import profile

SIZES = (1, 4, 16, 64)


def spread(fastest_s: float) -> dict[int, LatencyQuantiles]:
    """A report card: 64 samples take eight times as long as one; p95 is 1.5 times the median."""
    medians = {size: fastest_s * size**0.5 for size in SIZES}
    return {size: LatencyQuantiles(s, 1.5 * s, 2.0 * s) for size, s in medians.items()}


def _profile(variant: str, accuracy: float, fastest_s: float) -> VariantProfile:
    return VariantProfile(variant, accuracy, 0.95 - accuracy, accuracy, 1, 1, spread(fastest_s))


OFFERS: Mapping[str, VariantProfile] = {
    "dense": _profile("dense", 0.95, 0.004),
    "sparse": _profile("sparse", 0.93, 0.002),
    "int8": _profile("int8", 0.90, 0.001),
}


def exactly(seconds: float, **fields: Any) -> SimulatedService:
    """One variant whose batches all take the same time, one request each."""
    only = {"dense": profile("dense", latencies_s={1: seconds})}
    return SimulatedService(only, **{"cores": 1, "max_batch": 1, **fields})


def workload(
    arrivals_s: Sequence[float], classes: Sequence[SloClass], class_of: Sequence[int] | None = None
) -> Workload:
    """Requests at these times; of the first class, if it is not said."""
    chosen = [0] * len(arrivals_s) if class_of is None else class_of
    return Workload(
        name="made up",
        arrivals_s=np.array(arrivals_s, dtype=np.float64),
        class_of=np.array(chosen, dtype=np.int16),
        classes=tuple(classes),
        seconds=float(max(arrivals_s)),
    )
