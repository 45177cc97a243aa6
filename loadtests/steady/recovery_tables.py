"""A table of disturbances with the time to recover from each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from loadtests.steady.disturbances import DISTURBANCES
from loadtests.steady.recovery import BIN_S, RECOVERED, WINDOW_S, Recovery, median_interval
from loadtests.steady.recovery_run import DisturbedRuns
from loadtests.trials.grid import Grid
from loadtests.trials.tables import format_mean


def recovery_grids(runs: DisturbedRuns) -> list[Grid]:
    """Return a table per policy with a row per disturbance and load."""
    policies = dict.fromkeys(run.policy for run in runs.runs)
    return [_policy_grid(runs, policy) for policy in policies]


def _policy_grid(runs: DisturbedRuns, policy: str) -> Grid:
    groups: dict[tuple[str, str], list[Recovery]] = {}
    for run in runs.runs:
        if run.policy == policy:
            groups.setdefault((run.disturbance, run.load), []).append(run.recovery)
    rows = [
        (DISTURBANCES[name].title, f"{load} loop", *_cells(group, runs.observed_s))
        for (name, load), group in groups.items()
    ]
    columns = (
        "disturbance", "load", "goodput/s before", "answers lost", "lost, s of goodput",
        "time to recover, s",
    )  # fmt: skip
    note = (
        f"Time to recover: median over rounds, from the end of the disturbance until mean goodput "
        f"over {WINDOW_S:g} s, in steps of {BIN_S:g} s, is at least {100 * RECOVERED:g} % of its "
        f"mean before. Brackets: its 95 % interval from 6 rounds on, otherwise the least and the "
        f"greatest. {runs.note}"
    )
    return Grid(f"{policy}, deadline {runs.deadline_ms:g} ms", columns, rows, note)


def _cells(group: Sequence[Recovery], observed_s: float) -> list[str]:
    lost_s = [each.lost / each.before_per_s if each.before_per_s else None for each in group]
    times_s = [math.inf if each.after_s is None else each.after_s for each in group]
    middle, low, high = (_format_s(value, observed_s) for value in median_interval(times_s))
    return [
        format_mean([each.before_per_s for each in group], 1, 0),
        format_mean([each.lost for each in group], 1, 0),
        format_mean(lost_s, 1, 2),
        middle if len(group) == 1 else f"{middle} [{low}, {high}]",
    ]


def _format_s(seconds: float, observed_s: float) -> str:
    return f"{seconds:.1f}" if math.isfinite(seconds) else f"> {observed_s - WINDOW_S:g}"
