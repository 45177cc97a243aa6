"""How many samples a second a variant can answer: the measure of every offered load."""

from __future__ import annotations

from collections.abc import Mapping

from serving.routing.profile import VariantProfile
from variants.catalog.recipe import DENSE


def capacity_per_s(
    profiles: Mapping[str, VariantProfile], variant: str = DENSE, cores: int = 1
) -> float:
    """Return the samples a second of one variant alone, at the batch size where it is quickest.

    By the medians of its report card, with one replica on each of `cores` running full batches
    back to back.

    Raises `ValueError` if nothing is offered by that name.
    """
    if variant not in profiles:
        raise ValueError(f"no variant {variant!r}; there are {', '.join(profiles)}")
    latencies = profiles[variant].latencies
    return cores * max(size / latency.p50_s for size, latency in latencies.items())
