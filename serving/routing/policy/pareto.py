"""Our policy: of all batches that could be sent now, the one that is worth most.

Those due first go first. All that wait go together if they can be in time: that clears the queue,
and the next batch is small again. What it is worth (serving/routing/policy/lookahead.py) counts the batch,
those that wait on, and those yet to come: so a better variant is used where its gain exceeds the
risk, and the choice degrades before anyone is shed. Where somebody is expected to be late, smaller
batches are looked at, other lanes, and batches without those that are lost already and would only
force smaller ones on the others (early drop of Nexus, SOSP'19).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from serving.routing.policy.lookahead import (
    CERTAIN,
    NEGLIGIBLE,
    CandidateBatch,
    CandidateBatches,
    QueueView,
)
from serving.routing.policy.no_deadline import is_overdue, serve_patiently
from serving.routing.policy.state import (
    Decision,
    Dispatch,
    Drop,
    Lane,
    RouterState,
    VariantState,
    Wait,
)

TOLERATED: Final = 0.05
"""Requests that may be expected late before anything but the plainest is looked at."""

LANES_TO_TRY: Final = 2
"""So many lanes are tried where the first would make somebody late."""

AMPLE: Final = 12.0
"""So many times as long as is typical: time enough for a batch, for the next, and to spare."""

EXPLORE_AFTER_S: Final = 10.0
"""A variant that was not seen for so long is tried, where nobody can come to harm by it."""

EXPLORE_SLACK: Final = 5.0
"""That is: where it may take so many times as long as expected."""

AT_RISK: Final = 0.5
"""A batch is called so if it is likelier late than this."""


def pareto(state: RouterState) -> Decision:
    """Decide what to do next; call again until the answer is `Wait`."""
    now, until = state.now, math.inf
    lanes = sorted(state.lanes, key=_first_order)
    view = QueueView(lanes, state)
    patient = [lane for lane in lanes if not lane.key.has_deadline]
    for lane in patient:
        if is_overdue(lane, state):
            decision = serve_patiently(lane, lanes, state)
            if isinstance(decision, Dispatch):
                return decision
    for lane in lanes:
        if not lane.key.has_deadline:
            continue
        qualifying = view.alive(lane)
        if _is_hopeless(lane, qualifying, state):
            return Drop(lane)
        if not any(each.free_slots for each in qualifying):
            until = min(until, lane.requests[0].deadline)
            continue
        explored = _explore(lane, qualifying, state)
        if explored is not None:
            return explored
        if len(lanes) == 1 and _is_plain(lane, qualifying[0], state):
            return _send_all(lane, qualifying[0])
        best = _best(CandidateBatches(lane, view))
        if best.loss > TOLERATED and best.candidate.free_slots:
            best = _better(best, lanes, view)
        if best.candidate.free_slots:
            return _dispatch(best, lanes, state)
        until = min(until, now + best.candidate.free_in_s)
    for lane in patient:
        decision = serve_patiently(lane, lanes, state)
        if isinstance(decision, Dispatch):
            return decision
        until = min(until, decision.until)
    return Wait(until)


def _is_hopeless(lane: Lane, qualifying: Sequence[VariantState], state: RouterState) -> bool:
    """Return whether no variant can answer the lane's first request in time, even at best."""
    first = lane.requests[0]
    left_s = first.deadline - state.now
    if not qualifying:
        return left_s <= 0
    # When a busy one is free is a guess; nobody is given up for a guess.
    return not any(each.best_case_s(first.size) <= left_s for each in qualifying)


def _is_plain(lane: Lane, preferred: VariantState, state: RouterState) -> bool:
    """Return whether all can go to the best variant: nobody is anywhere near a deadline."""
    if not preferred.free_slots or lane.samples > preferred.max_batch:
        return False
    typical_s = preferred.times.typical_s(lane.samples)
    left_s = lane.requests[0].deadline - state.now
    return left_s > AMPLE * typical_s and state.expected_misses(CERTAIN * typical_s) < NEGLIGIBLE


def _send_all(lane: Lane, preferred: VariantState) -> Dispatch:
    size = lane.samples
    predicted_s = preferred.times.within_s(size)
    return Dispatch(preferred.name, ((lane, len(lane.requests)),), size, predicted_s, "preferred")


def _best(options: CandidateBatches) -> CandidateBatch:
    """Return what is best to do with a lane; smaller batches only where somebody is late."""
    best = max(options.whole(), key=_value)
    if best.loss > TOLERATED:
        best = max([best, *options.parts()], key=_value)
    return best


def _better(best: CandidateBatch, lanes: Sequence[Lane], view: QueueView) -> CandidateBatch:
    """Return what is better to do with another lane, if anything is: this one may be lost."""
    urgent = [lane for lane in lanes if lane.key.has_deadline]
    for lane in urgent[:LANES_TO_TRY]:
        qualifying = view.alive(lane)
        is_other = lane is not best.lane and qualifying
        if is_other and not _is_hopeless(lane, qualifying, view.state):
            other = max(CandidateBatches(lane, view).whole(), key=_value)
            if other.value > best.value + TOLERATED and other.candidate.free_slots:
                best = other
    return best


def _explore(lane: Lane, qualifying: Sequence[VariantState], state: RouterState) -> Dispatch | None:
    """Try a variant that was not seen lately on a lone request that can well afford it."""
    if (
        lane.key.fastest_first
        or len(state.lanes) > 1
        or len(lane.requests) > 1
        or state.free_cores < 1
    ):
        return None
    size, left_s = lane.samples, lane.requests[0].deadline - state.now
    for candidate in qualifying[1:]:
        if candidate.since_last_batch_s > EXPLORE_AFTER_S and candidate.free_slots:
            predicted_s = candidate.times.within_s(size)
            held_s = EXPLORE_SLACK * predicted_s
            if held_s <= left_s and state.expected_misses(held_s) < NEGLIGIBLE:
                return Dispatch(candidate.name, ((lane, 1),), size, predicted_s, "exploring")
    return None


def _dispatch(best: CandidateBatch, lanes: Sequence[Lane], state: RouterState) -> Dispatch:
    """Fill the batch up with requests that would get this variant anyway."""
    lane, chosen = best.lane, best.candidate
    taken = lane.requests[best.skip : best.skip + best.taken]
    size = sum(request.size for request in taken)
    counts = [(lane, best.taken)]
    tightest = taken[0].deadline
    lost = state.expected_misses(chosen.times.typical_s(size)) + TOLERATED
    for other in lanes:
        if not _shares(other, lane, chosen):
            continue
        count = 0
        for request in other.requests:
            more = size + request.size
            deadline = min(tightest, request.deadline)
            if (
                more > chosen.max_batch
                or state.now + chosen.times.within_s(more) > deadline
                or state.expected_misses(chosen.times.typical_s(more)) > lost
            ):
                break
            size, tightest, count = more, deadline, count + 1
        if count:
            counts.append((other, count))
    predicted_s = chosen.times.within_s(size)
    why = _why(best, taken[0].deadline - state.now, size)
    return Dispatch(chosen.name, tuple(counts), size, predicted_s, why, best.skip)


def _why(best: CandidateBatch, left_s: float, size: int) -> str:
    if best.candidate.times.miss_probability(size, left_s) > AT_RISK:
        return "at risk"
    if best.rank == 0:
        return "preferred"
    return "behind" if best.taken < len(best.lane.requests) else "in time"


def _shares(other: Lane, lane: Lane, candidate: VariantState) -> bool:
    return (
        other is not lane
        and other.key.signature == lane.key.signature
        and other.key.variants[0] == candidate.name
        and not other.key.fastest_first
    )


def _value(option: CandidateBatch) -> float:
    return option.value


def _first_order(lane: Lane) -> tuple[float, int, int]:
    return lane.requests[0].order
