"""Measures how long the router takes for a decision with many requests queued.

The gateway is simulated: its queue is kept full with requests of mixed SLOs, and time is
simulated. The decisions are those of production.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from loadtests.trials.grid import Grid
from serving.errors import Overloaded
from serving.routing.attainability import lane_key
from serving.routing.latency import LatencyModel
from serving.routing.planner import Planner
from serving.routing.policy.pareto import pareto
from serving.routing.policy.state import Policy
from serving.routing.profile import LatencyQuantiles, VariantProfile, qualifying
from serving.routing.slo import Slo
from serving.routing.step import Expired, Idle, NoReplica, Send

QUEUED: Final = (10, 100, 1000)
"""Lengths of the queue that are measured."""
MAX_P99_US: Final = 200.0
"""Target for the 99th percentile of the time of a decision, in microseconds."""
MAX_BATCH: Final = 64
MIN_ADVANCE_S: Final = 1e-4
"""Minimum simulated time between two decisions when the router is idle, in seconds."""


def _profile(variant: str, accuracy: float, fastest_s: float) -> VariantProfile:
    # Roughly an MLP: 64 samples take eight times as long as one.
    typical_s = {size: fastest_s * size**0.5 for size in (1, 2, 4, 8, 16, 32, 64)}
    latencies = {size: LatencyQuantiles(s, 1.3 * s, 1.5 * s) for size, s in typical_s.items()}
    return VariantProfile(variant, accuracy, accuracy, 0.95 - accuracy, accuracy, 1, 1, latencies)


PROFILES: Final[Mapping[str, VariantProfile]] = {
    "dense": _profile("dense", 0.90, 0.0005),
    "pruned": _profile("pruned", 0.898, 0.0003),
    "sparse": _profile("sparse", 0.895, 0.0004),
    "int8": _profile("int8", 0.885, 0.0002),
}

SLOS: Final = (
    Slo(),
    Slo(variant="dense"),
    Slo(latency_s=0.005),
    Slo(latency_s=0.02),
    Slo(latency_s=0.1, min_accuracy=0.9),
    Slo(latency_s=0.05, min_accuracy=0.89),
    Slo(latency_s=0.03, objective="latency"),
    Slo(latency_s=0.2, objective="cost"),
)
"""Every kind of lane. The two SLOs that differ only in the deadline share one."""


@dataclass(frozen=True)
class DecisionTimes:
    """The time of each decision, in seconds, and the number of decisions of each kind."""

    seconds: npt.NDArray[np.float64]
    kinds: Mapping[str, int]

    def quantile_us(self, q: float) -> float:
        """Return a quantile of the times, in microseconds."""
        return float(np.quantile(self.seconds, q)) * 1e6


class RouterSimulation:
    """A queue that is always full, and one host per variant."""

    def __init__(self, policy: Policy, queued: int, seed: int = 0) -> None:
        self._queued = queued
        self._rng = np.random.default_rng(seed)
        self._now = 0.0
        self._running: list[tuple[float, int]] = []
        self._planner = new_planner(policy, lambda: self._now, queued)

    def run(self, decisions: int, timer: Callable[[], float] = time.perf_counter) -> DecisionTimes:
        """Make a number of decisions; each time includes lanes, candidate batches and policy."""
        seconds = np.empty(decisions)
        kinds = Counter[str]()
        for number in range(decisions):
            self._fill_queue()
            start = timer()
            step = self._planner.step(self._now)
            seconds[number] = timer() - start
            kinds[type(step).__name__] += 1
            match step:
                case Send():
                    typical_s = PROFILES[step.variant].latencies[1].p50_s * step.size**0.5
                    duration_s = typical_s * self._rng.lognormal(0, 0.2)
                    heapq.heappush(self._running, (self._now + duration_s, step.number))
                case Idle(until):
                    self._planner.update_forecast(self._now)
                    self._advance(until)
                case Expired() | NoReplica():
                    pass
        return DecisionTimes(seconds, kinds)

    def _advance(self, until: float) -> None:
        """Advance the time to the end of the next batch or to `until`, whichever is earlier."""
        end = self._running[0][0] if self._running else math.inf
        self._now = min(end, max(until, self._now + MIN_ADVANCE_S))
        while self._running and self._running[0][0] <= self._now:
            self._planner.end_batch(heapq.heappop(self._running)[1], self._now)

    def _fill_queue(self) -> None:
        while self._planner.queued < self._queued:
            slo = SLOS[self._rng.integers(len(SLOS))]
            key = lane_key(qualifying(PROFILES, slo), slo)
            # Less than the full deadline is left, as if some requests had waited already.
            deadline = self._now + slo.latency_s * self._rng.uniform(0.3, 1.0)
            priority = int(self._rng.integers(1, 12))
            with suppress(Overloaded):  # the loop then tries another SLO
                self._planner.admit(
                    None, key, size=1, deadline=deadline, priority=priority, now=self._now
                )


def decisions_grid(decisions: int) -> Grid:
    """Measure the time of a decision for each length of the queue; return a table."""
    rows = []
    for queued in QUEUED:
        times = RouterSimulation(pareto, queued).run(decisions)
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(times.kinds.items()))
        quantiles = (f"{times.quantile_us(q):.0f}" for q in (0.5, 0.99, 0.999))
        rows.append((f"{queued:,}", *quantiles, kinds))
    return Grid(
        "One decision of the router",
        ("queued", "p50 µs", "p99 µs", "p99.9 µs", "decisions"),
        rows,
        f"{decisions:,} decisions each. Target: p99 below {MAX_P99_US:g} µs",
    )


def new_latency_model(
    now: Callable[[], float], profiles: Mapping[str, VariantProfile] = PROFILES
) -> LatencyModel:
    """Return a latency model of these profiles."""
    return LatencyModel({name: profile.latencies for name, profile in profiles.items()}, now)


def new_planner(
    policy: Policy,
    now: Callable[[], float],
    max_queue: int,
    profiles: Mapping[str, VariantProfile] = PROFILES,
) -> Planner[Any]:
    """Return a planner of these profiles with one slot per variant."""
    planner = Planner[Any](
        policy,
        new_latency_model(now, profiles),
        {name: profile.tier_accuracy for name, profile in profiles.items()},
        max_batch=MAX_BATCH,
        max_queue=max_queue,
    )
    for name in profiles:
        planner.set_slots(name, 1)
    return planner
