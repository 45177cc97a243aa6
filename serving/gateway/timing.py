"""Times a new host with a few batches through the link, to calibrate the latency model."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from serving.link.calls import Connection
from variants.catalog.catalog import Model
from variants.catalog.zero_inputs import zero_batch

TIMINGS: Final = 8
"""Number of timings of each batch size on a new host."""

MIN_TIMINGS: Final = 3
"""The same number if more would take longer than is allowed."""

PAUSE_S: Final = 0.005
"""Pause, in seconds, before each batch. It lets the CPUs sleep, as they do before a single request,
and bounds the share of the CPUs that the timing takes from hosts that serve."""

Pause: TypeAlias = Callable[[float], Awaitable[None]]
"""Waits for at least this time, in seconds."""


class Timings(NamedTuple):
    """Times of batches in seconds, by batch size."""

    host_s: dict[int, list[float]]
    """On the host."""
    way_s: dict[int, list[float]]
    """On the way to the host and back."""


async def time_host(
    host: Connection, model: Model, sizes: Sequence[int], pause: Pause, within_s: float
) -> Timings:
    """Time batches of these sizes on a host.

    After `within_s`, no more than `MIN_TIMINGS` of each size are made. Raises `HostLost` or
    `BatchFailed` if the host goes away or cannot run a batch.
    """
    timings = Timings({size: [] for size in sizes}, {size: [] for size in sizes})
    deadline = time.monotonic() + within_s
    for round_ in range(1 + TIMINGS):
        if round_ > MIN_TIMINGS and time.monotonic() > deadline:
            break
        for size in sizes:
            await pause(PAUSE_S)
            start = time.monotonic()
            result = await host.run(zero_batch(model, size))
            if round_:  # the first round is a warm-up
                timings.host_s[size].append(result.compute_s)
                timings.way_s[size].append(time.monotonic() - start - result.compute_s)
    return timings
