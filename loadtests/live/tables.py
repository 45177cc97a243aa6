"""Compares the live runs of several policies, and each with its simulation.

PolicyRuns ─▶ live_grid, gaps_grid;   PolicyRuns ─▶ Trial, for files and plots

Invalid runs are shown too, in rows of their own that are marked as invalid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Final

from loadtests.live.policy_run import PolicyRun
from loadtests.replay.live_run import difference_rows, differences_grid
from loadtests.trials.grid import Grid
from loadtests.trials.metric import METRICS
from loadtests.trials.overview import answered_by
from loadtests.trials.runs import Trial
from loadtests.trials.tables import format_metric

COLUMNS: Final = (
    "attainment", "mean_accuracy", "utility", "goodput_per_s", "p50_s", "p99_s", "shed", "expired",
    "failed", "lost",
)  # fmt: skip
INVALID: Final = ", INVALID"


def live_run_name(run: PolicyRun) -> str:
    """Return the name of a live run in tables."""
    return run.policy + (INVALID if run.invalid_reason else "")


def live_grid(runs: Sequence[PolicyRun], title: str, note: str = "") -> Grid:
    """Return a row per policy: means over its runs with half the width of the 95 % interval."""
    rows = []
    for name, group in _by_name(runs).items():
        scores = [run.live.run.score for run in group]
        rows.append(
            (
                name,
                str(len(group)),
                *(format_metric(column, scores) for column in COLUMNS),
                f"{1e3 * fmean(run.live.client.delay_p99_s for run in group):.2f}",
                answered_by(scores),
            )
        )
    columns = (
        "policy", "runs", *(METRICS[name].title for name in COLUMNS), "client delay p99, ms",
        "answered by, %",
    )  # fmt: skip
    reasons = dict.fromkeys(run.invalid_reason for run in runs if run.invalid_reason)
    notes = (note, f"invalid: {'; '.join(reasons)}" if reasons else "")
    return Grid(title, columns, rows, ". ".join(filter(None, notes)))


def run_differences_grid(runs: Sequence[PolicyRun]) -> Grid:
    """Return three rows per policy: live, simulated on the same requests, and the difference.

    The differences are paired by seed.
    """
    rows = []
    for name, group in _by_name(runs).items():
        pairs = [(run.live.run.score, run.simulated.runs[0].score) for run in group]
        rows += difference_rows(pairs, f"{name}: ")
    return differences_grid(
        rows, "Simulated with the batch durations that each service was calibrated to"
    )


def live_trial(runs: Sequence[PolicyRun], title: str, note: str) -> Trial:
    """Return all runs, the live ones before the simulated ones."""
    live = tuple(run.live.run.with_policy_name(f"{live_run_name(run)} live") for run in runs)
    simulated = tuple(each for run in runs for each in run.simulated.runs)
    return Trial(title=title, note=note, runs=(*live, *simulated))


def _by_name(runs: Sequence[PolicyRun]) -> Mapping[str, list[PolicyRun]]:
    groups: dict[str, list[PolicyRun]] = {}
    for run in runs:
        groups.setdefault(live_run_name(run), []).append(run)
    return groups
