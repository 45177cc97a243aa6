"""Several seeds: means with their intervals, and which policy is better than which.

Policies are compared seed by seed on the same workload, so what the workloads differ by cancels.
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
"""A difference that sums of shares may have where in truth there is none."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over repeats."""

    value: float
    half_width: float | None
    """Half the width of its 95 % t-interval; None if there was one repeat only."""

    @property
    def low(self) -> float:
        """Lower end of the interval; the value itself where there is none."""
        return self.value - (self.half_width or 0.0)

    @property
    def high(self) -> float:
        """Upper end of the interval; the value itself where there is none."""
        return self.value + (self.half_width or 0.0)


@dataclass(frozen=True, slots=True)
class Difference:
    """Another policy minus ours, paired by seed, on both axes that count."""

    attainment: Estimate
    accuracy: Estimate

    @property
    def is_dominance(self) -> bool:
        """Tell whether the other policy dominates ours.

        It does if it is at least as good in both, by its means, and in one of them better by more
        than the 95 % interval of the paired difference.
        """
        axes = (self.attainment, self.accuracy)
        is_as_good = all(axis.value >= -_ROUNDING for axis in axes)
        return is_as_good and any(axis.low > _ROUNDING for axis in axes)


def estimate(values: Sequence[float | None]) -> Estimate | None:
    """Return the mean with Student's 95 % interval; None unless every repeat has a value.

    W. S. Gosset, The probable error of a mean, Biometrika 6 (1908). Beyond 31 repeats the interval
    is that of 31, a little too wide.
    """
    known = [value for value in values if value is not None]
    return _mean(known) if known and len(known) == len(values) else None


def _mean(values: Sequence[float]) -> Estimate:
    if len(values) == 1:
        return Estimate(values[0], None)
    student = STUDENT[min(len(values) - 1, len(STUDENT)) - 1]
    return Estimate(fmean(values), student * stdev(values) / sqrt(len(values)))


def are_paired(ours: Sequence[Score], other: Sequence[Score]) -> bool:
    """Tell whether both have repeats of the same workloads in the same order, two or more."""
    workloads = [(score.workload, score.requests) for score in ours]
    return len(workloads) > 1 and workloads == [(one.workload, one.requests) for one in other]


def difference(ours: Sequence[Score], other: Sequence[Score]) -> Difference:
    """Return by how much another policy is ahead of ours: the i-th of both on the same workload.

    A policy that answered nothing in time has accuracy 0. Raises `ValueError` unless both have as
    many repeats, two or more, of the same workloads.
    """
    if len(ours) != len(other) or len(ours) < 2:
        raise ValueError(
            f"need as many repeats of both, two or more, to tell a difference from chance; "
            f"got {len(ours)} and {len(other)}"
        )
    for mine, theirs in zip(ours, other, strict=True):
        if (mine.workload, mine.requests) != (theirs.workload, theirs.requests):
            raise ValueError(
                f"repeats must be of the same workloads in the same order; got "
                f"{mine.workload!r} of {mine.requests} requests and "
                f"{theirs.workload!r} of {theirs.requests}"
            )
    pairs = list(zip(ours, other, strict=True))
    return Difference(
        attainment=_mean([theirs.attainment - mine.attainment for mine, theirs in pairs]),
        accuracy=_mean(
            [(theirs.mean_accuracy or 0.0) - (mine.mean_accuracy or 0.0) for mine, theirs in pairs]
        ),
    )


def dominating_policies(
    ours: Sequence[Score], others: Mapping[str, Sequence[Score]]
) -> tuple[str, ...]:
    """Return the policies that dominate ours, see `Difference`; raises as `difference` does."""
    return tuple(name for name, scores in others.items() if difference(ours, scores).is_dominance)
