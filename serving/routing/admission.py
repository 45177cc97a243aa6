"""Admission control: estimates how late a request would be if it were admitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import itemgetter

from serving.routing.policy.state import VariantState


def is_in_time(variants: Sequence[VariantState], samples: int, left_s: float) -> bool:
    """Return whether one batch of a variant can hold these samples and ends within `left_s`.

    Then one with fewer samples, or with more time, is in time as well.
    """
    for variant in variants:
        if (
            samples <= variant.max_batch
            and variant.free_in_s + variant.times.typical_s(samples) <= left_s
        ):
            return True
    return False


def lateness_s(
    variants: Sequence[VariantState], ahead: float, size: int, left_s: float, cores: float
) -> float:
    """Return how late a request of `size` samples would be, in seconds; at most 0 if in time.

    `ahead` samples are served before it, and its deadline is `left_s` away. If one batch can hold
    all of these samples and is in time, the request is in time. Otherwise the fastest variants
    serve the samples ahead, as many at a time as there are `cores`.

    They are assumed to run batches of `VariantState.sustainable_batch`. An estimate with the
    throughput of larger batches and the latency of smaller ones would admit more requests than can
    be served, and nearly all would be late.
    """
    if is_in_time(variants, math.ceil(ahead) + size, left_s):
        return -math.inf
    throughputs = []  # samples per second of a slot with batches of a size, that size, slots
    for variant in variants:
        batch = max(size, variant.sustainable_batch(left_s))
        throughputs.append((batch / variant.times.typical_s(batch), batch, variant.slots))
    throughputs.sort(key=itemgetter(0), reverse=True)
    used_slots, round_samples, samples_per_s = 0.0, 0.0, 0.0
    for slot_samples_per_s, batch, own_slots in throughputs:
        slots = min(own_slots, cores)
        cores -= slots
        used_slots += slots
        round_samples += slots * batch
        samples_per_s += slots * slot_samples_per_s
        if cores <= 0:
            break
    # Count whole rounds: a request that just misses a batch waits for the whole next one. The last
    # batch comes after them.
    rounds, rest = divmod(ahead + size, round_samples)
    if not rest:
        rounds, rest = rounds - 1, round_samples
    # The rest is split over the slots, but a request is not: one batch holds all of its samples.
    last_size = max(size, math.ceil(rest / used_slots))
    last_s = min([each.free_in_s + each.times.typical_s(last_size) for each in variants])
    return rounds * round_samples / samples_per_s + last_s - left_s
