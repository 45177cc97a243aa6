"""The linear programme of `bound.clairvoyant`, which states it: its matrices, and its solution.

groups of requests, machine ─▶ solve ─▶ the largest sums of accuracies and of answers in time
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
    """Requests that are alike, in order of `first`. Of two dimensions: [group, variant]."""

    count: IntArray
    first: IntArray
    """Bin of arrival."""
    last: IntArray
    """Bin of the deadline."""
    earliest: FloatArray
    """First arrival, in bins."""
    latest: FloatArray
    """Last deadline, in bins."""
    chance: FloatArray
    work: FloatArray
    """Of one request, in bins of one core; infinite where the variant cannot be in time."""

    def part(self, chosen: slice) -> RequestGroups:
        """Return some of them."""
        return RequestGroups(*(getattr(self, name)[chosen] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class MachineCapacity:
    """What there is to work with."""

    cores: float
    slots: FloatArray
    """By variant."""
    lost: FloatArray
    """By variant and bin: slots that are out. No bins if none ever is."""


def solve(groups: RequestGroups, accuracies: FloatArray, machine: MachineCapacity) -> FloatArray:
    """Return the largest expected sum of accuracies, and of answers in time."""
    group, variant = np.nonzero((groups.chance > 0) & np.isfinite(groups.work))
    answers = len(group)  # the unknowns: answers in time by group and variant, then work by bin
    # variants with a slot for every core are limited by the cores alone: their work is one
    limited = (machine.slots < machine.cores) | machine.lost.any(axis=1)
    pool = np.where(limited, np.arange(len(limited)), np.argmin(limited))
    windows, window = np.unique(
        np.column_stack([groups.first[group], groups.last[group], pool[variant]]),
        axis=0,
        return_inverse=True,
    )
    bins_of = windows[:, 1] - windows[:, 0] + 1
    of_window = np.repeat(np.arange(len(windows)), bins_of)
    place = np.arange(len(of_window)) - np.repeat(np.cumsum(bins_of) - bins_of, bins_of)
    bin_of = windows[of_window, 0] + place
    worker = windows[of_window, 2]
    unknowns = answers + len(of_window)
    column = np.arange(answers, unknowns)

    def rows(entries: FloatArray, row: IntArray, of: IntArray, count: int) -> Any:
        return sparse.coo_matrix((entries, (row, of)), shape=(count, unknowns))

    needed = groups.work[group, variant]
    balance = rows(
        np.concatenate([np.ones(len(of_window)), -needed]),
        np.concatenate([of_window, window]),
        np.concatenate([column, np.arange(answers)]),
        len(windows),
    )
    origin = int(bin_of.min())
    bins = int(bin_of.max()) - origin + 1
    limits = [
        rows(1 / groups.chance[group, variant], group, np.arange(answers), len(groups.count)),
        rows(np.ones(len(of_window)), bin_of - origin, column, bins),
    ]
    most = [groups.count.astype(float), np.full(bins, machine.cores)]
    for one in np.flatnonzero(limited):
        mine = np.flatnonzero(worker == one)
        limits.append(rows(np.ones(len(mine)), bin_of[mine] - origin, column[mine], bins))
        left = np.full(bins, machine.slots[one])
        if machine.lost.size:
            left -= machine.lost[one, origin : origin + bins]
        most.append(np.maximum(left, 0))

    earliest, latest = np.full(len(windows), np.inf), np.zeros(len(windows))
    np.minimum.at(earliest, window, groups.earliest[group])
    np.maximum.at(latest, window, groups.latest[group])
    within, whose = np.unique(np.column_stack([window, group]), axis=0).T
    at_once = np.minimum(
        np.bincount(within, groups.count[whose]),
        np.minimum(machine.slots[windows[:, 2]], machine.cores),
    )
    covered = np.minimum(bin_of + 1, latest[of_window]) - np.maximum(bin_of, earliest[of_window])
    upper = np.concatenate([np.full(answers, np.inf), covered * at_once[of_window]])

    def best(weights: FloatArray) -> tuple[float, FloatArray]:
        found = linprog(
            np.concatenate([-weights[variant], np.zeros(len(of_window))]),
            A_ub=sparse.vstack(limits).tocsc(),
            b_ub=np.concatenate(most),
            A_eq=balance.tocsc(),
            b_eq=np.zeros(len(windows)),
            bounds=np.column_stack([np.zeros(unknowns), upper]),
            method="highs-ds",
        )
        if not found.success:
            raise RuntimeError(f"HiGHS did not solve the programme: {found.message}")
        return -found.fun, found.x[:answers]

    utility, answered = best(accuracies)
    attained = float(groups.count @ groups.chance.max(axis=1))
    if answered.sum() < attained * (1 - 1e-7):  # else accuracy costs no answer: that is the most
        attained, _ = best(np.ones(len(accuracies)))
    return np.array([utility, attained])
