"""The SlackFit policy of SuperServe (Khare et al., NSDI'25).

Latencies from that of the quickest variant at batch 1 to that of the slowest at the largest batch
fall into evenly spaced buckets, each with the (variant, batch) of the largest batch in it; taken is
the bucket below the slack of the head, and closest to it. Earliest deadlines fill the batch.
Adapted: latencies are the live quantiles, so buckets are made at each decision; only variants with
a free slot (see `max_acc`) and batches that the queue can fill; where two are as large, the better.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from serving.routing.policy.baselines.edf import Turn, earliest_first, quickest
from serving.routing.policy.state import Decision, RouterState, VariantState

BUCKETS: Final = 64
"""The paper's text names no number. One of these is about what a sample more takes, of up to 64."""


def slack_fit(state: RouterState) -> Decision:
    """Decide what to do next; call again until the answer is `Wait`."""
    return earliest_first(state, _choose)


def _choose(turn: Turn) -> Decision:
    startable = turn.startable()
    if not startable:
        return turn.wait_for(*turn.usable)
    lowest_s = min(each.times.within_s(1) for each in turn.alive)
    highest_s = max(each.times.within_s(each.max_batch) for each in turn.alive)
    width_s = max(highest_s - lowest_s, lowest_s) / BUCKETS
    best: tuple[tuple[int, int], VariantState] | None = None
    for candidate in startable:
        for size in _sizes(candidate, turn):
            latency_s = candidate.times.within_s(size)
            if latency_s > turn.left_s:
                break
            rank = (int((latency_s - lowest_s) / width_s), size)
            if best is None or rank > best[0]:
                best = rank, candidate
    if best is None:
        chosen = quickest(startable, turn.head.size)
        return turn.send(chosen, turn.largest(chosen), "slack_fit")
    (_, size), chosen = best
    return turn.send(chosen, size, "slack_fit")


def _sizes(candidate: VariantState, turn: Turn) -> Iterator[int]:
    """Yield the powers of two that what waits can fill, and all that waits, up to the largest."""
    most = min(turn.samples(candidate), candidate.max_batch)
    size = 1
    while size < most:
        if size >= turn.head.size:
            yield size
        size *= 2
    yield max(most, turn.head.size)
