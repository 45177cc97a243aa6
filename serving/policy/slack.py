"""The slack policy: the most accurate variant that is still in time, for all that wait.

Earliest deadline first, after SlackFit (SuperServe, NSDI'25, section 5), for variants that differ
and for requests that differ in which variants will do:

1. Look at the request that is due first. Its slack is the time left until its deadline.
2. Take its variants in the order it prefers them, and ask of each: if this variant alone worked
   off the lane in the largest batches that the slack allows, would every request be in time?
   The first that can is chosen. If it is busy, the lane waits for it: it will be in time.
3. Where a better variant was passed over, only the requests up to the first one that it would
   have made late are sent: the others may still get it.
4. If none can serve the whole lane in time, the lane is behind: the free variant that clears it
   fastest and is still in time for the first request takes all it can (degrade before shed).
5. If not even the best case of any variant is in time, the first request is dropped.

Batches grow as the queue does, and shrink to what the slack of the first request allows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import attrgetter

from serving.policy.situation import Candidate, Decision, Dispatch, Drop, Lane, Wait

CHECKPOINTS = 8
"""How many batches of a lane are looked at, at most: a decision stays cheap however long it is."""


def slack(lanes: Sequence[Lane], candidates: Mapping[str, Candidate], now: float) -> Decision:
    """Decide what to do next; call again until the answer is `Wait`."""
    until = math.inf
    for lane in sorted(lanes, key=_first_order):
        qualifying = _preferred(lane, candidates)
        if not qualifying:
            until = min(until, lane.requests[0].deadline)
            if lane.requests[0].deadline <= now:
                return Drop(lane)
            continue
        decision = _decide(lane, qualifying, lanes, now)
        if not isinstance(decision, Wait):
            return decision
        until = min(until, decision.until)
    return Wait(until)


def _first_order(lane: Lane) -> tuple[float, int, int]:
    return lane.requests[0].order


def _preferred(lane: Lane, candidates: Mapping[str, Candidate]) -> list[Candidate]:
    alive = [candidates[name] for name in lane.key.variants if name in candidates]
    if lane.key.fastest_first:
        alive.sort(key=lambda candidate: candidate.free_in_s + candidate.predict_s(1))
    return alive


def _decide(
    lane: Lane, qualifying: Sequence[Candidate], lanes: Sequence[Lane], now: float
) -> Decision:
    first = lane.requests[0]
    left_s = first.deadline - now

    reach = 0
    for rank, candidate in enumerate(qualifying):
        late_at = _first_late(lane, candidate, now)
        if late_at is None:
            if not candidate.free_slots:
                latest = first.deadline - candidate.predict_s(first.size)
                return Wait(max(latest, now + candidate.free_in_s))
            limit = len(lane.requests) if rank == 0 else reach
            why = "preferred" if rank == 0 else "in time"
            return _dispatch(lane, candidate, limit, lanes, now, why)
        reach = max(reach, late_at + 1)

    everyone = len(lane.requests)
    free = [candidate for candidate in qualifying if candidate.free_slots]
    in_time = [candidate for candidate in free if candidate.predict_s(first.size) <= left_s]
    if in_time:
        quickest = max(in_time, key=lambda candidate: _rate(candidate, left_s))
        return _dispatch(lane, quickest, everyone, lanes, now, "behind")
    soon = [
        candidate
        for candidate in qualifying
        if candidate.free_in_s + candidate.predict_s(first.size) <= left_s
    ]
    if soon:
        return Wait(now + min(map(attrgetter("free_in_s"), soon)))
    hopeful = [
        candidate
        for candidate in qualifying
        if candidate.free_in_s + candidate.idle_s(first.size) <= left_s
    ]
    if not hopeful:
        return Drop(lane)
    quickest = min(
        hopeful, key=lambda candidate: candidate.free_in_s + candidate.idle_s(first.size)
    )
    if not quickest.free_slots:
        return Wait(now + quickest.free_in_s)
    return _dispatch(lane, quickest, 1, lanes, now, "at risk")


def _first_late(lane: Lane, candidate: Candidate, now: float) -> int | None:
    """Return the place of the first request that would be late if this variant took the lane."""
    requests = lane.requests
    if math.isinf(requests[0].deadline):
        return None  # a lane's requests all have a deadline, or none has
    size = _largest_in_time(candidate, lane.samples, requests[0].deadline - now)
    size = max(size, requests[0].size)
    count = max(1, size * len(requests) // lane.samples)
    batches = -(-len(requests) // count)
    full_s = candidate.predict_s(size)
    start = now + candidate.free_in_s
    stride = -(-batches // CHECKPOINTS)
    for batch in range(0, batches, stride):
        if start + (batch + 1) * full_s > requests[batch * count].deadline:
            return batch * count
    return None


def _largest_in_time(candidate: Candidate, samples: int, left_s: float) -> int:
    """Return the largest batch, of at most `samples`, that this variant answers within `left_s`.

    All of them, or a power of two: those are the sizes that latencies are known for.
    """
    left_s -= candidate.free_in_s
    size = min(candidate.max_batch, samples)
    while size > 1 and candidate.predict_s(size) > left_s:
        size = 1 << (size - 1).bit_length() - 1
    return size


def _rate(candidate: Candidate, left_s: float) -> float:
    size = _largest_in_time(candidate, candidate.max_batch, left_s)
    return size / candidate.predict_s(size)


def _dispatch(
    lane: Lane, candidate: Candidate, limit: int, lanes: Sequence[Lane], now: float, why: str
) -> Dispatch:
    """Fill a batch from the lane; requests that would get this variant anyway ride along."""
    size = 0
    room = candidate.max_batch
    counts = []
    guests = [other for other in lanes if _shares(other, lane, candidate)]
    for source, most in ((lane, limit), *((guest, len(guest.requests)) for guest in guests)):
        left_s = source.requests[0].deadline - now
        fits = min(room, _largest_in_time(candidate, candidate.max_batch, left_s))
        count = 0
        for request in source.requests[:most]:
            if size + request.size > fits and size:
                break
            size += request.size
            count += 1
        if count:
            room = fits
            counts.append((source, count))
    return Dispatch(candidate.name, tuple(counts), size, candidate.predict_s(size), why)


def _shares(other: Lane, lane: Lane, candidate: Candidate) -> bool:
    return (
        other is not lane
        and other.key.signature == lane.key.signature
        and other.key.variants[0] == candidate.name
        and not other.key.fastest_first
    )
