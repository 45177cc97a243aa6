"""An upper bound of what any policy can reach, from a linear programme that knows all arrivals.

    workload, variant profiles, batch times ─▶ clairvoyant ─▶ utility, attainment

It knows the distributions of the batch durations, but not the duration of a single batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from loadtests.trials.linear_programme import MachineCapacity, RequestGroups, solve
from loadtests.trials.work import (
    SLACK_S,
    BatchTimes,
    BoolArray,
    FloatArray,
    IntArray,
    MinimumWork,
    largest_batches,
)
from loadtests.workload.workload import Workload
from serving.routing.profile import VariantProfile, qualifying

_BINS_BY_SHORTEST: Final = 4
"""Minimum number of bins in the shortest deadline, unless `_BINS_BY_LONGEST` needs fewer."""
_BINS_BY_LONGEST: Final = 12
"""Maximum number of bins in the longest deadline."""
_PART_REQUESTS: Final = 2048
"""Requests per linear programme; the time to solve it grows faster than their number."""


@dataclass(frozen=True, slots=True)
class Outage:
    """A period in which a variant has fewer slots."""

    variant: str
    from_s: float
    to_s: float
    slots: int = 1


@dataclass(frozen=True, slots=True)
class Bound:
    """Upper bounds of expected values over all requests, from 0 to 1; each one holds by itself."""

    utility: float
    """Mean over all requests of the accuracy of answers on time, 0 for other requests."""
    attainment: float
    """Share of requests that are answered on time."""


def clairvoyant(
    workload: Workload,
    profiles: Mapping[str, VariantProfile],
    times: Mapping[str, BatchTimes],
    *,
    cores: float,
    slots: Mapping[str, int],
    max_batch: int,
    bin_s: float | None = None,
    outages: Sequence[Outage] = (),
) -> Bound:
    """Return upper bounds for any policy, even one that knows all arrivals, but not durations.

    `slots` is the number of batches that the hosts of a variant run at a time; other variants are
    not available. Hosts share `cores` cores; a batch uses one. Time is divided into bins of `bin_s`
    seconds; shorter bins give tighter bounds and take longer. The default is a quarter of the
    shortest attainable deadline, or a twelfth of the longest one if that is more.

    The linear programme: group i has n_i requests with equal bins of arrival and deadline, equal
    class and equal possible batches. z_iv of them are answered on time by variant v, and y_ivk is
    the work of v for them in bin k, in core-seconds:

        maximize   sum_iv  w_v z_iv             w_v: accuracy of v for utility, 1 for attainment
        subject to sum_v   z_iv / p_iv <= n_i   for variants v that qualify for i
                   sum_k   y_ivk = c_iv z_iv    k from the bin of arrival to that of the deadline
                   sum_iv  y_ivk <= cores bin_s
                   sum_i   y_ivk <= slots_v bin_s
                   sum_i   y_ivk <= min(cores, slots_v, requests) times their part of bin k

    The last constraint is over groups with equal bins; their part of a bin begins with their first
    arrival and ends with their last deadline. Variants with a slot for every core are limited by
    the cores only, so they share their y. p_iv is the probability that a batch of the request alone
    takes no longer than its deadline permits. c_iv is the minimum work per probability to be on
    time, over all batches that the request can be part of (`work.MinimumWork.per_sample_s`,
    `work.largest_batches`).

    Proof that no policy exceeds it. For a given policy, let z_iv be the expected number of requests
    of i that it answers on time by v. Charge the work of a batch, while it runs, in equal parts to
    those of its requests that it can still answer on time. A charged request has arrived and is not
    overdue, so all charges are between arrival and deadline. The charges in a bin are at most the
    capacity of the machine in it, and those of n requests at most the work of n cores; the same
    holds for their expectations. A request is sent once, and is on time with a probability of at
    most p_iv, which is the first constraint. The duration of a batch is unknown when it starts, so
    the expected charge of each of its requests is at least c_iv per unit of probability to be on
    time, which is the second constraint; higher charges can be reduced, and the other constraints
    still hold. The programme ignores that bins cover more than the time from arrival to deadline,
    that batches are indivisible, that hosts wait for each other, and that requests take time to
    travel; this only raises the maximum. So does solving a workload of more than 2,048 requests in
    parts, each with the whole machine.

    A request without a deadline can wait until all others are done: it counts as answered by the
    most accurate variant that qualifies, without work. After an outage a request may be sent again,
    so with `outages` p_iv is 1 wherever it is above 0.

    The solver, HiGHS (Huangfu and Hall, Parallelizing the dual revised simplex method, 2018), is
    exact to about 1e-7; probabilities below 1e-6 are ignored.

    Raises ValueError if a variant in `slots` is not in `profiles` or `times`, if there are no
    requests, or if one has more samples than `max_batch`.
    """
    variants = tuple(slots)
    if missing := [name for name in variants if name not in profiles or name not in times]:
        raise ValueError(
            f"profiles and times must include all variants of slots; {missing[0]} is missing"
        )
    if len(workload) == 0:
        raise ValueError("the workload must have at least one request")
    if (largest := int(workload.sizes.max())) > max_batch:
        raise ValueError(
            f"requests must have at most max_batch = {max_batch} samples; one has {largest} samples"
        )
    accuracies = np.array([profiles[name].accuracy for name in variants])
    allowed = np.array(
        [[name in qualifying(profiles, each.slo) for name in variants] for each in workload.classes]
    )
    minimum_work = [MinimumWork(times[name], max_batch) for name in variants]
    probability, work_s = _by_class(workload, allowed, minimum_work)

    has_no_deadline = np.array([math.isinf(each.slo.latency_s) for each in workload.classes])
    counts = np.bincount(workload.class_of, minlength=len(has_no_deadline))
    counts = counts * (has_no_deadline & allowed.any(1))
    totals = np.array([counts @ np.max(allowed * accuracies, axis=1), counts.sum()])

    attainable = np.flatnonzero((probability > 0).max(axis=1)[workload.class_of])
    if len(attainable):
        limits_s = workload.latencies_s[attainable]
        width_s = bin_s or max(
            limits_s.min() / _BINS_BY_SHORTEST, limits_s.max() / _BINS_BY_LONGEST
        )
        groups = _group_requests(workload, attainable, minimum_work, probability, work_s, width_s)
        if outages:
            groups.probability[groups.probability > 0] = 1.0
        machine = MachineCapacity(
            cores=cores,
            slots=np.array([slots[name] for name in variants], float),
            lost=_lost_slots(variants, outages, int(groups.last.max()) + 1, width_s),
        )
        for part in _split_groups(groups):
            totals += solve(part, accuracies, machine)
    utility, attainment = totals / len(workload)
    return Bound(utility=float(utility), attainment=min(float(attainment), 1.0))


def _by_class(
    workload: Workload, allowed: BoolArray, minimum_work: Sequence[MinimumWork]
) -> tuple[FloatArray, FloatArray]:
    """Return the probability [class, variant] and the minimum work [class, variant, batch].

    The work is that of a whole request, in seconds, in a batch of at most this size.
    """
    probability = np.zeros(allowed.shape)
    work_s = np.full((*allowed.shape, minimum_work[0].max_batch + 1), np.inf)
    for row, column in zip(*np.nonzero(allowed), strict=True):
        slo, size = workload.classes[row].slo, workload.classes[row].size
        if math.isinf(slo.latency_s):
            continue
        by_size = minimum_work[column].success_probabilities(slo.latency_s + SLACK_S)
        probability[row, column] = by_size[size - 1]
        per_sample_s = minimum_work[column].per_sample_s(slo.latency_s + SLACK_S)
        work_s[row, column, size:] = size * np.minimum.accumulate(per_sample_s[size - 1 :])
    return probability, work_s


def _group_requests(
    workload: Workload,
    chosen: IntArray,
    minimum_work: Sequence[MinimumWork],
    probability: FloatArray,
    work_s: FloatArray,
    bin_s: float,
) -> RequestGroups:
    classes = workload.class_of[chosen].astype(np.int64)
    arrivals_s = workload.arrivals_s[chosen]
    limits_s = workload.latencies_s[chosen] + SLACK_S
    largest = np.zeros((len(chosen), len(minimum_work)), np.int64)
    for column, work in enumerate(minimum_work):
        feasible = np.flatnonzero(probability[classes, column] > 0)
        largest[feasible, column] = largest_batches(
            arrivals_s[feasible],
            limits_s[feasible],
            workload.sizes[chosen][feasible],
            work.shortest_s,
        )
    starts, ends = arrivals_s / bin_s, (arrivals_s + limits_s) / bin_s
    first, last = np.floor(starts).astype(np.int64), np.ceil(ends).astype(np.int64) - 1
    keys, group, count = np.unique(
        np.column_stack([first, last, classes, largest]),
        axis=0,
        return_inverse=True,
        return_counts=True,
    )
    earliest, latest = np.full(len(keys), np.inf), np.zeros(len(keys))
    np.minimum.at(earliest, group, starts)
    np.maximum.at(latest, group, ends)
    class_of = keys[:, 2]
    return RequestGroups(
        count=count,
        first=keys[:, 0],
        last=keys[:, 1],
        earliest=earliest,
        latest=latest,
        probability=probability[class_of],
        work=work_s[class_of[:, None], np.arange(len(minimum_work)), keys[:, 3:]] / bin_s,
    )


def _lost_slots(
    variants: Sequence[str], outages: Sequence[Outage], bins: int, bin_s: float
) -> FloatArray:
    if not outages:
        return np.zeros((len(variants), 0))  # avoids a large array
    lost = np.zeros((len(variants), bins))
    starts_s = np.arange(bins) * bin_s
    for outage in outages:
        overlap_s = np.minimum(starts_s + bin_s, outage.to_s) - np.maximum(starts_s, outage.from_s)
        lost[variants.index(outage.variant)] += outage.slots * np.maximum(overlap_s, 0) / bin_s
    return lost


def _split_groups(groups: RequestGroups) -> Iterator[RequestGroups]:
    """Split groups between bins of arrival into parts of about `_PART_REQUESTS` requests."""
    start = 0
    while start < len(groups.count):
        end = start + int(np.searchsorted(np.cumsum(groups.count[start:]), _PART_REQUESTS)) + 1
        end = int(
            np.searchsorted(groups.first, groups.first[min(end, len(groups.first)) - 1], "right")
        )
        yield groups.select(slice(start, end))
        start = end
