"""A short table per condition: scores, variants and accuracy of the predictions by policy."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Final

from loadtests.trials.calibration import Coverage
from loadtests.trials.grid import Grid
from loadtests.trials.metric import METRICS
from loadtests.trials.runs import Trial
from loadtests.trials.scores import Score
from loadtests.trials.tables import NO_VALUE, by_class, by_condition

_TITLES: Final = frozenset(
    METRICS[name].title
    for name in (
        "attainment", "mean_accuracy", "utility", "regret", "p50_s", "p99_s", "floor_violations",
        "failed", "lost",
    )
)  # fmt: skip
_MIN_SHARE: Final = 0.005
"""Shares below it are written as "<1"."""


def overview(trial: Trial) -> list[Grid]:
    """Return a table for each condition, and one by class if there are several classes.

    `predicted, %` is the share of batches within their 95 % prediction.
    """
    grids = []
    for grid, (condition, by_policy) in zip(by_condition(trial), trial.scores.items(), strict=True):
        indices = [0, *(n for n, column in enumerate(grid.columns) if column in _TITLES)]
        coverages: dict[str, list[Coverage]] = {}
        for run in trial.runs:
            if run.condition == condition and run.calibration is not None:
                coverages.setdefault(run.score.policy, []).append(run.calibration.overall)
        rows = [
            (
                *(row[index] for index in indices),
                _predicted(coverages.get(policy, ())),
                answered_by(scores),
            )
            for row, (policy, scores) in zip(grid.rows, by_policy.items(), strict=True)
        ]
        columns = (*(grid.columns[index] for index in indices), "predicted, %", "answered by, %")
        note = ". ".join(filter(None, (trial.note.rstrip("."), grid.note)))
        title = trial.title if len(trial.scores) == 1 else f"{trial.title}: {grid.title}"
        grids.append(Grid(title, columns, rows, note))
        if any(len(scores[0].classes) > 1 for scores in by_policy.values()):
            grids.append(by_class(by_policy, f"{condition.label}, by class"))
    return grids


def _predicted(coverages: Sequence[Coverage]) -> str:
    if not coverages:
        return NO_VALUE
    batches = sum(each.batches for each in coverages)
    within = sum(each.within.value * each.batches for each in coverages)
    return f"{100 * within / batches:.1f}"


def answered_by(scores: Sequence[Score]) -> str:
    """Return the share of each variant in the answers as text, averaged over scores."""
    names = dict.fromkeys(name for score in scores for name in score.variant_shares)
    shares = {
        name: fmean(score.variant_shares.get(name, 0.0) for score in scores) for name in names
    }
    texts = [
        f"{name} {100 * share:.0f}" if share >= _MIN_SHARE else f"{name} <1"
        for name, share in sorted(shares.items(), key=lambda item: -item[1])
    ]
    return ", ".join(texts) or NO_VALUE
