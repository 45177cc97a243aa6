"""Goodput against load: each policy's, in capacities of dense, and over that of a baseline.

What was offered is the load, in capacities of dense; what was on time of it, the load times the
attainment.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Final

from loadtests.trials.grid import Grid
from loadtests.trials.runs import Condition, Trial
from loadtests.trials.tables import NO_VALUE

BASELINES: Final[Mapping[str, str]] = {"dense alone": "fixed", "dense fifo": "fifo"}
"""What goodput is compared with, and the policy that it has: a service of dense alone, batched as
well as it can be, and one that does not look at the clock."""

BOUND: Final = "the bound"


def goodput_tables(trial: Trial) -> list[Grid]:
    """Return tables with a column per load, for each kind of arrivals: means over seeds.

    The first is in capacities of dense, with a row for the most that is possible where that is
    known; the others are over each of `BASELINES` that was tried, ∞ where nothing of it was on
    time.
    """
    by_arrivals: dict[tuple[str, float | None], dict[float, Condition]] = {}
    for condition in trial.scores:
        if condition.load is not None:
            by_load = by_arrivals.setdefault((condition.kind, condition.cv2), {})
            by_load[condition.load] = condition
    return [grid for by_load in by_arrivals.values() for grid in _tables(trial, by_load)]


def _tables(trial: Trial, by_load: Mapping[float, Condition]) -> Iterator[Grid]:
    loads, scores = sorted(by_load), trial.scores
    attained = {
        policy: [
            fmean(score.attainment for score in scores[by_load[load]][policy])
            if policy in scores[by_load[load]]
            else None
            for load in loads
        ]
        for policy in trial.policies
    }
    rows = [_scaled(policy, shares, loads) for policy, shares in attained.items()]
    possible = [trial.attainable.get(by_load[load]) for load in loads]
    if any(share is not None for share in possible):
        rows.append(_scaled(BOUND, possible, loads))
    first = by_load[loads[0]]
    arrivals = ", ".join(filter(None, (first.kind, first.settings("cv2"))))
    columns = ("policy", *(f"{load:g}" for load in loads))
    title = f"{trial.title}, {arrivals}"
    yield Grid(f"{title}: in capacities of dense, by load", columns, rows, trial.note)
    for baseline in BASELINES:
        if baseline in attained:
            ratios = [
                (policy, *map(_ratio, shares, attained[baseline]))
                for policy, shares in attained.items()
            ]
            yield Grid(f"{title}: over that of {baseline}, by load", columns, ratios)


def _scaled(name: str, shares: Sequence[float | None], loads: Sequence[float]) -> tuple[str, ...]:
    pairs = zip(shares, loads, strict=True)
    return (name, *(NO_VALUE if share is None else f"{share * load:.3f}" for share, load in pairs))


def _ratio(share: float | None, baseline: float | None) -> str:
    if share is None or baseline is None:
        return NO_VALUE
    ratio = share / baseline if baseline else math.inf if share else math.nan
    return NO_VALUE if math.isnan(ratio) else f"{ratio:.2f}" if ratio < math.inf else "∞"
