"""One-step lookahead: the batches that a lane can be served with, and the value of each.

    value(variant, b) = accuracy x requests of b in time                  the batch itself
                      + accuracy of the next batch x rest in time         requests that wait
                      + (that accuracy - the recent one) x arrivals       arrivals while b runs
                      - accuracy of the fastest variant x misses          future misses

The unit is correct answers in time. The time that a batch takes is priced by what arrives during
it: the relative value of an average-reward decision process (Puterman, Markov Decision Processes,
8.4). The utility of a batch is that of SuperServe (NSDI'25, section 4.1), as an expectation instead
of its best case.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import islice
from operator import attrgetter, lt
from typing import Final, NamedTuple

from serving.routing.policy.queue_view import (
    Group,
    QueueView,
    answers_in_s,
    groups_of,
)
from serving.routing.policy.state import Lane, VariantState

RANK_COST: Final = 1e-3
"""Cost of one step down in a lane's preference, in correct answers per request. It applies if the
preference is not by accuracy."""

NEGLIGIBLE_MISSES: Final = 1e-4
"""Number of expected misses below which they do not affect a decision."""

MAX_TIME_RATIO: Final = 6.0
"""Practical upper bound of a batch's time, as a multiple of its typical time."""

HOLD_QUANTILES: Final = ((0.8, 0.5), (0.17, 0.9), (0.03, 0.99))
"""Approximation of the time that a core is occupied: weights, and the quantiles of the batch's time
that have them."""

OVERLOAD_RANGE: Final = (0.9, 1.1)
"""Offered load at which the service begins to count as overloaded, and at which it does fully."""

SPLIT_COST: Final = 0.05
"""Cost of leaving requests for another batch, in correct answers."""

MAX_SPLIT_VARIANTS: Final = 2
"""Number of variants, the fastest ones, for which smaller batches are considered."""

SAME_TIER_BONUS: Final = 0.002
"""Value of staying with the accuracy of the last batch, in correct answers per request. It prevents
alternation between variants of about equal value."""

NEGLIGIBLE_GAIN: Final = 0.002
"""Difference in value, in correct answers per request, below which the time to the answer decides
between variants that are equally accurate."""


class CandidateBatch(NamedTuple):
    """A batch that could be sent now, or after waiting for its variant."""

    value: float
    """Expected number of correct answers in time."""
    loss: float
    """Difference to the value if this variant answered all queued requests in time."""
    lane: Lane
    variant: VariantState
    rank: int
    """Number of qualifying variants that are better: 0 for all that are as accurate as the best."""
    size: int
    """Number of samples."""
    taken: int
    """Number of requests, starting with the one at `skip`."""
    skip: int
    """Number of requests left out at the start of the lane."""


_deadline = attrgetter("deadline")
_value = attrgetter("value")


class CandidateBatches:
    """The batches that a lane could be served with."""

    def __init__(self, lane: Lane, view: QueueView) -> None:
        """Raises `ValueError` if none of the lane's variants has a live replica."""
        state, qualifying = view.state, view.live_variants(lane)
        if not qualifying:
            raise ValueError(f"none of {', '.join(lane.key.variants)} has a live replica")
        self._lane = lane
        self._state = state
        self._qualifying = qualifying
        self._requests = lane.requests
        self._count = len(lane.requests)
        self._mean_size = lane.samples / self._count
        self._allowance_s = lane.requests[0].deadline - lane.requests[0].arrived
        self._worth = [each.accuracy for each in qualifying]
        self._recent_accuracy = state.recent_accuracy
        is_ascending = any(map(lt, self._worth, self._worth[1:]))
        if is_ascending or lane.key.cheapest_first:
            self._worth = [1 - RANK_COST * rank for rank in range(len(qualifying))]
            self._recent_accuracy = 1.0
        samples = lane.samples
        took_s = [each.times.typical_s(min(samples, each.max_batch)) for each in qualifying]
        fastest = took_s.index(min(took_s))
        self._fastest = qualifying[fastest]
        self._fastest_worth = self._worth[fastest]
        self._undominated = [
            (self._worth.index(self._worth[place]), variant)
            for place, variant in _undominated(qualifying, took_s)
        ]
        last = state.variants.get(state.last_variant) if state.last_variant else None
        self._last_accuracy = last.accuracy if last else None
        self._other_groups = view.other_groups(lane)
        self._others_worth = sum(count * worth for count, _, _, worth in self._other_groups)
        self._remaining: dict[int, list[Group]] = {}
        self._overload, self._price_per_s = self._overload_price()

    def full_batches(self) -> Iterator[CandidateBatch]:
        """Yield by variant the batch of all queued requests, or of those that cannot wait."""
        requests, now = self._requests, self._state.now
        for rank, variant in self._undominated:
            size, taken = self._largest(variant)
            yield self._batch(rank, variant, size, taken, 0)
            if rank:
                urgent = bisect_left(requests, 2 * requests[0].deadline - now, key=_deadline)
                if 0 < urgent < taken:
                    yield self._batch(rank, variant, self._samples(urgent), urgent, 0)

    def smaller_batches(self) -> Iterator[CandidateBatch]:
        """Yield smaller batches, and batches without the first requests if those would be late."""
        requests, now = self._requests, self._state.now
        left_s = requests[0].deadline - now
        for rank, variant in self._undominated[-MAX_SPLIT_VARIANTS:]:
            if not variant.free_slots:
                continue
            times = variant.times
            largest, most_taken = self._largest(variant)
            size = largest
            while size:
                taken, cost = most_taken, 0.0
                if size < largest:
                    taken, cost = min(taken, self._requests_in(size)), SPLIT_COST
                    if requests[0].size <= size and times.typical_s(size) < left_s:
                        yield self._batch(rank, variant, size, taken, 0, cost)
                within_s = times.within_s(size)
                if within_s > left_s:
                    skip = bisect_left(requests, now + within_s, key=_deadline)
                    if skip < self._count:
                        kept = self._requests_in(size, skip)
                        samples = sum(each.size for each in requests[skip : skip + kept])
                        yield self._batch(rank, variant, samples, kept, skip, cost)
                size = 1 << (size - 1).bit_length() - 1 if size > 1 else 0

    def _overload_price(self) -> tuple[float, float]:
        """Return the degree of overload, from 0 to 1, and the price of a second of a core.

        In overload not all requests can be in time. Their number per second matters then, not
        which ones are served.
        """
        low, high = OVERLOAD_RANGE
        overload = min(1.0, max(0.0, (self._state.offered_load - low) / (high - low)))
        if not overload:
            return 0.0, 0.0
        fastest = self._fastest
        size = fastest.sustainable_batch(self._allowance_s)
        return overload, overload * self._fastest_worth * size / fastest.times.typical_s(size)

    def _largest(self, variant: VariantState) -> tuple[int, int]:
        """Return the samples and the requests of the largest batch from the start of the lane."""
        if self._lane.samples <= variant.max_batch:
            return self._lane.samples, self._count
        taken = self._requests_in(variant.max_batch)
        return self._samples(taken), taken

    def _requests_in(self, size: int, skip: int = 0) -> int:
        """Return how many requests from index `skip` have at most `size` samples; at least 1."""
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
        """Return the number of samples of the first `taken` requests."""
        if self._mean_size == 1:
            return taken
        return sum(each.size for each in islice(self._requests, taken))

    def _batch(
        self,
        rank: int,
        variant: VariantState,
        size: int,
        taken: int,
        skip: int,
        cost: float = 0.0,
    ) -> CandidateBatch:
        value = self._value(rank, variant, size, taken, skip) - cost
        if variant.accuracy == self._last_accuracy:
            value += SAME_TIER_BONUS * taken
        loss = self._worth[rank] * self._count + self._others_worth - value
        return CandidateBatch(value, loss, self._lane, variant, rank, size, taken, skip)

    def _value(self, rank: int, variant: VariantState, size: int, taken: int, skip: int) -> float:
        state, times = self._state, variant.times
        typical_s = times.typical_s(size)
        value = self._worth[rank] * self._in_time(variant, size, taken, skip, typical_s)
        own = self._remaining_groups(skip + taken)
        # Other lanes are served after the rest of this one.
        delay_s = own[-1].needed_s if own else 0.0
        remaining = (own, 0.0), (self._other_groups, delay_s)
        holds_last_core = bool(variant.free_slots) and state.free_cores < 2
        if not holds_last_core and variant is not self._fastest:
            # The fastest variant can begin with the remaining requests at once.
            in_time = 0.0
            for groups, before_s in remaining:
                for count, left_s, needed_s, worth in groups:
                    if left_s >= needed_s + before_s:
                        in_time += count * (worth or self._fastest_worth)
            return value + in_time
        queued = self._count - skip - taken
        arriving = state.arrivals_per_s * typical_s
        head_s = self._allowance_s
        if queued:
            head_s = self._requests[skip + taken].deadline - state.now
        next_worth = self._next_worth(queued + arriving, head_s - typical_s)
        if holds_last_core:
            value += arriving * (next_worth - self._recent_accuracy)
        longest_s = MAX_TIME_RATIO * typical_s
        until_s = typical_s + state.p10_slack_s
        first_s = 0.0
        for groups, before_s in remaining:
            for count, left_s, needed_s, worth in groups:
                slack_s = left_s - (needed_s + before_s) - variant.free_in_s
                in_time_count: float = count
                if slack_s < longest_s:
                    in_time_count *= 1 - times.miss_probability(size, slack_s)
                if slack_s > typical_s and left_s < until_s:
                    first_s = needed_s + before_s  # arrivals are due after these requests
                value += in_time_count * (worth or next_worth) * (1 - self._overload)
        value -= self._price_per_s * typical_s
        if variant.free_slots:
            misses = self._expected_misses(variant, size, typical_s, first_s)
            value -= self._fastest_worth * misses * (1 - self._overload)
        return value

    def _in_time(
        self, variant: VariantState, size: int, taken: int, skip: int, typical_s: float
    ) -> float:
        """Return how many of the batch's requests are expected to be in time."""
        requests, times = self._requests, variant.times
        start = self._state.now + variant.free_in_s
        left_s = requests[skip].deadline - start
        if left_s > MAX_TIME_RATIO * typical_s:
            return taken
        late = times.miss_probability(size, left_s)
        if late > NEGLIGIBLE_MISSES and taken > 1:
            last = times.miss_probability(size, requests[skip + taken - 1].deadline - start)
            middle = times.miss_probability(size, requests[skip + taken // 2].deadline - start)
            late = (late + 2 * middle + last) / 4
        return taken * (1 - late)

    def _expected_misses(
        self, variant: VariantState, size: int, typical_s: float, first_s: float
    ) -> float:
        """Return how many future requests are expected to be late while the core is occupied.

        `first_s` is the time for queued requests that are served before them.
        """
        expected_misses, within_s = self._state.expected_misses, variant.times.within_s
        if expected_misses(MAX_TIME_RATIO * typical_s + first_s) < NEGLIGIBLE_MISSES:
            return 0.0
        misses = 0.0
        for weight, q in HOLD_QUANTILES:
            held_s = typical_s if q == 0.5 else within_s(size, q)
            misses += weight * expected_misses(held_s + first_s)
        return misses

    def _next_worth(self, samples: float, left_s: float) -> float:
        """Return the value of a request in the next batch, of `samples` to be served in `left_s`.

        It is that of the best variant that is in time.
        """
        size = max(1, math.ceil(samples))
        for worth, variant in zip(self._worth, self._qualifying, strict=True):
            if size <= variant.max_batch and variant.times.typical_s(size) <= left_s:
                return worth
        return self._fastest_worth

    def _remaining_groups(self, place: int) -> list[Group]:
        """Return the groups of the lane from index `place`."""
        if place == self._count:
            return []
        groups = self._remaining.get(place)
        if groups is None:
            groups = list(groups_of(self._lane, place, self._fastest, self._state.now, 0.0))
            self._remaining[place] = groups
        return groups


def best_batch(batches: Sequence[CandidateBatch]) -> CandidateBatch:
    """Return the batch of one lane with the highest value.

    Of variants that are equally accurate, the one that answers the same requests first is used,
    unless that costs more than a negligible part of the value.
    """
    if len(batches) == 1:
        return batches[0]
    best = max(batches, key=_value)
    least = best.value - NEGLIGIBLE_GAIN * best.taken
    equal = (
        each
        for each in batches
        if each.rank == best.rank
        and (each.skip, each.taken) == (best.skip, best.taken)
        and each.value >= least
    )
    return min(equal, key=lambda each: answers_in_s(each.variant, each.size))


def _undominated(
    qualifying: Sequence[VariantState], all_took_s: Sequence[float]
) -> list[tuple[int, VariantState]]:
    """Return the variants that are faster than all those before them with a free slot, by index.

    Faster means for a single sample or for all queued samples, which take `all_took_s`.
    """
    kept: list[tuple[int, VariantState]] = []
    fastest_one_s = fastest_all_s = math.inf
    for place, variant in enumerate(qualifying):
        one_s, all_s = variant.times.typical_s(1), all_took_s[place]
        if one_s < fastest_one_s or all_s < fastest_all_s:
            kept.append((place, variant))
            if variant.free_slots:
                fastest_one_s = min(fastest_one_s, one_s)
                fastest_all_s = min(fastest_all_s, all_s)
    return kept
