"""Statistics over seeds: means with intervals, and dominance between policies.

Policies are compared seed by seed on the same workload, so differences between workloads cancel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev
from typing import Final

from loadtests.trials.scores import Score

STUDENT: Final = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip
"""The 97.5 % points of Student's t for 1, 2, ... degrees of freedom."""

_ROUNDING: Final = 1e-9
"""Differences up to this are rounding errors."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over repeats."""

    value: float
    half_width: float | None
    """Half the width of the 95 % t-interval; None for a single repeat."""

    @property
    def low(self) -> float:
        """Lower end of the interval; the value itself if there is no interval."""
        return self.value - (self.half_width or 0.0)

    @property
    def high(self) -> float:
        """Upper end of the interval; the value itself if there is no interval."""
        return self.value + (self.half_width or 0.0)


@dataclass(frozen=True, slots=True)
class Difference:
    """Differences of a baseline to the evaluated policy, paired by seed."""

    attainment: Estimate
    accuracy: Estimate

    @property
    def is_dominance(self) -> bool:
        """Whether the baseline dominates the evaluated policy.

        It does if both mean differences are at least 0, and the 95 % interval of one of them is
        above 0.
        """
        axes = (self.attainment, self.accuracy)
        is_as_good = all(axis.value >= -_ROUNDING for axis in axes)
        return is_as_good and any(axis.low > _ROUNDING for axis in axes)


def estimate(values: Sequence[float | None]) -> Estimate | None:
    """Return the mean with Student's 95 % interval; None if a repeat has no value.

    W. S. Gosset, The probable error of a mean, Biometrika 6 (1908). For more than 31 repeats
    the t value of 31 is used, so the interval is slightly too wide.
    """
    known = [value for value in values if value is not None]
    return _estimate(known) if known and len(known) == len(values) else None


def _estimate(values: Sequence[float]) -> Estimate:
    if len(values) == 1:
        return Estimate(values[0], None)
    student = STUDENT[min(len(values) - 1, len(STUDENT)) - 1]
    return Estimate(fmean(values), student * stdev(values) / sqrt(len(values)))


def are_paired(evaluated: Sequence[Score], baseline: Sequence[Score]) -> bool:
    """Whether both have at least two repeats, of the same workloads in the same order."""
    workloads = [(score.workload, score.requests) for score in evaluated]
    return len(workloads) > 1 and workloads == [(each.workload, each.requests) for each in baseline]


def difference(evaluated: Sequence[Score], baseline: Sequence[Score]) -> Difference:
    """Return the differences of a baseline to the evaluated policy, paired by workload.

    A policy without answers on time has accuracy 0. Raises ValueError if the numbers of repeats
    differ or are below 2, or if the workloads differ.
    """
    if len(evaluated) != len(baseline) or len(evaluated) < 2:
        raise ValueError(
            f"both policies must have the same number of repeats, two or more; "
            f"got {len(evaluated)} and {len(baseline)}"
        )
    for left, right in zip(evaluated, baseline, strict=True):
        if (left.workload, left.requests) != (
            right.workload,
            right.requests,
        ):
            raise ValueError(
                f"repeats must be of the same workloads in the same order; got "
                f"{left.workload!r} of {left.requests} requests and "
                f"{right.workload!r} of {right.requests}"
            )
    pairs = list(zip(evaluated, baseline, strict=True))
    return Difference(
        attainment=_estimate([right.attainment - left.attainment for left, right in pairs]),
        accuracy=_estimate(
            [(right.mean_accuracy or 0.0) - (left.mean_accuracy or 0.0) for left, right in pairs]
        ),
    )


def dominating_policies(
    evaluated: Sequence[Score], baselines: Mapping[str, Sequence[Score]]
) -> tuple[str, ...]:
    """Return the baselines that dominate the evaluated policy; raises as `difference` does."""
    return tuple(
        name for name, scores in baselines.items() if difference(evaluated, scores).is_dominance
    )
