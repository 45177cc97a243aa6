"""How well a policy served a workload, in numbers.

    Outcomes, accuracy by variant ─▶ score ─▶ Score

Request i arrived at a_i, asked for an answer by D_i and for accuracy of at least m_i, was answered
by variant v_i at f_i or not at all, and is on time, o_i = 1, if f_i <= D_i; N counts all arrivals.
Acc is a variant's measured accuracy. Papers disagree on what to average, so each has its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from loadtests.trials.outcomes import Outcomes, RequestStatus
from loadtests.trials.series import Floats, accuracies_of, series
from variants.catalog.record import Record

WINDOW_S: Final = 1.0
PERCENTS: Final = (50, 95, 99)

_Bools = npt.NDArray[np.bool_]


class ClassScore(Record):
    """The requests of one class; None where there were none to say it of."""

    requests: int = Field(ge=0)
    attainment: float | None
    joint_attainment: float | None
    mean_accuracy: float | None
    utility: float | None
    floor: float
    """The least accuracy that it asks for; 0 for a class that pins a variant."""
    floor_violations: int = Field(ge=0)


class Score(Record):
    """One policy on one workload. Shares are 0 to 1; None is what cannot be said."""

    policy: str
    workload: str
    requests: int = Field(ge=1)
    """N: all arrivals, also those that were shed."""
    seconds: float = Field(gt=0)
    offered_per_s: float
    attainment: float
    """Σ o_i / N (SuperServe, NSDI'25; AlpaServe, OSDI'23)."""
    violation_ratio: float
    """(demand - answered + late) / demand (Proteus, ASPLOS'24): what attainment lacks to 1."""
    joint_attainment: float
    """Share of N that was on time with Acc(v_i) >= m_i."""
    goodput_per_s: float
    """Answers on time per second of the workload (DistServe, OSDI'24; Shepherd, NSDI'23)."""
    joint_goodput_per_s: float
    """Answers on time with Acc(v_i) >= m_i, per second of the workload."""
    mean_accuracy: float | None
    """Mean Acc(v_i) over answers on time (SuperServe's mean serving accuracy)."""
    effective_accuracy: float | None
    """Mean Acc(v_i) over all answers, also late ones (Proteus's effective accuracy)."""
    utility: float
    """Σ o_i Acc(v_i) / N: SuperServe's utility (equations 1, 2) with every weight 1, and also
    Model-Switching's effective accuracy (HotCloud'20), in which a late or dropped one counts 0."""
    regret: float | None
    """1 - utility / bound: what is lost against knowing the future; None without a bound."""
    max_accuracy_drop: float | None
    """1 - the least, over windows of time, of effective accuracy over that of the best variant
    (Proteus). Windows in which nothing was answered do not count."""
    floor_violations: int = Field(ge=0)
    """Answers, also late ones, with Acc(v_i) < m_i. Ought to be 0."""
    fairness: float | None
    """Jain's index of the classes' utilities: 1 where all get the same, 1/classes where one gets
    all (Jain, Chiu, Hawe, DEC-TR-301, 1984); None where all get nothing."""
    status_shares: Mapping[str, float]
    """Of N, by how they ended; every status is there."""
    variant_shares: Mapping[str, float]
    """Of all answers, by the variant that gave them."""
    latency_s: Mapping[str, float]
    """p50, p95, p99 of answers, counted from the intended arrival; empty if there were none."""
    mean_batch_size: float | None
    """Samples in a batch, averaged over batches."""
    switches_per_1000_batches: float | None
    """How often a batch went to another variant than the one sent before it."""
    replica_s_per_1000_on_time: float | None
    """Cost: seconds that batches took, from dispatch to answer, for 1,000 answers on time."""
    classes: Mapping[str, ClassScore]


@dataclass(frozen=True, slots=True)
class _RequestTable:
    """By request: what every number is counted from."""

    answered: _Bools
    on_time: _Bools
    accuracy: Floats
    floor: Floats
    """NaN-free: 0 where nothing is asked for."""

    @property
    def is_below_floor(self) -> _Bools:
        return self.answered & (self.accuracy < self.floor)

    @property
    def is_joint(self) -> _Bools:
        return self.on_time & ~self.is_below_floor

    @property
    def utility(self) -> Floats:
        return np.where(self.on_time, self.accuracy, 0.0)


def score(
    outcomes: Outcomes,
    accuracy: Mapping[str, float],
    bound: float | None = None,
    *,
    window_s: float = WINDOW_S,
) -> Score:
    """Count what became of every request.

    `accuracy` is 0 to 1 by variant, of all that could be chosen: the accuracy drop is against the
    best of them. `bound` is the most utility per request, 0 to 1, that any policy could reach on
    this workload. `window_s` is how long the windows of the accuracy drop are, in seconds.

    Raises `ValueError` if the workload has no requests or no length, a variant's accuracy is not
    given, or an answered request has no variant or no time.
    """
    workload = outcomes.workload
    total, seconds = len(workload), workload.seconds
    if total == 0 or not seconds > 0:
        raise ValueError(
            f"workload {workload.name!r} must have requests, and last longer than 0 seconds; "
            f"it has {total} in {seconds:g} s"
        )
    marked = _tabulate(outcomes, accuracy)
    on_time = int(marked.on_time.sum())
    utility = float(marked.utility.mean())
    joint = int(marked.is_joint.sum())
    answered = int(marked.answered.sum())
    classes = _classes(outcomes, marked)
    return Score(
        policy=outcomes.policy,
        workload=workload.name,
        requests=total,
        seconds=seconds,
        offered_per_s=total / seconds,
        attainment=on_time / total,
        violation_ratio=(total - answered + (answered - on_time)) / total,
        joint_attainment=joint / total,
        goodput_per_s=on_time / seconds,
        joint_goodput_per_s=joint / seconds,
        mean_accuracy=_mean(marked.accuracy[marked.on_time]),
        effective_accuracy=_mean(marked.accuracy[marked.answered]),
        utility=utility,
        regret=1 - utility / bound if bound else None,
        max_accuracy_drop=_max_drop(outcomes, accuracy, window_s),
        floor_violations=int(marked.is_below_floor.sum()),
        fairness=jain(np.array([c.utility for c in classes.values() if c.utility is not None])),
        status_shares={
            status.name.lower(): float(np.mean(outcomes.status == status))
            for status in RequestStatus
        },
        variant_shares=_variant_shares(outcomes, marked.answered),
        latency_s=_latencies(outcomes, marked.answered),
        mean_batch_size=_batch_size(outcomes, marked.answered),
        switches_per_1000_batches=_switches(outcomes),
        replica_s_per_1000_on_time=_cost(outcomes, on_time),
        classes=classes,
    )


def jain(values: Floats) -> float | None:
    """Return (Σx)² / (n Σx²) of `[n]` values, none below 0; None if all are 0."""
    squares = float((values**2).sum())
    return float(values.sum()) ** 2 / (len(values) * squares) if squares > 0 else None


def _tabulate(outcomes: Outcomes, accuracy: Mapping[str, float]) -> _RequestTable:
    answered = outcomes.status == RequestStatus.ANSWERED
    broken = answered & ((outcomes.variant < 0) | ~np.isfinite(outcomes.finished_s))
    if broken.any():
        raise ValueError(
            f"an answered request needs a variant and a time; request {int(broken.argmax())} of "
            f"policy {outcomes.policy!r} lacks one"
        )
    floors = np.array(
        [_floor(number, outcomes) for number in range(len(outcomes.workload.classes))]
    )
    return _RequestTable(
        answered=answered,
        on_time=outcomes.on_time,
        # the NaN at the end is what place -1 finds: nobody answered
        accuracy=np.append(accuracies_of(outcomes.variants, accuracy), np.nan)[outcomes.variant],
        floor=floors[outcomes.workload.class_of],
    )


def _floor(number: int, outcomes: Outcomes) -> float:
    slo = outcomes.workload.classes[number].slo
    return 0.0 if slo.variant is not None else slo.min_accuracy


def _classes(outcomes: Outcomes, marked: _RequestTable) -> dict[str, ClassScore]:
    found = {}
    for number, asked in enumerate(outcomes.workload.classes):
        of = outcomes.workload.class_of == number
        found[asked.name] = ClassScore(
            requests=int(of.sum()),
            attainment=_mean(marked.on_time[of]),
            joint_attainment=_mean(marked.is_joint[of]),
            mean_accuracy=_mean(marked.accuracy[of & marked.on_time]),
            utility=_mean(marked.utility[of]),
            floor=_floor(number, outcomes),
            floor_violations=int(marked.is_below_floor[of].sum()),
        )
    return found


def _mean(values: npt.NDArray[np.float64 | np.bool_]) -> float | None:
    return float(values.mean()) if len(values) else None


def _max_drop(outcomes: Outcomes, accuracy: Mapping[str, float], window_s: float) -> float | None:
    by_window = series(outcomes, accuracy, window_s).accuracy
    known = by_window[np.isfinite(by_window)]
    return float(1 - known.min() / max(accuracy.values())) if len(known) else None


def _variant_shares(outcomes: Outcomes, answered: _Bools) -> dict[str, float]:
    counts = np.bincount(outcomes.variant[answered], minlength=len(outcomes.variants))
    total = max(1, int(counts.sum()))
    return {
        name: int(count) / total
        for name, count in zip(outcomes.variants, counts, strict=True)
        if count
    }


def _latencies(outcomes: Outcomes, answered: _Bools) -> dict[str, float]:
    taken_s = (outcomes.finished_s - outcomes.workload.arrivals_s)[answered]
    if not len(taken_s):
        return {}
    quantiles = np.percentile(taken_s, PERCENTS)
    return {f"p{percent}": float(s) for percent, s in zip(PERCENTS, quantiles, strict=True)}


def _batch_size(outcomes: Outcomes, answered: _Bools) -> float | None:
    if outcomes.batches is not None:
        return _mean(outcomes.batches.size.astype(np.float64))
    is_known = answered & (outcomes.batch_size > 0)
    samples = outcomes.workload.sizes[is_known]
    # a request of 2 samples in a batch of 8 saw a quarter of that batch
    batches = float((samples / outcomes.batch_size[is_known]).sum())
    return float(samples.sum()) / batches if batches else None


def _switches(outcomes: Outcomes) -> float | None:
    batches = outcomes.batches
    if batches is None or len(batches.variant) < 2:
        return None
    in_order = batches.variant[np.argsort(batches.sent_s, kind="stable")]
    return 1000 * float(np.mean(in_order[1:] != in_order[:-1]))


def _cost(outcomes: Outcomes, on_time: int) -> float | None:
    if outcomes.batches is None or not on_time:
        return None
    return 1000 * float(outcomes.batches.took_s.sum()) / on_time
