"""The capacity of a variant in samples per second, to which offered loads are relative."""

from __future__ import annotations

from collections.abc import Mapping

from serving.routing.profile import VariantProfile
from variants.catalog.recipe import DENSE


def capacity_per_s(
    profiles: Mapping[str, VariantProfile], variant: str = DENSE, cores: int = 1
) -> float:
    """Return the highest throughput of one variant over all batch sizes, in samples per second.

    It is computed from the median latencies of the report card, for one replica on each of `cores`
    that runs full batches without pause.

    Raises ValueError if there is no such variant.
    """
    if variant not in profiles:
        raise ValueError(f"no variant {variant!r}; the variants are {', '.join(profiles)}")
    latencies = profiles[variant].latencies
    return cores * max(size / latency.p50_s for size, latency in latencies.items())
