"""Could one more request still be in time? Asked before it is queued."""

from __future__ import annotations

import math
from collections.abc import Sequence

from serving.policy.situation import Candidate


def time_needed_s(candidates: Sequence[Candidate], ahead: float, size: int, left_s: float) -> float:
    """Return how long a request of `size` samples takes behind `ahead` others.

    All of the variants work off what is ahead.

    They are taken to run batches that fill half of the `left_s` there is, as in Nexus (SOSP'19):
    the other half is for waiting. Reckoned with the throughput of larger batches and the latency
    of smaller ones, more would be let in than can be served, and nearly all would be late.
    """
    round_samples, samples_per_s, last_s = 0, 0.0, math.inf
    for candidate in candidates:
        batch = candidate.max_batch
        while batch > size and candidate.predict_s(batch) > left_s / 2:
            batch //= 2
        batch = max(batch, size)
        batch_s = candidate.predict_s(batch)
        round_samples += candidate.slots * batch
        samples_per_s += candidate.slots * batch / batch_s
        last_s = min(last_s, candidate.free_in_s + batch_s)
    # Whole rounds: whoever just misses a batch waits for all of the next.
    return math.ceil(ahead / round_samples) * round_samples / samples_per_s + last_s
