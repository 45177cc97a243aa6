"""What no policy can exceed on a workload: a linear programme that knows every arrival in advance.

    workload, what variants offer, times of batches ─▶ clairvoyant ─▶ utility, attainment

It knows how the times of batches are distributed, not which batch will be quick.
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
_BINS_BY_LONGEST: Final = 12
_PART: Final = 2048
"""Requests of one programme; the time to solve it grows faster than their number."""


@dataclass(frozen=True, slots=True)
class Outage:
    """From one moment to another a variant has fewer slots."""

    variant: str
    from_s: float
    to_s: float
    slots: int = 1


@dataclass(frozen=True, slots=True)
class Bound:
    """Expected values over all requests of a workload, from 0 to 1; each is a bound of its own."""

    utility: float
    """Accuracy of the answers that are in time, 0 for any other request; the mean of both."""
    attainment: float
    """Share of requests that are answered in time."""


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
    """Bound what any policy can expect, even one that knows all arrivals, but not the chances.

    `slots` has by variant the batches that its hosts run at a time; a variant that is not in it is
    not served. Hosts share `cores` cores; a batch uses one. Time is cut into bins of `bin_s`
    seconds: shorter ones bound more tightly and take longer. By default a quarter of the shortest
    deadline that can be met, or a twelfth of the longest where that is more.

    The programme. Of group i, of n_i requests with equal bins of arrival and deadline, class and
    possible batches, z_iv are answered in time by variant v; y_ivk is the work that v does for them
    in bin k, in core-seconds:

        maximise   sum_iv  w_v z_iv             w_v: accuracy of v for utility, 1 for attainment
        subject to sum_v   z_iv / p_iv <= n_i   v as the floors, the drop and the pin of i allow
                   sum_k   y_ivk = c_iv z_iv    k from the bin of arrival to that of the deadline
                   sum_iv  y_ivk <= cores bin_s
                   sum_i   y_ivk <= slots_v bin_s
                   sum_i   y_ivk <= min(cores, slots_v, requests) times their part of bin k

    the last one over groups of equal bins, whose part of a bin begins with their first arrival and
    ends with their last deadline. Variants with a slot for every core are limited by the cores
    alone, so they share their y. p_iv is the chance that a batch of the request alone takes no
    longer than the request's time; c_iv the least work by chance to be in time, of all batches that
    it can be part of (`work.MinimumWork.per_sample_s`, `work.largest_batches`).

    Why no policy exceeds it. Take any policy, let z_iv be the expected requests of i that it
    answers in time by v, and charge the work of a batch, while it runs, in equal parts to those of
    its requests that it can still answer in time. Who is charged was there already and is not
    overdue yet, so all charges lie between arrival and deadline. The charges of a bin are at most
    what the machine can do in it, those of n requests at most n cores' work, and so are their
    expectations. A request is sent once, and is in time with chance p_iv at most: the first
    constraint. When a batch starts, its time is still unknown, so each request in it expects to be
    charged at least c_iv for each unit of the chance to be in time: the second; where it is charged
    more, charge less, and all else holds the more. That bins cover more than the time from arrival
    to deadline, that batches are whole, that hosts wait for one another, that requests travel: all
    of it is left out, which only raises the maximum. So does a workload of more than 2,048 requests
    being solved in parts, each as if it had the whole machine.

    A request without a deadline may wait until all else is done: it counts as answered by the most
    accurate variant that it allows, and as no work. After an outage a request may be sent again, so
    p_iv is taken as 1 wherever it is not 0 if there are `outages`.

    The solver, HiGHS (Huangfu and Hall, Parallelizing the dual revised simplex method, 2018), is
    exact to about 1e-7; chances below 1e-6 are left out.

    Raises `ValueError` if a variant in `slots` is not in `profiles` or `times`, there are no
    requests, or one has more samples than `max_batch`.
    """
    variants = tuple(slots)
    if missing := [name for name in variants if name not in profiles or name not in times]:
        raise ValueError(f"slots, offers and times must cover the same variants: {missing[0]}")
    if len(workload) == 0:
        raise ValueError("a workload of no requests has no bound; it must have one at least")
    if (most := int(workload.sizes.max())) > max_batch:
        raise ValueError(f"no request may exceed max_batch, {max_batch}; one has {most} samples")
    accuracies = np.array([profiles[name].accuracy for name in variants])
    allowed = np.array(
        [[name in qualifying(profiles, one.slo) for name in variants] for one in workload.classes]
    )
    least = [MinimumWork(times[name], max_batch) for name in variants]
    chance, work_s = _by_class(workload, allowed, least)

    patient = np.array([math.isinf(one.slo.latency_s) for one in workload.classes])
    counts = np.bincount(workload.class_of, minlength=len(patient)) * (patient & allowed.any(1))
    totals = np.array([counts @ np.max(allowed * accuracies, axis=1), counts.sum()])

    hopeful = np.flatnonzero((chance > 0).max(axis=1)[workload.class_of])
    if len(hopeful):
        limits_s = workload.latencies_s[hopeful]
        width_s = bin_s or max(
            limits_s.min() / _BINS_BY_SHORTEST, limits_s.max() / _BINS_BY_LONGEST
        )
        groups = _group_requests(workload, hopeful, least, chance, work_s, width_s)
        if outages:
            groups.chance[groups.chance > 0] = 1.0
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
    workload: Workload, allowed: BoolArray, least: Sequence[MinimumWork]
) -> tuple[FloatArray, FloatArray]:
    """Return the chance [class, variant] and the least work in seconds [class, variant, batch].

    The latter of a whole request, in a batch of that many samples at most.
    """
    chance = np.zeros(allowed.shape)
    work_s = np.full((*allowed.shape, least[0].max_batch + 1), np.inf)
    for row, column in zip(*np.nonzero(allowed), strict=True):
        slo, size = workload.classes[row].slo, workload.classes[row].size
        if math.isinf(slo.latency_s):
            continue
        chance[row, column] = least[column].success_probabilities(slo.latency_s + SLACK_S)[size - 1]
        per_sample_s = least[column].per_sample_s(slo.latency_s + SLACK_S)
        work_s[row, column, size:] = size * np.minimum.accumulate(per_sample_s[size - 1 :])
    return chance, work_s


def _group_requests(
    workload: Workload,
    chosen: IntArray,
    least: Sequence[MinimumWork],
    chance: FloatArray,
    work_s: FloatArray,
    bin_s: float,
) -> RequestGroups:
    classes = workload.class_of[chosen].astype(np.int64)
    arrivals_s = workload.arrivals_s[chosen]
    limits_s = workload.latencies_s[chosen] + SLACK_S
    largest = np.zeros((len(chosen), len(least)), np.int64)
    for column, work in enumerate(least):
        able = np.flatnonzero(chance[classes, column] > 0)
        largest[able, column] = largest_batches(
            arrivals_s[able], limits_s[able], workload.sizes[chosen][able], work.shortest_s
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
    of_class = keys[:, 2]
    return RequestGroups(
        count=count,
        first=keys[:, 0],
        last=keys[:, 1],
        earliest=earliest,
        latest=latest,
        chance=chance[of_class],
        work=work_s[of_class[:, None], np.arange(len(least)), keys[:, 3:]] / bin_s,
    )


def _lost_slots(
    variants: Sequence[str], outages: Sequence[Outage], bins: int, bin_s: float
) -> FloatArray:
    if not outages:
        return np.zeros((len(variants), 0))  # bins may be many
    lost = np.zeros((len(variants), bins))
    starts_s = np.arange(bins) * bin_s
    for outage in outages:
        overlap_s = np.minimum(starts_s + bin_s, outage.to_s) - np.maximum(starts_s, outage.from_s)
        lost[variants.index(outage.variant)] += outage.slots * np.maximum(overlap_s, 0) / bin_s
    return lost


def _split_groups(groups: RequestGroups) -> Iterator[RequestGroups]:
    """Cut between bins of arrival, as soon as a part has enough requests."""
    start = 0
    while start < len(groups.count):
        end = start + int(np.searchsorted(np.cumsum(groups.count[start:]), _PART)) + 1
        end = int(
            np.searchsorted(groups.first, groups.first[min(end, len(groups.first)) - 1], "right")
        )
        yield groups.part(slice(start, end))
        start = end
