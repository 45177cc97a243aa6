"""Where our policy falls short of what was aimed at: the conditions, and by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Final

from loadtests.trials.grid import Grid
from loadtests.trials.repeats import are_paired, dominating_policies
from loadtests.trials.runs import Trial
from loadtests.trials.scores import Score
from loadtests.trials.tables import ATTAINMENT_GOAL, NO_VALUE

REGRET: Final = 0.03
"""What utility may lack to the bound."""


def shortfalls(trial: Trial) -> Grid:
    """Return a row for each condition in which the first policy misses an aim.

    The aims: 99.9 % on time where the bound says that it can be reached, no more regret than
    `REGRET`, and no policy that dominates it. Beside it stands the policy with the most utility.
    """
    rows = []
    ours = trial.policies[0]
    attainable = trial.attainable
    for condition, by_policy in trial.scores.items():
        if ours not in by_policy:
            continue
        attained = fmean(score.attainment for score in by_policy[ours])
        possible = attainable.get(condition)
        regrets = {name: regret for name, scores in by_policy.items() for regret in _regret(scores)}
        better = _dominating(by_policy, ours)
        is_late = possible is not None and possible >= ATTAINMENT_GOAL > attained
        if not (is_late or better or regrets.get(ours, 0.0) > REGRET):
            continue
        best = min(regrets, key=regrets.__getitem__) if regrets else ""
        rows.append(
            (
                condition.label,
                f"{100 * attained:.3f}",
                NO_VALUE if possible is None else f"{100 * possible:.3f}",
                f"{100 * regrets[ours]:z.2f}" if ours in regrets else NO_VALUE,
                f"{best} {100 * regrets[best]:z.2f}" if best else NO_VALUE,
                ", ".join(better) or NO_VALUE,
            )
        )
    columns = (
        "condition", "on time, %", "possible, %", "regret, %", "least regret, %", "dominated by",
    )  # fmt: skip
    title = f"{trial.title}: where {ours} falls short"
    note = (
        f"{len(rows)} of {len(trial.scores)} conditions: less than {100 * ATTAINMENT_GOAL:g} % on time where "
        f"that is possible, regret above {100 * REGRET:g} %, or dominated."
    )
    return Grid(title, columns, rows, note)


def _regret(scores: Sequence[Score]) -> list[float]:
    regrets = [score.regret for score in scores if score.regret is not None]
    return [fmean(regrets)] if regrets else []


def _dominating(by_policy: Mapping[str, Sequence[Score]], ours: str) -> tuple[str, ...]:
    mine = by_policy[ours]
    others = {
        name: scores
        for name, scores in by_policy.items()
        if name != ours and are_paired(mine, scores)
    }
    return dominating_policies(mine, others)
