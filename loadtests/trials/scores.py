"""Scores of a policy on a workload.

    Outcomes, accuracy by variant ─▶ score ─▶ Score

Request i arrives at a_i with deadline D_i and accuracy floor m_i. It is answered by variant v_i at
time f_i, or not at all, and is on time, o_i = 1, if f_i <= D_i. N is the number of arrivals. Acc is
the measured accuracy of a variant. Papers define averages differently, so each one has a name.
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
"""Default width of the windows of the accuracy drop, in seconds."""
PERCENTS: Final = (50, 95, 99)
"""Percentiles of the latency."""

_Bools = npt.NDArray[np.bool_]


class ClassScore(Record):
    """Scores of the requests of one class; None for the mean of an empty set."""

    requests: int = Field(ge=0)
    attainment: float | None
    joint_attainment: float | None
    mean_accuracy: float | None
    utility: float | None
    floor: float
    """Accuracy floor of the class; 0 for a class that pins a variant."""
    floor_violations: int = Field(ge=0)


class Score(Record):
    """Scores of one policy on one workload. Shares are 0 to 1; None if a value is undefined."""

    policy: str
    workload: str
    requests: int = Field(ge=1)
    """N: all arrivals, including shed requests."""
    seconds: float = Field(gt=0)
    offered_per_s: float
    attainment: float
    """Σ o_i / N (SuperServe, NSDI'25; AlpaServe, OSDI'23)."""
    violation_ratio: float
    """(demand - answered + late) / demand (Proteus, ASPLOS'24): 1 - attainment."""
    joint_attainment: float
    """Share of N on time with Acc(v_i) >= m_i."""
    goodput_per_s: float
    """Answers on time per second of the workload (DistServe, OSDI'24; Shepherd, NSDI'23)."""
    joint_goodput_per_s: float
    """Answers on time with Acc(v_i) >= m_i, per second of the workload."""
    mean_accuracy: float | None
    """Mean Acc(v_i) over answers on time (SuperServe's mean serving accuracy)."""
    effective_accuracy: float | None
    """Mean Acc(v_i) over all answers, including late ones (Proteus's effective accuracy)."""
    utility: float
    """Σ o_i Acc(v_i) / N: SuperServe's utility (equations 1, 2) with all weights 1.

    It equals Model-Switching's effective accuracy (HotCloud'20), in which late and dropped requests
    count 0.
    """
    regret: float | None
    """1 - utility / bound: the loss relative to the clairvoyant bound; None without a bound."""
    max_accuracy_drop: float | None
    """1 - the minimum over windows of effective accuracy / accuracy of the best variant (Proteus).

    Windows without answers are ignored.
    """
    floor_violations: int = Field(ge=0)
    """Number of answers, including late ones, with Acc(v_i) < m_i; must be 0."""
    fairness: float | None
    """Jain's index of the utilities of the classes (Jain, Chiu, Hawe, DEC-TR-301, 1984).

    1 if all are equal, 1/classes if all but one are 0, None if all are 0.
    """
    status_shares: Mapping[str, float]
    """Shares of N by status, for all statuses."""
    variant_shares: Mapping[str, float]
    """Shares of the answers by variant."""
    latency_s: Mapping[str, float]
    """p50, p95 and p99 of the answers, measured from the arrival time; empty without answers."""
    mean_batch_size: float | None
    """Mean number of samples over batches."""
    switches_per_1000_batches: float | None
    """Batches sent to another variant than the batch before, per 1,000."""
    replica_s_per_1000_on_time: float | None
    """Cost: total time of batches, from dispatch to response, per 1,000 answers on time."""
    classes: Mapping[str, ClassScore]


@dataclass(frozen=True, slots=True)
class _RequestTable:
    """Columns by request from which the scores are computed."""

    answered: _Bools
    on_time: _Bools
    accuracy: Floats
    floor: Floats
    """0 for requests without a floor; never NaN."""

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
    """Compute the scores of outcomes.

    `accuracy`, 0 to 1 by variant, includes all variants that could be chosen; the accuracy drop is
    relative to the best of them. `bound` is the upper bound of the utility, 0 to 1, on this
    workload. `window_s` is the width of the windows of the accuracy drop, in seconds.

    Raises ValueError if the workload has no requests or no duration, if the accuracy of a variant
    is missing, or if an answered request has no variant or no time.
    """
    workload = outcomes.workload
    total, seconds = len(workload), workload.seconds
    if total == 0 or not seconds > 0:
        raise ValueError(
            f"workload {workload.name!r} must have requests and a duration above 0 seconds; "
            f"it has {total} in {seconds:g} s"
        )
    table = _tabulate(outcomes, accuracy)
    on_time = int(table.on_time.sum())
    utility = float(table.utility.mean())
    joint = int(table.is_joint.sum())
    answered = int(table.answered.sum())
    classes = _classes(outcomes, table)
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
        mean_accuracy=_mean(table.accuracy[table.on_time]),
        effective_accuracy=_mean(table.accuracy[table.answered]),
        utility=utility,
        regret=1 - utility / bound if bound else None,
        max_accuracy_drop=_max_drop(outcomes, accuracy, window_s),
        floor_violations=int(table.is_below_floor.sum()),
        fairness=jain(np.array([c.utility for c in classes.values() if c.utility is not None])),
        status_shares={
            status.name.lower(): float(np.mean(outcomes.status == status))
            for status in RequestStatus
        },
        variant_shares=_variant_shares(outcomes, table.answered),
        latency_s=_latencies(outcomes, table.answered),
        mean_batch_size=_batch_size(outcomes, table.answered),
        switches_per_1000_batches=_switches(outcomes),
        replica_s_per_1000_on_time=_cost(outcomes, on_time),
        classes=classes,
    )


def jain(values: Floats) -> float | None:
    """Return (Σx)² / (n Σx²) of `[n]` non-negative values; None if all are 0."""
    squares = float((values**2).sum())
    return float(values.sum()) ** 2 / (len(values) * squares) if squares > 0 else None


def _tabulate(outcomes: Outcomes, accuracy: Mapping[str, float]) -> _RequestTable:
    answered = outcomes.status == RequestStatus.ANSWERED
    broken = answered & ((outcomes.variant < 0) | ~np.isfinite(outcomes.finished_s))
    if broken.any():
        raise ValueError(
            f"an answered request must have a variant and a time; request {int(broken.argmax())} "
            f"of policy {outcomes.policy!r} does not"
        )
    floors = np.array(
        [_floor(number, outcomes) for number in range(len(outcomes.workload.classes))]
    )
    return _RequestTable(
        answered=answered,
        on_time=outcomes.on_time,
        # index -1, no answer, selects the NaN at the end
        accuracy=np.append(accuracies_of(outcomes.variants, accuracy), np.nan)[outcomes.variant],
        floor=floors[outcomes.workload.class_of],
    )


def _floor(number: int, outcomes: Outcomes) -> float:
    slo = outcomes.workload.classes[number].slo
    return 0.0 if slo.variant is not None else slo.min_accuracy


def _classes(outcomes: Outcomes, table: _RequestTable) -> dict[str, ClassScore]:
    scores = {}
    for number, slo_class in enumerate(outcomes.workload.classes):
        is_member = outcomes.workload.class_of == number
        scores[slo_class.name] = ClassScore(
            requests=int(is_member.sum()),
            attainment=_mean(table.on_time[is_member]),
            joint_attainment=_mean(table.is_joint[is_member]),
            mean_accuracy=_mean(table.accuracy[is_member & table.on_time]),
            utility=_mean(table.utility[is_member]),
            floor=_floor(number, outcomes),
            floor_violations=int(table.is_below_floor[is_member].sum()),
        )
    return scores


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
    # a request of 2 samples in a batch of 8 counts as a quarter of the batch
    batches = float((samples / outcomes.batch_size[is_known]).sum())
    return float(samples.sum()) / batches if batches else None


def _switches(outcomes: Outcomes) -> float | None:
    batches = outcomes.batches
    if batches is None or len(batches.variant) < 2:
        return None
    variants = batches.variant[np.argsort(batches.sent_s, kind="stable")]
    return 1000 * float(np.mean(variants[1:] != variants[:-1]))


def _cost(outcomes: Outcomes, on_time: int) -> float | None:
    if outcomes.batches is None or not on_time:
        return None
    return 1000 * float(outcomes.batches.took_s.sum()) / on_time
