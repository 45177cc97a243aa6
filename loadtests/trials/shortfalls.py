"""A table of the conditions in which the evaluated policy misses a goal, and by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Final

from loadtests.trials.grid import Grid
from loadtests.trials.repeats import are_paired, dominating_policies
from loadtests.trials.runs import Trial
from loadtests.trials.scores import Score
from loadtests.trials.tables import ATTAINMENT_GOAL, NO_VALUE

MAX_REGRET: Final = 0.03
"""Maximum regret: the relative difference of the utility to its upper bound."""


def shortfalls(trial: Trial) -> Grid:
    """Return a row for each condition in which the first policy misses a goal.

    The goals are: 99.9 % on time if the bound permits it, regret of at most `MAX_REGRET`, and no
    policy that dominates it. Each row includes the policy with the least regret.
    """
    rows = []
    evaluated = trial.policies[0]
    attainable = trial.attainable
    for condition, by_policy in trial.scores.items():
        if evaluated not in by_policy:
            continue
        attainment = fmean(score.attainment for score in by_policy[evaluated])
        possible = attainable.get(condition)
        regrets = {
            name: regret for name, scores in by_policy.items() for regret in _mean_regret(scores)
        }
        better = _dominating(by_policy, evaluated)
        is_late = possible is not None and possible >= ATTAINMENT_GOAL > attainment
        if not (is_late or better or regrets.get(evaluated, 0.0) > MAX_REGRET):
            continue
        best = min(regrets, key=regrets.__getitem__) if regrets else ""
        rows.append(
            (
                condition.label,
                f"{100 * attainment:.3f}",
                NO_VALUE if possible is None else f"{100 * possible:.3f}",
                f"{100 * regrets[evaluated]:z.2f}" if evaluated in regrets else NO_VALUE,
                f"{best} {100 * regrets[best]:z.2f}" if best else NO_VALUE,
                ", ".join(better) or NO_VALUE,
            )
        )
    columns = (
        "condition", "on time, %", "possible, %", "regret, %", "least regret, %", "dominated by",
    )  # fmt: skip
    title = f"{trial.title}: conditions in which {evaluated} misses a goal"
    note = (
        f"{len(rows)} of {len(trial.scores)} conditions: less than {100 * ATTAINMENT_GOAL:g} % on "
        f"time although possible, regret above {100 * MAX_REGRET:g} %, or dominated."
    )
    return Grid(title, columns, rows, note)


def _mean_regret(scores: Sequence[Score]) -> list[float]:
    regrets = [score.regret for score in scores if score.regret is not None]
    return [fmean(regrets)] if regrets else []


def _dominating(by_policy: Mapping[str, Sequence[Score]], evaluated: str) -> tuple[str, ...]:
    our_scores = by_policy[evaluated]
    others = {
        name: scores
        for name, scores in by_policy.items()
        if name != evaluated and are_paired(our_scores, scores)
    }
    return dominating_policies(our_scores, others)
