"""Lane and attainability of a request: the part of admission that is independent of the queue.

The data plane and the simulator share these rules. They are pure: no clock, no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator

from serving.routing.policy.state import LaneKey
from serving.routing.slo import Slo


def lane_key(variants: tuple[str, ...], slo: Slo, signature: Hashable = None) -> LaneKey:
    """Return the lane of a request for which `variants` qualify, best first.

    `signature` is equal for two requests only if they can share a batch.
    """
    return LaneKey(
        variants,
        fastest_first=slo.objective == "latency",
        has_deadline=slo.latency_s < math.inf,
        signature=signature,
        cheapest_first=slo.objective == "cost",
    )


def is_attainable(
    variants: Iterable[str], size: int, latency_s: float, best_case_s: Callable[[str, int], float]
) -> bool:
    """Return whether one of the variants is attainable; see `attainable_variants`."""
    return any(best_case_s(name, size) <= latency_s for name in variants)


def attainable_variants(
    variants: Iterable[str], size: int, latency_s: float, best_case_s: Callable[[str, int], float]
) -> Iterator[str]:
    """Yield the variants that answer `size` samples within `latency_s` when the service is idle.

    `best_case_s` returns the least time, in seconds, that a variant takes for a batch of that size.
    """
    return (name for name in variants if best_case_s(name, size) <= latency_s)
