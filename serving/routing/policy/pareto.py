"""The default policy: of all batches that can be sent now, the one with the highest value.

The lane that is due first is served first. All its requests go together if they can be in time:
that empties the queue, and the next batch is small again. The value of a batch (`lookahead`) counts
its requests, those that wait, and future ones. So a more accurate variant is used where its gain
exceeds the risk, and accuracy is reduced before requests are shed. If misses are expected, the
policy also considers other lanes, smaller batches, and batches without the requests that would be
late anyway and would only force smaller batches on the others (early drop of Nexus, SOSP'19).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from serving.routing.policy.lookahead import (
    MAX_TIME_RATIO,
    NEGLIGIBLE_MISSES,
    CandidateBatch,
    CandidateBatches,
    best_batch,
)
from serving.routing.policy.no_deadline import is_overdue, serve_without_deadline
from serving.routing.policy.queue_view import QueueView, preferred_variant
from serving.routing.policy.state import (
    Decision,
    Dispatch,
    Drop,
    Lane,
    QueueOrder,
    RouterState,
    VariantState,
    Wait,
)

TOLERATED_LOSS: Final = 0.05
"""Expected loss, in correct answers, up to which only full batches of one lane are considered."""

MAX_LANES_TO_TRY: Final = 2
"""Maximum number of lanes that are considered if the first one has an expected loss."""

AMPLE_SLACK_RATIO: Final = 12.0
"""Slack, as a multiple of the typical time of a batch, that is enough for the batch and for the
next one with a wide margin."""

AT_RISK_PROBABILITY: Final = 0.5
"""Probability of a miss above which the reason of a batch is "at risk"."""


def pareto(state: RouterState) -> Decision:
    """Decide what to do next; call again until the decision is `Wait`."""
    now, until = state.now, math.inf
    lanes = sorted(state.lanes, key=_first_order)
    view = QueueView(lanes, state)
    without_deadline = [lane for lane in lanes if not lane.key.has_deadline]
    for lane in without_deadline:
        if is_overdue(lane, state):
            decision = serve_without_deadline(lane, lanes, state)
            if isinstance(decision, Dispatch):
                return decision
    for lane in lanes:
        if not lane.key.has_deadline:
            continue
        qualifying = view.live_variants(lane)
        if _is_unattainable(lane, qualifying, state):
            return Drop(lane)
        if not any(map(_free_slots, qualifying)):
            until = min(until, lane.requests[0].deadline)
            continue
        preferred = preferred_variant(lane, qualifying)
        if len(lanes) == 1 and _has_ample_slack(lane, preferred, state):
            return _send_all(lane, preferred)
        best = _best_batch(CandidateBatches(lane, view))
        if best.loss > TOLERATED_LOSS and best.variant.free_slots:
            best = _best_of_lanes(best, lanes, view)
        if best.variant.free_slots:
            return _dispatch(best, lanes, state)
        until = min(until, now + best.variant.free_in_s)
    for lane in without_deadline:
        decision = serve_without_deadline(lane, lanes, state)
        if isinstance(decision, Dispatch):
            return decision
        until = min(until, decision.until)
    return Wait(until)


def _is_unattainable(lane: Lane, qualifying: Sequence[VariantState], state: RouterState) -> bool:
    """Return whether no variant can answer the first request in time even in the best case."""
    first = lane.requests[0]
    left_s = first.deadline - state.now
    if not qualifying:
        return left_s <= 0
    # The time until a slot is free is only an estimate, so it does not count: no request is
    # dropped because of an estimate.
    return not any(each.best_case_s(first.size) <= left_s for each in qualifying)


def _has_ample_slack(lane: Lane, preferred: VariantState, state: RouterState) -> bool:
    """Return whether the preferred variant can serve all requests far ahead of all deadlines."""
    if not preferred.free_slots or lane.samples > preferred.max_batch:
        return False
    typical_s = preferred.times.typical_s(lane.samples)
    left_s = lane.requests[0].deadline - state.now
    return (
        left_s > AMPLE_SLACK_RATIO * typical_s
        and state.expected_misses(MAX_TIME_RATIO * typical_s) < NEGLIGIBLE_MISSES
    )


def _send_all(lane: Lane, preferred: VariantState) -> Dispatch:
    size = lane.samples
    predicted_s = preferred.times.within_s(size)
    return Dispatch(preferred.name, ((lane, len(lane.requests)),), size, predicted_s, "preferred")


def _best_batch(batches: CandidateBatches) -> CandidateBatch:
    """Return the best batch of a lane; consider smaller batches only if a loss is expected."""
    full = list(batches.full_batches())
    best = best_batch(full)
    if best.loss > TOLERATED_LOSS:
        best = best_batch([*full, *batches.smaller_batches()])
    return best


def _best_of_lanes(best: CandidateBatch, lanes: Sequence[Lane], view: QueueView) -> CandidateBatch:
    """Return a clearly better batch of another lane, or `best` if there is none."""
    with_deadline = [lane for lane in lanes if lane.key.has_deadline]
    for lane in with_deadline[:MAX_LANES_TO_TRY]:
        qualifying = view.live_variants(lane)
        is_other = lane is not best.lane and qualifying
        if is_other and not _is_unattainable(lane, qualifying, view.state):
            other = best_batch(list(CandidateBatches(lane, view).full_batches()))
            if other.value > best.value + TOLERATED_LOSS and other.variant.free_slots:
                best = other
    return best


def _dispatch(best: CandidateBatch, lanes: Sequence[Lane], state: RouterState) -> Dispatch:
    """Fill the batch up with requests of other lanes that prefer the same variant."""
    lane, chosen = best.lane, best.variant
    taken = lane.requests[best.skip : best.skip + best.taken]
    size = sum(request.size for request in taken)
    counts = [(lane, best.taken)]
    earliest = taken[0].deadline
    tolerated = state.expected_misses(chosen.times.typical_s(size)) + TOLERATED_LOSS
    for other in lanes:
        if not _can_share(other, lane, chosen, state):
            continue
        count = 0
        for request in other.requests:
            filled = size + request.size
            deadline = min(earliest, request.deadline)
            if (
                filled > chosen.max_batch
                or state.now + chosen.times.within_s(filled) > deadline
                or state.expected_misses(chosen.times.typical_s(filled)) > tolerated
            ):
                break
            size, earliest, count = filled, deadline, count + 1
        if count:
            counts.append((other, count))
    predicted_s = chosen.times.within_s(size)
    reason = _reason(best, taken[0].deadline - state.now, size)
    return Dispatch(chosen.name, tuple(counts), size, predicted_s, reason, best.skip)


def _reason(best: CandidateBatch, left_s: float, size: int) -> str:
    if best.variant.times.miss_probability(size, left_s) > AT_RISK_PROBABILITY:
        return "at risk"
    if best.rank == 0:
        return "preferred"
    return "behind" if best.taken < len(best.lane.requests) else "in time"


def _can_share(other: Lane, lane: Lane, variant: VariantState, state: RouterState) -> bool:
    """Return whether requests of another lane can join a batch and prefer no other variant."""
    key = other.key
    if other is lane or key.signature != lane.key.signature or key.fastest_first:
        return False
    if key.variants[0] == variant.name:
        return True
    first = state.variants.get(key.variants[0])
    return (
        first is not None
        and first.accuracy == variant.accuracy
        and variant.name in key.variants
        and not key.cheapest_first
    )


_free_slots = attrgetter("free_slots")


def _first_order(lane: Lane) -> QueueOrder:
    return lane.requests[0].order
