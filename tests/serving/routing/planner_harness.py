"""A planner with a clock that the test advances."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from serving.routing.latency import LatencyModel
from serving.routing.planner import Planner
from serving.routing.policy.baselines.max_acc import max_acc
from serving.routing.policy.state import LaneKey, Policy, QueuedRequest
from serving.routing.profile import LatencyQuantiles
from serving.routing.step import Idle, Send, Step
from tests.serving.builders import exactly

CARDS: Mapping[str, Mapping[int, LatencyQuantiles]] = {
    "dense": exactly({1: 0.010, 4: 0.016, 64: 0.100}),
    "int8": exactly({1: 0.002, 4: 0.003, 64: 0.020}),
}
ACCURACIES: Mapping[str, float] = {"int8": 0.88, "dense": 0.90}
ANY = ("dense", "int8")
MAX_BATCH = 64


def new_planner(
    now: Callable[[], float],
    policy: Policy = max_acc,
    cards: Mapping[str, Mapping[int, LatencyQuantiles]] = CARDS,
    /,
    *,
    max_queue: int = 100,
    max_lanes: int = 64,
    cores: float = math.inf,
    **slots: int,
) -> tuple[Planner[Any], LatencyModel]:
    """Return a planner with a dense and an INT8 variant, and its latency model.

    `cards` are the latencies of the two variants.

    The default policy is a simple one: the best free variant that is in time, or wait.
    """
    latency = LatencyModel(cards, now)
    planner = Planner[Any](
        policy,
        latency,
        ACCURACIES,
        max_batch=MAX_BATCH,
        max_queue=max_queue,
        max_lanes=max_lanes,
        cores=cores,
    )
    for variant, card in cards.items():
        # As the gateway does when a host joins.
        latency.calibrate(variant, {size: [one.p50_s] for size, one in card.items()})
        planner.set_slots(variant, slots.get(variant, 0))
    return planner, latency


class PlannerHarness:
    """Drives a planner: admits requests, takes steps and ends batches."""

    def __init__(
        self,
        policy: Policy = max_acc,
        cards: Mapping[str, Mapping[int, LatencyQuantiles]] = CARDS,
        **parameters: Any,
    ) -> None:
        self.now = 100.0
        self.planner, self.latency = new_planner(lambda: self.now, policy, cards, **parameters)
        self.shed: list[QueuedRequest[Any]] = []

    def admit(
        self,
        payload: object,
        *,
        within: float = math.inf,
        variants: tuple[str, ...] = ANY,
        priority: int = 10,
        size: int = 1,
        signature: Hashable = None,
    ) -> QueuedRequest[Any]:
        """Queue a request that is due in `within` seconds; record the requests shed for it."""
        request, shed = self.planner.admit(
            payload,
            LaneKey(variants, has_deadline=within < math.inf, signature=signature),
            size=size,
            deadline=self.now + within,
            priority=priority,
            now=self.now,
        )
        self.shed += [other for other, _ in shed]
        return request

    def steps(self) -> list[Step[Any]]:
        """Take all steps that are due now and return them; the last one is `Idle`."""
        steps: list[Step[Any]] = []
        while not (steps and isinstance(steps[-1], Idle)):
            steps.append(self.planner.step(self.now))
        return steps

    def send(self) -> Send[Any]:
        """Take the next step, which must be `Send`."""
        step = self.planner.step(self.now)
        assert isinstance(step, Send)
        return step

    def end(self, send: Send[Any], after: float, *, is_representative: bool = True) -> None:
        """End a batch `after` seconds from now."""
        self.now += after
        self.planner.end_batch(send.number, self.now, is_representative=is_representative)


def payloads(send: Send[Any]) -> list[object]:
    """Return the payloads of a batch."""
    return [request.payload for request in send.batch]
