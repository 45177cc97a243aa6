"""Live runs of policies side by side, and each beside its simulation.

Turns ─▶ live_grid, gaps_grid;   Turns ─▶ Trial, for files and plots

A run that does not count is shown all the same, in a row of its own that says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Final

from loadtests.live.turn import Turn
from loadtests.replay.live_run import gap_grid, gap_rows
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


def live_name(turn: Turn) -> str:
    """Return what a turn's live run is called in tables."""
    return turn.policy + (INVALID if turn.invalid else "")


def live_grid(turns: Sequence[Turn], title: str, note: str = "") -> Grid:
    """Return a row per policy, the mean of its runs with half the 95 % interval."""
    rows = []
    for name, some in _by_name(turns).items():
        scores = [turn.live.run.score for turn in some]
        rows.append(
            (
                name,
                str(len(some)),
                *(format_metric(column, scores) for column in COLUMNS),
                f"{1e3 * fmean(turn.live.client.delay_p99_s for turn in some):.2f}",
                answered_by(scores),
            )
        )
    columns = (
        "policy", "runs", *(METRICS[name].title for name in COLUMNS), "client p99 late, ms",
        "answered by, %",
    )  # fmt: skip
    why = dict.fromkeys(turn.invalid for turn in turns if turn.invalid)
    notes = (note, f"invalid: {'; '.join(why)}" if why else "")
    return Grid(title, columns, rows, ". ".join(filter(None, notes)))


def gaps_grid(turns: Sequence[Turn]) -> Grid:
    """Return three rows per policy: live, simulated on the same requests, and the difference.

    The difference is taken seed by seed.
    """
    rows = []
    for name, some in _by_name(turns).items():
        pairs = [(turn.live.run.score, turn.simulated.runs[0].score) for turn in some]
        rows += gap_rows(pairs, f"{name}: ")
    return gap_grid(rows, "Simulated with what batches took in each service's own calibration")


def live_trial(turns: Sequence[Turn], title: str, note: str) -> Trial:
    """Return every run, live and simulated, ours first."""
    live = tuple(turn.live.run.with_policy_name(f"{live_name(turn)} live") for turn in turns)
    simulated = tuple(run for turn in turns for run in turn.simulated.runs)
    return Trial(title=title, note=note, runs=(*live, *simulated))


def _by_name(turns: Sequence[Turn]) -> Mapping[str, list[Turn]]:
    found: dict[str, list[Turn]] = {}
    for turn in turns:
        found.setdefault(live_name(turn), []).append(turn)
    return found
