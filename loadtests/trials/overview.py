"""One condition on one screen: how well each policy did, by which variants, and how foreseen."""

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


def overview(trial: Trial) -> list[Grid]:
    """Return a table for each condition of a trial, and one by class where there are several.

    `predicted, %`: how many of the batches took no longer than 95 % were expected to.
    """
    grids = []
    for grid, (condition, by_policy) in zip(by_condition(trial), trial.scores.items(), strict=True):
        places = [0, *(n for n, column in enumerate(grid.columns) if column in _TITLES)]
        found: dict[str, list[Coverage]] = {}
        for run in trial.runs:
            if run.condition == condition and run.calibration is not None:
                found.setdefault(run.score.policy, []).append(run.calibration.overall)
        rows = [
            (
                *(row[place] for place in places),
                _predicted(found.get(policy, ())),
                answered_by(scores),
            )
            for row, (policy, scores) in zip(grid.rows, by_policy.items(), strict=True)
        ]
        columns = (*(grid.columns[place] for place in places), "predicted, %", "answered by, %")
        note = ". ".join(filter(None, (trial.note.rstrip("."), grid.note)))
        title = trial.title if len(trial.scores) == 1 else f"{trial.title}: {grid.title}"
        grids.append(Grid(title, columns, rows, note))
        if any(len(scores[0].classes) > 1 for scores in by_policy.values()):
            grids.append(by_class(by_policy, f"{condition.label}, by class"))
    return grids


def _predicted(found: Sequence[Coverage]) -> str:
    if not found:
        return NO_VALUE
    batches = sum(each.batches for each in found)
    within = sum(each.within.value * each.batches for each in found)
    return f"{100 * within / batches:.1f}"


def answered_by(scores: Sequence[Score]) -> str:
    """Write the share of the answers that each variant gave, averaged over scores."""
    names = dict.fromkeys(name for score in scores for name in score.variant_shares)
    shares = {
        name: fmean(score.variant_shares.get(name, 0.0) for score in scores) for name in names
    }
    shown = [
        f"{name} {100 * share:.0f}" if share >= _MIN_SHARE else f"{name} <1"
        for name, share in sorted(shares.items(), key=lambda item: -item[1])
    ]
    return ", ".join(shown) or NO_VALUE
