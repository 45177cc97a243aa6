"""Builders of router states for the tests of policies. The time is 0."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from serving.routing.policy.state import (
    Dispatch,
    Drop,
    Lane,
    LaneKey,
    Policy,
    QueuedRequest,
    QueueOrder,
    RouterState,
    VariantState,
    Wait,
)

ALL = ("dense", "pruned", "int8")


@dataclass(frozen=True)
class LinearTimes:
    """Batch times of `first_s` for the first sample and `each_s` for each further one.

    Quantiles above the median are `residuals` times the median.
    """

    first_s: float
    each_s: float
    residuals: float = 1.0

    @property
    def lag_s(self) -> float:
        return 0.0

    def typical_s(self, size: int) -> float:
        return self.first_s + self.each_s * (size - 1)

    def within_s(self, size: int, quantile: float = 0.95) -> float:
        return self.typical_s(size) * (self.residuals if quantile > 0.5 else 1.0)

    def miss_probability(self, size: int, left_s: float) -> float:
        return float(self.within_s(size) > left_s)


@dataclass(frozen=True)
class ScaledTimes:
    """Best-case times: a share of the typical times."""

    times: LinearTimes
    share: float

    def __call__(self, size: int) -> float:
        return self.times.typical_s(size) * self.share


def variant_state(
    name: str,
    first_s: float,
    each_s: float = 0.0,
    *,
    slots: int = 1,
    busy_s: float = 0.0,
    best_case: float = 0.5,
    residuals: float = 1.0,
    max_batch: int = 64,
    batches_sent: int = 0,
) -> VariantState:
    """Return a variant with all slots free, or with none until `busy_s` have passed."""
    times = LinearTimes(first_s, each_s, residuals)
    return VariantState(
        name=name,
        accuracy=1.0,
        slots=slots,
        free_slots=0 if busy_s else slots,
        free_in_s=busy_s,
        max_batch=max_batch,
        times=times,
        best_case_s=ScaledTimes(times, best_case),
        batches_sent=batches_sent,
    )


def lane(
    *deadlines: float,
    variants: Sequence[str] = ALL,
    fastest_first: bool = False,
    signature: str = "",
    sizes: Sequence[int] = (),
    arrived: float = 0.0,
) -> Lane:
    """Return a lane of requests with these deadlines, of one sample each without `sizes`."""
    key = LaneKey(tuple(variants), fastest_first, deadlines[0] < math.inf, signature)
    requests = [
        QueuedRequest(
            size,
            deadline,
            QueueOrder(deadline if key.has_deadline else arrived + 1.0, 10, number),
            key,
            None,
            arrived,
        )
        for number, (deadline, size) in enumerate(
            zip(sorted(deadlines), sizes or [1] * len(deadlines), strict=True)
        )
    ]
    return Lane(key, requests, sum(request.size for request in requests))


def router_state(
    lanes: Sequence[Lane], *variants: VariantState, arrivals_per_s: float = 0.0
) -> RouterState:
    by_name = {variant.name: variant for variant in variants}
    return RouterState(lanes, by_name, 0.0, arrivals_per_s=arrivals_per_s)


def chooser(policy: Policy) -> Callable[..., object]:
    """Return a function that calls the policy and summarizes its decision.

    The summary is (variant, size) of a dispatch, ("wait", until), or "drop".
    """

    def choose(
        lanes: Sequence[Lane], *variants: VariantState, arrivals_per_s: float = 0.0
    ) -> object:
        match policy(router_state(lanes, *variants, arrivals_per_s=arrivals_per_s)):
            case Dispatch(variant=name, size=size):
                return name, size
            case Drop():
                return "drop"
            case Wait(until):
                return "wait", until

    return choose


DENSE = variant_state("dense", 0.010, 0.001)
PRUNED = variant_state("pruned", 0.004, 0.0005)
INT8 = variant_state("int8", 0.002, 0.0001)
BUSY_DENSE = variant_state("dense", 0.010, 0.001, busy_s=0.005)
