"""Tables of goodput by load, in capacities of the dense variant and relative to baselines.

The load is the offered rate in capacities of dense; the goodput is the load times the attainment.
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
"""Policies of the baselines by name. Both serve dense only: one optimizes the batch size, the other
ignores deadlines."""

BOUND: Final = "the bound"


def goodput_tables(trial: Trial) -> list[Grid]:
    """Return tables with a column per load, for each arrival process; values are means over seeds.

    The first table is in capacities of dense, with a row for the upper bound if it is known. The
    others are relative to those `BASELINES` that were run, ∞ if no request of the baseline was on
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
    attainment = {
        policy: [
            fmean(score.attainment for score in scores[by_load[load]][policy])
            if policy in scores[by_load[load]]
            else None
            for load in loads
        ]
        for policy in trial.policies
    }
    rows = [_format_row(policy, shares, loads) for policy, shares in attainment.items()]
    bounds = [trial.attainable.get(by_load[load]) for load in loads]
    if any(share is not None for share in bounds):
        rows.append(_format_row(BOUND, bounds, loads))
    first = by_load[loads[0]]
    arrivals = ", ".join(filter(None, (first.kind, first.settings("cv2"))))
    columns = ("policy", *(f"{load:g}" for load in loads))
    title = f"{trial.title}, {arrivals}"
    yield Grid(f"{title}: in capacities of dense, by load", columns, rows, trial.note)
    for baseline in BASELINES:
        if baseline in attainment:
            ratios = [
                (policy, *map(_format_ratio, shares, attainment[baseline]))
                for policy, shares in attainment.items()
            ]
            yield Grid(f"{title}: over that of {baseline}, by load", columns, ratios)


def _format_row(
    name: str, shares: Sequence[float | None], loads: Sequence[float]
) -> tuple[str, ...]:
    pairs = zip(shares, loads, strict=True)
    return (name, *(NO_VALUE if share is None else f"{share * load:.3f}" for share, load in pairs))


def _format_ratio(share: float | None, baseline: float | None) -> str:
    if share is None or baseline is None:
        return NO_VALUE
    ratio = share / baseline if baseline else math.inf if share else math.nan
    return NO_VALUE if math.isnan(ratio) else f"{ratio:.2f}" if ratio < math.inf else "∞"
