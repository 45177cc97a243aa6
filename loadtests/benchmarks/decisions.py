"""How long the router takes to decide with many requests queued, in a simulated gateway.

The queue is kept full with requests of mixed SLOs; time is simulated, the decisions are real.
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

from serving.errors import Overloaded
from serving.routing.attainability import lane_key
from serving.routing.latency import LatencyModel
from serving.routing.planner import Planner
from serving.routing.policy.state import Policy
from serving.routing.profile import LatencyQuantiles, VariantProfile, qualifying
from serving.routing.slo import Slo
from serving.routing.step import Expired, Idle, NoReplica, Send

MAX_BATCH: Final = 64
SHORTEST_S: Final = 1e-4


def _profile(variant: str, accuracy: float, fastest_s: float) -> VariantProfile:
    # About what an MLP does: 64 samples take eight times as long as one.
    typical_s = {size: fastest_s * size**0.5 for size in (1, 2, 4, 8, 16, 32, 64)}
    latencies = {size: LatencyQuantiles(s, 1.3 * s, 1.5 * s) for size, s in typical_s.items()}
    return VariantProfile(variant, accuracy, 0.95 - accuracy, accuracy, 1, 1, latencies)


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
"""Every kind of lane; two that differ in nothing but the deadline share one."""


@dataclass(frozen=True)
class Decisions:
    """The seconds that each decision took, and how many there were of each kind."""

    seconds: npt.NDArray[np.float64]
    kinds: Mapping[str, int]

    def quantile_us(self, q: float) -> float:
        """Return a quantile, in microseconds."""
        return float(np.quantile(self.seconds, q)) * 1e6


class Simulation:
    """A queue that is always full, and one host per variant that is busy or becomes so."""

    def __init__(self, policy: Policy, queued: int, seed: int = 0) -> None:
        self._queued = queued
        self._rng = np.random.default_rng(seed)
        self._now = 0.0
        self._running: list[tuple[float, int]] = []
        self._planner = new_planner(policy, lambda: self._now, queued)

    def run(self, decisions: int, timer: Callable[[], float] = time.perf_counter) -> Decisions:
        """Decide so many times; each time is of lanes, candidates and policy together."""
        seconds = np.empty(decisions)
        kinds = Counter[str]()
        for number in range(decisions):
            self._fill()
            start = timer()
            step = self._planner.step(self._now)
            seconds[number] = timer() - start
            kinds[type(step).__name__] += 1
            match step:
                case Send():
                    typical_s = PROFILES[step.variant].latencies[1].p50_s * step.size**0.5
                    took_s = typical_s * self._rng.lognormal(0, 0.2)
                    heapq.heappush(self._running, (self._now + took_s, step.number))
                case Idle(until):
                    self._planner.update_forecast(self._now)
                    self._pass(until)
                case Expired() | NoReplica():
                    pass
        return Decisions(seconds, kinds)

    def _pass(self, until: float) -> None:
        """Let time pass until a batch ends, or it is time to look again."""
        end = self._running[0][0] if self._running else math.inf
        self._now = min(end, max(until, self._now + SHORTEST_S))
        while self._running and self._running[0][0] <= self._now:
            self._planner.end_batch(heapq.heappop(self._running)[1], self._now)

    def _fill(self) -> None:
        while self._planner.queued < self._queued:
            slo = SLOS[self._rng.integers(len(SLOS))]
            key = lane_key(qualifying(PROFILES, slo), slo)
            # Some have waited already.
            deadline = self._now + slo.latency_s * self._rng.uniform(0.3, 1.0)
            priority = int(self._rng.integers(1, 12))
            with suppress(Overloaded):  # then another one
                self._planner.admit(
                    None, key, size=1, deadline=deadline, priority=priority, now=self._now
                )


def new_planner(policy: Policy, now: Callable[[], float], max_queue: int) -> Planner[Any]:
    """Return a planner of these offers, with one slot for each."""
    planner = Planner[Any](
        policy,
        LatencyModel({name: profile.latencies for name, profile in PROFILES.items()}, now),
        {name: profile.accuracy for name, profile in PROFILES.items()},
        max_batch=MAX_BATCH,
        max_queue=max_queue,
    )
    for name in PROFILES:
        planner.set_slots(name, 1)
    return planner
