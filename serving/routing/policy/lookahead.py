"""What can be done with one lane now, and what each possibility is worth.

    value(variant, b) = accuracy x expected in time(b)             of the batch itself
                      + accuracy of the next x in time(rest)       of those that wait on
                      + (accuracy of the next - that of late) x arrivals while it runs
                      - accuracy of the fastest x losses           of those yet to come

One step of lookahead, where the time that a batch takes is priced by what arrives in it: the
relative value of an average-reward decision process (Puterman, Markov Decision Processes, 8.4).
The utility of a batch is SuperServe's (NSDI'25, section 4.1), its best case an expectation here.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import Final, NamedTuple, TypeAlias

from serving.routing.policy.state import Lane, LaneKey, RouterState, VariantState, drain_time_s

RANK_COST: Final = 1e-3
"""What a step down in a lane's preference costs where that is not by accuracy."""

NEGLIGIBLE: Final = 1e-4
"""Expected requests; a decision does not turn on less."""

CERTAIN: Final = 6.0
"""Hardly any batch takes so many times as long as is typical."""

HELD: Final = ((0.8, 0.5), (0.17, 0.9), (0.03, 0.99))
"""How long a core may be held: shares, and the quantiles that stand for them."""

OVERLOAD: Final = (0.9, 1.1)
"""Arrivals, in what the fastest can serve, from which and at which there is not time for all."""

SPLIT_COST: Final = 0.05
"""What it costs to leave some for another batch, in answers in time."""

VARIANTS_TO_SPLIT: Final = 2
"""The quickest so many are looked at with smaller batches."""

STAY: Final = 0.002
"""What it is worth, by request, to stay with the variant of the last batch: it does not flap."""

GROWTH: Final = 2
MOST_GROUPS: Final = 6
"""Those that wait are looked at in groups, each so many times as large as those before it."""

OTHER_LANES: Final = 3
"""Other lanes that are looked at, those due first: a decision stays cheap."""


class CandidateBatch(NamedTuple):
    """A batch that could be sent, or waited for."""

    value: float
    loss: float
    """How much less that is than if everyone were in time by this variant."""
    lane: Lane
    candidate: VariantState
    rank: int
    """Place of the candidate among those that qualify."""
    size: int
    taken: int
    """Requests, from the one at `skip` on."""
    skip: int


Group: TypeAlias = tuple[int, float, float, float]
"""Requests that wait, the time left for all up to them, what the fastest needs for those, and what
one is worth."""

_deadline = attrgetter("deadline")


def alive(lane: Lane, state: RouterState) -> list[VariantState]:
    """Return the variants of a lane that are alive, best first by its preference."""
    candidates = state.candidates
    found = [candidates[name] for name in lane.key.variants if name in candidates]
    if lane.key.fastest_first:
        found.sort(key=lambda candidate: candidate.free_in_s + candidate.times.within_s(1))
    return found


def fastest(candidates: Sequence[VariantState], size: int) -> VariantState:
    """Return the variant that is quickest with a batch of `size` samples."""
    return min(candidates, key=lambda each: each.times.typical_s(min(size, each.max_batch)))


class QueueView:
    """What waits in all lanes, looked at once for all options of a decision."""

    def __init__(self, lanes: Sequence[Lane], state: RouterState) -> None:
        """`lanes` are all, those due first."""
        self.state = state
        self._lanes = [lane for lane in lanes if lane.key.has_deadline]
        self._alive: dict[LaneKey, list[VariantState]] = {}
        self._groups: dict[LaneKey, list[Group]] = {}

    def alive(self, lane: Lane) -> list[VariantState]:
        """Return the variants of a lane that are alive, best first by its preference."""
        found = self._alive.get(lane.key)
        if found is None:
            found = self._alive[lane.key] = alive(lane, self.state)
        return found

    def others(self, lane: Lane) -> list[Group]:
        """Return what other lanes hold, those due first, as it would be served in turn."""
        found: list[Group] = []
        before_s, seen = 0.0, 0
        for other in self._lanes:
            if other is not lane and seen < OTHER_LANES and self.alive(other):
                seen += 1
                groups = self._whole(other)
                found += [(n, left_s, more_s + before_s, w) for n, left_s, more_s, w in groups]
                before_s += groups[-1][2]
        return found

    def _whole(self, lane: Lane) -> list[Group]:
        groups = self._groups.get(lane.key)
        if groups is None:
            able = self.alive(lane)
            worth = max(each.accuracy for each in able)
            quickest = fastest(able, lane.samples)
            groups = list(groups_of(lane, 0, quickest, self.state.now, worth))
            self._groups[lane.key] = groups
        return groups


class CandidateBatches:
    """The batches that a lane could be served with."""

    def __init__(self, lane: Lane, view: QueueView) -> None:
        """Raises `ValueError` if none of the lane's variants is alive."""
        state, qualifying = view.state, view.alive(lane)
        if not qualifying:
            raise ValueError(f"none of {', '.join(lane.key.variants)} is alive")
        self._lane = lane
        self._state = state
        self._qualifying = qualifying
        self._requests = lane.requests
        self._count = len(lane.requests)
        self._mean_size = lane.samples / self._count
        self._allowance_s = lane.requests[0].deadline - lane.requests[0].arrived
        self._worth = [each.accuracy for each in qualifying]
        self._recent_accuracy = state.recent_accuracy
        if any(b > a for a, b in zip(self._worth, self._worth[1:], strict=False)):
            self._worth = [1 - RANK_COST * rank for rank in range(len(qualifying))]
            self._recent_accuracy = 1.0
        self._fast = fastest(qualifying, lane.samples)
        self._fast_worth = self._worth[qualifying.index(self._fast)]
        self._sensible = _sensible(qualifying, lane.samples)
        self._others = view.others(lane)
        self._others_worth = sum(number * worth for number, _, _, worth in self._others)
        self._rests: dict[int, list[Group]] = {}
        self._overload, self._price_per_s = self._scarcity()

    def _scarcity(self) -> tuple[float, float]:
        """Return how sure it is that there is not time for all, and what a second is worth then.

        Then it is no longer asked whom to serve, but how many a second.
        """
        low, high = OVERLOAD
        overload = min(1.0, max(0.0, (self._state.load - low) / (high - low)))
        if not overload:
            return 0.0, 0.0
        fast = self._fast
        size = fast.fits(fast.max_batch, self._allowance_s / 2)
        return overload, overload * self._fast_worth * size / fast.times.typical_s(size)

    def whole(self) -> Iterator[CandidateBatch]:
        """Yield, by variant, the batch of all that wait, or of those that cannot wait longer."""
        requests, now = self._requests, self._state.now
        for rank, candidate in self._sensible:
            size, taken = self._most(candidate)
            yield self._option(rank, candidate, size, taken, 0)
            if rank:
                pressing = bisect_left(requests, 2 * requests[0].deadline - now, key=_deadline)
                if 0 < pressing < taken:
                    yield self._option(rank, candidate, self._samples(pressing), pressing, 0)

    def parts(self) -> Iterator[CandidateBatch]:
        """Yield smaller batches, and those that leave out who would be late anyway."""
        requests, now = self._requests, self._state.now
        left_s = requests[0].deadline - now
        for rank, candidate in self._sensible[-VARIANTS_TO_SPLIT:]:
            if not candidate.free_slots:
                continue
            times = candidate.times
            most, most_taken = self._most(candidate)
            size = most
            while size:
                taken, cost = most_taken, 0.0
                if size < most:
                    taken, cost = min(taken, self._requests_in(size)), SPLIT_COST
                    if requests[0].size <= size and times.typical_s(size) < left_s:
                        yield self._option(rank, candidate, size, taken, 0, cost)
                within_s = times.within_s(size)
                if within_s > left_s:
                    skip = bisect_left(requests, now + within_s, key=_deadline)
                    if skip < self._count:
                        kept = self._requests_in(size, skip)
                        samples = sum(each.size for each in requests[skip : skip + kept])
                        yield self._option(rank, candidate, samples, kept, skip, cost)
                size = 1 << (size - 1).bit_length() - 1 if size > 1 else 0

    def _most(self, candidate: VariantState) -> tuple[int, int]:
        """Return samples and requests of the largest batch from the start of the lane."""
        if self._lane.samples <= candidate.max_batch:
            return self._lane.samples, self._count
        taken = self._requests_in(candidate.max_batch)
        return self._samples(taken), taken

    def _requests_in(self, size: int, skip: int = 0) -> int:
        """Return how many requests from `skip` on are at most so many samples; at least one."""
        if self._mean_size == 1:
            return min(size, self._count - skip)
        taken, samples = 0, 0
        for request in islice(self._requests, skip, None):
            if samples + request.size > size and taken:
                break
            samples += request.size
            taken += 1
        return taken

    def _samples(self, taken: int) -> int:
        """Return the samples of the first so many requests."""
        if self._mean_size == 1:
            return taken
        return sum(each.size for each in islice(self._requests, taken))

    def _option(
        self,
        rank: int,
        candidate: VariantState,
        size: int,
        taken: int,
        skip: int,
        cost: float = 0.0,
    ) -> CandidateBatch:
        value = self._value(rank, candidate, size, taken, skip) - cost
        if candidate.name == self._state.last:
            value += STAY * taken
        loss = self._worth[rank] * self._count + self._others_worth - value
        return CandidateBatch(value, loss, self._lane, candidate, rank, size, taken, skip)

    def _value(self, rank: int, candidate: VariantState, size: int, taken: int, skip: int) -> float:
        state, times = self._state, candidate.times
        typical_s = times.typical_s(size)
        value = self._worth[rank] * self._in_time(candidate, size, taken, skip, typical_s)
        rest = self._rest(skip + taken)
        holds_last_core = bool(candidate.free_slots) and state.free_cores < 2
        if not holds_last_core and candidate is not self._fast:
            # Somebody else can begin with the rest at once.
            in_time = [(n, w) for n, left_s, needed_s, w in rest if left_s >= needed_s]
            return value + sum(n * (w or self._fast_worth) for n, w in in_time)
        waiting = self._count - skip - taken
        coming = state.arrivals_per_s * typical_s
        head_s = self._allowance_s
        if waiting:
            head_s = self._requests[skip + taken].deadline - state.now
        next_worth = self._next_worth(waiting + coming, head_s - typical_s)
        if holds_last_core:
            value += coming * (next_worth - self._recent_accuracy)
        certain_s = CERTAIN * typical_s
        until_s = typical_s + state.p10_slack_s
        first_s = 0.0
        for number, left_s, needed_s, worth in rest:
            slack_s = left_s - needed_s - candidate.free_in_s
            saved: float = number
            if slack_s < certain_s:
                saved *= 1 - times.miss_probability(size, slack_s)
            if slack_s > typical_s and left_s < until_s:
                first_s = needed_s  # what may come is due after these
            value += saved * (worth or next_worth) * (1 - self._overload)
        value -= self._price_per_s * typical_s
        if candidate.free_slots:
            lost = self._expected_misses(candidate, size, typical_s, first_s)
            value -= self._fast_worth * lost * (1 - self._overload)
        return value

    def _in_time(
        self, candidate: VariantState, size: int, taken: int, skip: int, typical_s: float
    ) -> float:
        """Return how many of a batch's requests are expected in time."""
        requests, times = self._requests, candidate.times
        start = self._state.now + candidate.free_in_s
        left_s = requests[skip].deadline - start
        if left_s > CERTAIN * typical_s:
            return taken
        late = times.miss_probability(size, left_s)
        if late > NEGLIGIBLE and taken > 1:
            last = times.miss_probability(size, requests[skip + taken - 1].deadline - start)
            middle = times.miss_probability(size, requests[skip + taken // 2].deadline - start)
            late = (late + 2 * middle + last) / 4
        return taken * (1 - late)

    def _expected_misses(
        self, candidate: VariantState, size: int, typical_s: float, first_s: float
    ) -> float:
        """Return how many of those yet to come will be late while the core is held."""
        expected_misses, within_s = self._state.expected_misses, candidate.times.within_s
        if expected_misses(CERTAIN * typical_s + first_s) < NEGLIGIBLE:
            return 0.0
        return sum(
            share * expected_misses((typical_s if q == 0.5 else within_s(size, q)) + first_s)
            for share, q in HELD
        )

    def _next_worth(self, samples: float, left_s: float) -> float:
        """Return what each of the next batch will be worth: so many samples, in that time."""
        size = max(1, math.ceil(samples))
        for worth, candidate in zip(self._worth, self._qualifying, strict=True):
            if size <= candidate.max_batch and candidate.times.typical_s(size) <= left_s:
                return worth
        return self._fast_worth

    def _rest(self, place: int) -> list[Group]:
        """Return what waits from `place` on, and what other lanes hold."""
        rest = self._rests.get(place)
        if rest is None:
            own = list(groups_of(self._lane, place, self._fast, self._state.now, 0.0))
            needed_s = own[-1][2] if own else 0.0
            others = [(n, left_s, more_s + needed_s, w) for n, left_s, more_s, w in self._others]
            rest = self._rests[place] = own + others
        return rest


def _sensible(qualifying: Sequence[VariantState], samples: int) -> list[tuple[int, VariantState]]:
    """Return, with their ranks, the variants that no better one beats, alone and together."""
    kept: list[tuple[int, VariantState]] = []
    fastest_batch_s = [math.inf, math.inf]
    for rank, candidate in enumerate(qualifying):
        times = candidate.times
        took_s = [times.typical_s(1), times.typical_s(min(samples, candidate.max_batch))]
        if took_s[0] < fastest_batch_s[0] or took_s[1] < fastest_batch_s[1]:
            kept.append((rank, candidate))
            if candidate.free_slots:
                fastest_batch_s = [min(a, b) for a, b in zip(fastest_batch_s, took_s, strict=True)]
    return kept


def groups_of(
    lane: Lane, place: int, quickest: VariantState, now: float, worth: float
) -> Iterator[Group]:
    """Yield a lane's requests from `place` on in groups, which the fastest serves in turn."""
    requests = lane.requests
    done, rest, number = 0, len(requests) - place, 0
    mean_size = lane.samples / len(requests)
    while done < rest:
        number += 1
        upto = rest if number == MOST_GROUPS else min(rest, max(1, GROWTH * done))
        needed_s = drain_time_s(
            quickest.times.within_s, max(1, round(upto * mean_size)), quickest.max_batch
        )
        yield upto - done, requests[place + upto - 1].deadline - now, needed_s, worth
        done = upto
