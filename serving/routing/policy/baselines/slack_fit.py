"""The SlackFit policy of SuperServe (Khare et al., NSDI'25).

Evenly spaced buckets cover the latencies from the fastest variant at batch 1 to the slowest at the
largest batch. Each bucket has the (variant, batch) with the largest batch in it. The policy takes
the bucket that is closest below the slack of the head, and fills the batch by earliest deadline.
Adapted: latencies are the current quantiles, so buckets are made at each decision; only variants
with a free slot (see `max_acc`) and batches that the queue can fill; of equal batches the more
accurate variant.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from serving.routing.policy.baselines.edf import LaneTurn, earliest_first, fastest_typical
from serving.routing.policy.state import Decision, RouterState, VariantState

BUCKETS: Final = 64
"""Number of buckets. The paper gives none. With batches of up to 64 samples, the width of a bucket
is about the time of one more sample."""


def slack_fit(state: RouterState) -> Decision:
    """Decide what to do next; call again until the decision is `Wait`."""
    return earliest_first(state, _choose)


def _choose(turn: LaneTurn) -> Decision:
    startable = turn.startable()
    if not startable:
        return turn.wait_for(*turn.usable)
    lowest_s = min(each.times.within_s(1) for each in turn.live)
    highest_s = max(each.times.within_s(each.max_batch) for each in turn.live)
    width_s = max(highest_s - lowest_s, lowest_s) / BUCKETS
    best: VariantState | None = None
    best_bucket, best_size = 0, 0
    for variant in startable:
        for size in _sizes(variant, turn):
            latency_s = variant.times.within_s(size)
            if latency_s > turn.left_s:
                break
            bucket = int((latency_s - lowest_s) / width_s)
            if best is None or (bucket, size) > (best_bucket, best_size):
                best, best_bucket, best_size = variant, bucket, size
    if best is None:
        best = fastest_typical(startable, turn.head.size)
        best_size = turn.largest_batch(best)
    return turn.send(best, best_size, "slack_fit")


def _sizes(variant: VariantState, turn: LaneTurn) -> Iterator[int]:
    """Yield the batch sizes to consider: powers of two below the queued samples, and all of them.

    The sizes are at least that of the head.
    """
    largest = min(turn.samples(variant), variant.max_batch)
    size = 1
    while size < largest:
        if size >= turn.head.size:
            yield size
        size *= 2
    yield max(largest, turn.head.size)
