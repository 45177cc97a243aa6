"""Could everyone be in time with one more request? Asked before it is queued."""

from __future__ import annotations

import math
from collections.abc import Sequence

from serving.routing.policy.state import VariantState


def lateness_s(
    candidates: Sequence[VariantState], ahead: float, size: int, left_s: float, cores: float
) -> float:
    """Return by how much `size` samples behind `ahead` others miss a deadline `left_s` away.

    Not above 0 if they are in time: one batch may do for all. If not, the fastest variants work
    off what is ahead, as many of them at a time as there are cores.

    They are taken to run batches that fill half of the `left_s` there is, as in Nexus (SOSP'19):
    the other half is for waiting. Reckoned with the throughput of larger batches and the latency
    of smaller ones, more would be let in than can be served, and nearly all would be late.
    """
    together = math.ceil(ahead) + size
    if any(
        together <= each.max_batch and each.free_in_s + each.times.typical_s(together) <= left_s
        for each in candidates
    ):
        return -math.inf
    rates = []
    for candidate in candidates:
        batch = max(size, candidate.fits(candidate.max_batch, left_s / 2))
        rates.append((batch / candidate.times.typical_s(batch), batch, candidate))
    rates.sort(key=lambda each: -each[0])
    working, round_samples, samples_per_s = 0.0, 0.0, 0.0
    for each_per_s, batch, candidate in rates:
        slots = min(candidate.slots, cores)
        cores -= slots
        working += slots
        round_samples += slots * batch
        samples_per_s += slots * each_per_s
        if cores <= 0:
            break
    # Whole rounds: whoever just misses a batch waits for all of the next. Then one batch more.
    rounds, rest = divmod(ahead + size, round_samples)
    if not rest:
        rounds, rest = rounds - 1, round_samples
    # The rest is split over the slots, but a request is not: one batch holds all of its samples.
    last_size = max(size, math.ceil(rest / working))
    last_s = min(
        candidate.free_in_s + candidate.times.typical_s(last_size) for _, _, candidate in rates
    )
    return rounds * round_samples / samples_per_s + last_s - left_s
