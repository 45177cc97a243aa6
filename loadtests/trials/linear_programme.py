"""The matrices and the solution of the linear programme that `bound.clairvoyant` states.

request groups, machine capacity ─▶ solve ─▶ maximum sums of accuracies and of answers on time
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from loadtests.trials.work import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class RequestGroups:
    """Groups of similar requests, in order of `first`; 2-D arrays are [group, variant]."""

    count: IntArray
    first: IntArray
    """Bin of the arrival."""
    last: IntArray
    """Bin of the deadline."""
    earliest: FloatArray
    """First arrival of the group, in bins."""
    latest: FloatArray
    """Last deadline of the group, in bins."""
    probability: FloatArray
    """Probability that a request is on time."""
    work: FloatArray
    """Work of one request, in bins of one core; infinite if the variant cannot be on time."""

    def select(self, rows: slice) -> RequestGroups:
        """Return some of the groups."""
        return RequestGroups(*(getattr(self, name)[rows] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class MachineCapacity:
    """The cores and slots of a machine."""

    cores: float
    slots: FloatArray
    """Slots by variant."""
    lost: FloatArray
    """Slots that are out of service, by variant and bin; without bins if there are no outages."""


def solve(groups: RequestGroups, accuracies: FloatArray, machine: MachineCapacity) -> FloatArray:
    """Return the maximum expected sum of accuracies, and that of answers on time.

    Raises RuntimeError if the solver fails.
    """
    group, variant = np.nonzero((groups.probability > 0) & np.isfinite(groups.work))
    answers = len(group)  # unknowns: answers on time by group and variant, then work by bin
    # variants with a slot for every core are limited by the cores only and share their work
    limited = (machine.slots < machine.cores) | machine.lost.any(axis=1)
    pool = np.where(limited, np.arange(len(limited)), np.argmin(limited))
    windows, window = np.unique(
        np.column_stack([groups.first[group], groups.last[group], pool[variant]]),
        axis=0,
        return_inverse=True,
    )
    bins_of = windows[:, 1] - windows[:, 0] + 1
    window_of = np.repeat(np.arange(len(windows)), bins_of)
    offset = np.arange(len(window_of)) - np.repeat(np.cumsum(bins_of) - bins_of, bins_of)
    bin_of = windows[window_of, 0] + offset
    worker = windows[window_of, 2]
    unknowns = answers + len(window_of)
    column = np.arange(answers, unknowns)

    def matrix(entries: FloatArray, row: IntArray, column: IntArray, count: int) -> Any:
        return sparse.coo_matrix((entries, (row, column)), shape=(count, unknowns))

    needed = groups.work[group, variant]
    balance = matrix(
        np.concatenate([np.ones(len(window_of)), -needed]),
        np.concatenate([window_of, window]),
        np.concatenate([column, np.arange(answers)]),
        len(windows),
    )
    origin = int(bin_of.min())
    bins = int(bin_of.max()) - origin + 1
    limits = [
        matrix(
            1 / groups.probability[group, variant], group, np.arange(answers), len(groups.count)
        ),
        matrix(np.ones(len(window_of)), bin_of - origin, column, bins),
    ]
    bounds = [groups.count.astype(float), np.full(bins, machine.cores)]
    for limited_variant in np.flatnonzero(limited):
        columns = np.flatnonzero(worker == limited_variant)
        limits.append(
            matrix(np.ones(len(columns)), bin_of[columns] - origin, column[columns], bins)
        )
        left = np.full(bins, machine.slots[limited_variant])
        if machine.lost.size:
            left -= machine.lost[limited_variant, origin : origin + bins]
        bounds.append(np.maximum(left, 0))

    earliest, latest = np.full(len(windows), np.inf), np.zeros(len(windows))
    np.minimum.at(earliest, window, groups.earliest[group])
    np.maximum.at(latest, window, groups.latest[group])
    member_window, member = np.unique(np.column_stack([window, group]), axis=0).T
    max_parallel = np.minimum(
        np.bincount(member_window, groups.count[member]),
        np.minimum(machine.slots[windows[:, 2]], machine.cores),
    )
    covered = np.minimum(bin_of + 1, latest[window_of]) - np.maximum(bin_of, earliest[window_of])
    upper = np.concatenate([np.full(answers, np.inf), covered * max_parallel[window_of]])

    def maximize(weights: FloatArray) -> tuple[float, FloatArray]:
        result = linprog(
            np.concatenate([-weights[variant], np.zeros(len(window_of))]),
            A_ub=sparse.vstack(limits).tocsc(),
            b_ub=np.concatenate(bounds),
            A_eq=balance.tocsc(),
            b_eq=np.zeros(len(windows)),
            bounds=np.column_stack([np.zeros(unknowns), upper]),
            method="highs-ds",
        )
        if not result.success:
            raise RuntimeError(f"HiGHS did not solve the linear programme: {result.message}")
        return -result.fun, result.x[:answers]

    utility, answered = maximize(accuracies)
    on_time = float(groups.count @ groups.probability.max(axis=1))
    if answered.sum() < on_time * (
        1 - 1e-7
    ):  # otherwise the first solution has the maximum of both
        on_time, _ = maximize(np.ones(len(accuracies)))
    return np.array([utility, on_time])
