"""Measures a warm generation through the serving path, before it gets requests."""

from __future__ import annotations

import statistics
import time
from typing import Final

from serving.dataplane.executor import HostLost
from serving.link.pool import HostPool
from serving.routing.generation import generation_key
from variants.catalog.catalog import Model
from variants.catalog.zero_inputs import zero_batch

PROBES: Final = 5
"""Number of batches, each of one sample."""


async def probe(pool: HostPool, model: Model, variant: str, generation: int) -> float:
    """Return the median time, in seconds, from sending a batch of one sample to its answer.

    Raises `HostLost` if no host of the generation is in the pool.
    """
    hosts = pool.hosts(generation_key(variant, generation))
    if not hosts:
        raise HostLost(variant)
    times = []
    for number in range(PROBES):
        start = time.monotonic()
        await hosts[number % len(hosts)].run(zero_batch(model, 1))
        times.append(time.monotonic() - start)
    return statistics.median(times)
