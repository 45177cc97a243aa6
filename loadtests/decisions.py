"""How long the policy takes to decide with many requests queued, in a simulated gateway.

The queue is kept full with requests of mixed SLOs; time is simulated, the decisions are real.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt

from serving.latency import LatencyModel
from serving.offer import Offer, qualifying
from serving.policy.situation import Candidate, Dispatch, Drop, LaneKey, Policy, Wait
from serving.queue import DeadlineQueue
from serving.slo import Slo

MAX_BATCH: Final = 64
SHORTEST_S: Final = 1e-4


def _offer(variant: str, accuracy: float, fastest_s: float) -> Offer:
    # About what an MLP does: 64 samples take eight times as long as one.
    latencies_s = {size: fastest_s * size**0.5 for size in (1, 2, 4, 8, 16, 32, 64)}
    return Offer(variant, accuracy, 0.95 - accuracy, accuracy, 1, 1, latencies_s)


OFFERS: Final[Mapping[str, Offer]] = {
    "dense": _offer("dense", 0.90, 0.0005),
    "pruned": _offer("pruned", 0.898, 0.0003),
    "sparse": _offer("sparse", 0.895, 0.0004),
    "int8": _offer("int8", 0.885, 0.0002),
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
    """A queue that is always full, and one busy host per variant."""

    def __init__(self, policy: Policy, queued: int, seed: int = 0) -> None:
        self._policy = policy
        self._queued = queued
        self._rng = np.random.default_rng(seed)
        self._now = 0.0
        self._queue = DeadlineQueue()
        self._busy_until = dict.fromkeys(OFFERS, 0.0)
        cards = {name: offer.latencies_s for name, offer in OFFERS.items()}
        self._latency = LatencyModel(cards, lambda: self._now)

    def run(self, decisions: int, timer: Callable[[], float] = time.perf_counter) -> Decisions:
        """Decide so many times; each time is of lanes, candidates and policy together."""
        seconds = np.empty(decisions)
        kinds = Counter[str]()
        for number in range(decisions):
            self._fill()
            start = timer()
            decision = self._policy(self._queue.lanes, self._candidates(), self._now)
            seconds[number] = timer() - start
            kinds[type(decision).__name__] += 1
            match decision:
                case Dispatch(variant, counts, size):
                    for lane, count in counts:
                        self._queue.take(lane, count)
                    took_s = self._latency.idle_s(variant, size) * self._rng.lognormal(0, 0.2)
                    self._latency.observe(variant, size, took_s)
                    self._busy_until[variant] = self._now + took_s
                case Drop(lane):
                    self._queue.take(lane, 1)
                case Wait():
                    busy = [end for end in self._busy_until.values() if end > self._now]
                    self._now = min(busy, default=self._now + SHORTEST_S)
        return Decisions(seconds, kinds)

    def _fill(self) -> None:
        for number in self._rng.integers(0, len(SLOS), self._queued - len(self._queue)):
            slo = SLOS[number]
            key = LaneKey(
                qualifying(OFFERS, slo),
                fastest_first=slo.objective == "latency",
                has_deadline=slo.latency_s < math.inf,
            )
            # Some have waited already.
            deadline = self._now + slo.latency_s * self._rng.uniform(0.3, 1.0)
            priority = int(self._rng.integers(1, 12))
            self._queue.add(
                None, key=key, size=1, deadline=deadline, priority=priority, now=self._now
            )

    def _candidates(self) -> dict[str, Candidate]:
        return {
            name: Candidate(
                name=name,
                slots=1,
                free_slots=0 if end > self._now else 1,
                free_in_s=max(0.0, end - self._now),
                max_batch=MAX_BATCH,
                predict_s=partial(self._latency.predict_s, name),
                idle_s=partial(self._latency.idle_s, name),
            )
            for name, end in self._busy_until.items()
        }
