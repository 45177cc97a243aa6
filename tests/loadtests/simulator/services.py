"""Simulated services and workloads for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from loadtests.simulator.service import SimulatedService
from loadtests.workload.workload import SloClass, Workload
from serving.routing.profile import LatencyQuantiles, VariantProfile
from tests.serving.builders import profile

SIZES = (1, 4, 16, 64)


def report_card(fastest_s: float) -> dict[int, LatencyQuantiles]:
    """Return latencies by batch size: 64 samples take 8 times as long as 1; p95 is 1.5 medians."""
    medians = {size: fastest_s * size**0.5 for size in SIZES}
    return {size: LatencyQuantiles(s, 1.5 * s, 2.0 * s) for size, s in medians.items()}


def _profile(variant: str, accuracy: float, fastest_s: float) -> VariantProfile:
    return VariantProfile(
        variant, accuracy, accuracy, 0.95 - accuracy, accuracy, 1, 1, report_card(fastest_s)
    )


PROFILES: Mapping[str, VariantProfile] = {
    "dense": _profile("dense", 0.95, 0.004),
    "sparse": _profile("sparse", 0.93, 0.002),
    "int8": _profile("int8", 0.90, 0.001),
}


def constant_time_service(seconds: float, **fields: Any) -> SimulatedService:
    """Return a service with one variant whose batches have one request and take `seconds`."""
    only = {"dense": profile("dense", latencies_s={1: seconds})}
    return SimulatedService(only, **{"cores": 1, "max_batch": 1, **fields})


def workload(
    arrivals_s: Sequence[float], classes: Sequence[SloClass], class_of: Sequence[int] | None = None
) -> Workload:
    """Return requests with these arrival times, by default all of the first class."""
    classes_of_requests = [0] * len(arrivals_s) if class_of is None else class_of
    return Workload(
        name="test",
        arrivals_s=np.array(arrivals_s, dtype=np.float64),
        class_of=np.array(classes_of_requests, dtype=np.int16),
        classes=tuple(classes),
        seconds=float(max(arrivals_s)),
    )
