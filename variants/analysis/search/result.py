"""The claims of a search: its Pareto set, which of it is confirmed, and the best of those.

    candidates ─▶ limits met on the selection part ─▶ Pareto set ─▶ tested in order on the
    confirmation part, the safest first, until one fails ─▶ SearchResult

Everything but the number of the look is a pure function of the candidates' records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from variants.analysis.search.context import SearchContext
from variants.analysis.search.goal import Cost, Goal
from variants.analysis.search.store import Measurement
from variants.catalog.catalog import Interval
from variants.catalog.recipe import Recipe, VariantName
from variants.catalog.record import Record

Verdict: TypeAlias = Literal[
    "confirmed", "not confirmed", "not tested", "drops too much", "too slow", "meets"
]
"""`not tested`: a safer candidate failed before it. `meets`: the goal does not limit the drop."""


@dataclass(frozen=True)
class Candidate:
    """A recipe that was built and measured."""

    name: VariantName
    recipe: Recipe
    measured: Measurement


class ParetoRow(Record):
    """One candidate of the Pareto set."""

    name: VariantName
    recipe: Recipe
    verdict: Verdict
    selection: Interval
    """Accuracy minus dense's on the selection part. Optimistic, because the selection used it."""
    confirmation: Interval | None
    """The same on the confirmation part; None if the candidate was not tested there."""
    parameters: int
    bytes: int
    latency_s: float
    speedup: Interval


class SearchResult(Record):
    """The result of a search so far."""

    model: str
    goal: Goal
    rows: tuple[ParetoRow, ...]
    """The least cost first."""
    chosen: VariantName | None
    """Name of the row that meets the goal, if there is one."""
    nearest: ParetoRow | None
    """The nearest miss if no row meets the goal."""
    dense_parameters: int
    dense_bytes: int
    dense_latency_s: float | None
    """Median latency of a batch in the faster runtime; None if no candidate was measured."""
    selection_samples: int
    confirmation_samples: int
    look: int
    """Number of this look at the confirmation part, from 1; 0 if no candidate was tested."""
    look_confidence: float
    """Confidence of the intervals on the confirmation part."""
    tried: int
    """Candidates built in this run. The others are known from earlier runs."""
    known: int
    """Candidates with measurements."""
    skipped: Mapping[str, str]
    """Families and candidates that were not built, with the reason."""
    is_finished: bool
    """Whether every family's edge is known. False if the time ran out, or if a candidate failed for
    a reason that may not recur."""


def conclude(
    goal: Goal,
    candidates: Sequence[Candidate],
    context: SearchContext,
    register_look: Callable[[Sequence[Candidate]], int],
    *,
    skipped: Mapping[str, str],
    is_finished: bool,
    tried: int,
) -> SearchResult:
    """Test the Pareto set on the confirmation part; `register_look` returns the look's number.

    The order of the tests is fixed before the confirmation part is used. Each test has the full
    level, and the first failure ends them. So all claims that are called confirmed hold together
    with the goal's confidence (W. Maurer, L. A. Hothorn and W. Lehmacher 1995; P. H. Westfall and
    A. Krishen, J. Statistical Planning and Inference 99 (2001)).
    """
    eligible = [
        c
        for c in candidates
        if meets_max_drop(c.measured, goal) and meets_latency(c.measured, goal)
    ]
    listed = {c.name: c for c in (*pareto(candidates, goal), *pareto(eligible, goal))}
    order = sorted(
        pareto(eligible, goal),
        key=lambda c: (-c.measured.selection.difference(goal.confidence).low, c.name),
    )
    number = register_look(order) if order else 0
    confidence = look_confidence(goal, number)
    verdicts = confirm_in_order(order, goal, confidence)
    rows = sorted(
        (_row(c, goal, verdicts.get(c.name), confidence) for c in listed.values()),
        key=lambda row: (_cost(row, goal.cost), row.name),
    )
    chosen = _choose(rows, goal)
    return SearchResult(
        model=context.model.name,
        goal=goal,
        rows=tuple(rows),
        chosen=chosen,
        nearest=None if chosen else _nearest(candidates, verdicts, goal, confidence),
        dense_parameters=context.parameters,
        dense_bytes=context.bytes,
        dense_latency_s=min((c.measured.dense_latency_s for c in candidates), default=None),
        selection_samples=len(context.selection),
        confirmation_samples=len(context.confirmation),
        look=number,
        look_confidence=confidence,
        tried=tried,
        known=len(candidates),
        skipped=skipped,
        is_finished=is_finished,
    )


def look_confidence(goal: Goal, number: int) -> float:
    """Return the confidence of the two-sided intervals of look `number`, counted from 1.

    With a largest drop only their low ends are claims. The error probability of look k is
    (1 - confidence) / (k (k + 1)), so that of any number of looks together is at most
    1 - confidence: each further look needs stronger evidence. The interval of the first look has
    the goal's confidence.
    """
    if goal.max_drop is None or number == 0:
        return goal.confidence
    return 1 - 2 * (1 - goal.confidence) / (number * (number + 1))


def meets_max_drop(measured: Measurement, goal: Goal) -> bool:
    """Return whether the low end of the difference on the selection part is within the drop."""
    if goal.max_drop is None:
        return True
    return measured.selection.difference(goal.confidence).low >= -goal.max_drop


def meets_latency(measured: Measurement, goal: Goal) -> bool:
    """Return whether the median latency is within the limit."""
    return goal.latency_s is None or measured.latency_s <= goal.latency_s


def pareto(candidates: Sequence[Candidate], goal: Goal) -> list[Candidate]:
    """Return the Pareto set of accuracy, on the selection part, and cost."""
    places = [
        (-c.measured.selection.difference(goal.confidence).value, _cost(c.measured, goal.cost))
        for c in candidates
    ]
    return [
        candidate
        for candidate, (loss, cost) in zip(candidates, places, strict=True)
        if not any(a <= loss and b <= cost and (a, b) != (loss, cost) for a, b in places)
    ]


def confirm_in_order(
    order: Sequence[Candidate], goal: Goal, confidence: float
) -> dict[str, Verdict]:
    """Test the candidates on the confirmation part in this order; return their verdicts."""
    if goal.max_drop is None:
        return {candidate.name: "meets" for candidate in order}
    verdicts: dict[str, Verdict] = {}
    has_failed = False
    for candidate in order:
        low = candidate.measured.confirmation.difference(confidence).low
        if has_failed:
            verdicts[candidate.name] = "not tested"
        else:
            has_failed = low < -goal.max_drop
            verdicts[candidate.name] = "not confirmed" if has_failed else "confirmed"
    return verdicts


def _row(candidate: Candidate, goal: Goal, verdict: Verdict | None, confidence: float) -> ParetoRow:
    measured = candidate.measured
    if verdict is None:
        verdict = "too slow" if meets_max_drop(measured, goal) else "drops too much"
    is_tested = verdict in ("confirmed", "not confirmed", "meets")
    return ParetoRow(
        name=candidate.name,
        recipe=candidate.recipe,
        verdict=verdict,
        selection=measured.selection.difference(goal.confidence),
        confirmation=measured.confirmation.difference(confidence) if is_tested else None,
        parameters=measured.parameters,
        bytes=measured.bytes,
        latency_s=measured.latency_s,
        speedup=measured.speedup,
    )


def _choose(rows: Sequence[ParetoRow], goal: Goal) -> str | None:
    passing = [row for row in rows if row.verdict in ("confirmed", "meets")]
    if goal.least is None:  # a choice by the confirmation part would make its value optimistic
        best = max(passing, key=lambda row: row.selection.value, default=None)
    else:
        best = min(passing, key=lambda row: _cost(row, goal.cost), default=None)
    return best.name if best else None


def _nearest(
    candidates: Sequence[Candidate], verdicts: Mapping[str, Verdict], goal: Goal, confidence: float
) -> ParetoRow | None:
    """Return the safest candidate that failed the test; else the one that misses a limit least."""
    if not candidates:
        return None
    tested = [c for c in candidates if verdicts.get(c.name) == "not confirmed"]
    within = [c for c in candidates if meets_latency(c.measured, goal)]
    if tested or (within and goal.max_drop is not None):
        nearest = max(
            tested or within, key=lambda c: c.measured.selection.difference(goal.confidence).low
        )
    else:
        nearest = min(candidates, key=lambda c: c.measured.latency_s)
    verdict = verdicts.get(nearest.name)
    return _row(nearest, goal, verdict, confidence)


def _cost(measured: Measurement | ParetoRow, cost: Cost) -> float:
    return {
        "parameters": float(measured.parameters),
        "bytes": float(measured.bytes),
        "latency": 1 / measured.speedup.value,
    }[cost]
