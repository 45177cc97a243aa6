"""What a search may claim: its Pareto set, what of it is confirmed, and the best of that.

    candidates ─▶ hold on the selection part ─▶ Pareto set ─▶ tested in order on the confirmation
    part, the safest first, until one fails ─▶ Found

Everything but the count of looks is a pure function of the candidates' records.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from variants.analysis.search.bench import Bench
from variants.analysis.search.goal import Cost, Goal
from variants.analysis.search.ledger import Measured
from variants.catalog.catalog import Interval
from variants.catalog.recipe import Recipe, VariantName
from variants.catalog.record import Record

Verdict: TypeAlias = Literal[
    "confirmed", "not confirmed", "not tested", "drops too much", "too slow", "meets"
]
"""`not tested`: a safer candidate failed before it. `meets`: no drop was limited."""


@dataclass(frozen=True)
class Candidate:
    """A recipe that was made and measured."""

    name: VariantName
    recipe: Recipe
    measured: Measured


class Row(Record):
    """One candidate of the Pareto set."""

    name: VariantName
    recipe: Recipe
    verdict: Verdict
    selection: Interval
    """Accuracy minus dense's on the part that chose it: too good on average, for being chosen."""
    confirmation: Interval | None
    """The same on the part that chose nothing; None where it was not looked at."""
    parameters: int
    bytes: int
    latency_s: float
    speedup: Interval


class SearchResult(Record):
    """What a search has found so far."""

    model: str
    goal: Goal
    rows: tuple[Row, ...]
    """The least of the cost first."""
    chosen: VariantName | None
    """The row that answers the goal, if one does."""
    nearest: Row | None
    """If none does: what came nearest."""
    dense_parameters: int
    dense_bytes: int
    dense_latency_s: float | None
    """Median of a batch in its faster runtime; None if no candidate was measured."""
    selection_samples: int
    confirmation_samples: int
    look: int
    """How many lists of candidates the confirmation part has judged; 0 if none."""
    look_confidence: float
    """Of the intervals on the confirmation part."""
    tried: int
    """Candidates that were made in this run; the others were known from earlier ones."""
    known: int
    skipped: Mapping[str, str]
    is_finished: bool
    """Whether every family's edge is known; False if time ran out or a candidate only failed."""


def conclude(
    goal: Goal,
    candidates: Sequence[Candidate],
    bench: Bench,
    look: Callable[[Sequence[Candidate]], int],
    *,
    skipped: Mapping[str, str],
    is_finished: bool,
    tried: int,
) -> SearchResult:
    """Test the Pareto set and say what holds; `look` counts how often that was done.

    The tests are in an order fixed before the confirmation part is seen, each at full level, and
    the first that fails ends them: so all that are called confirmed hold together with the goal's
    confidence (W. Maurer, L. A. Hothorn and W. Lehmacher 1995; P. H. Westfall and A. Krishen,
    J. Statistical Planning and Inference 99 (2001)).
    """
    eligible = [
        c for c in candidates if holds_drop(c.measured, goal) and meets_latency(c.measured, goal)
    ]
    shown = {c.name: c for c in (*pareto(candidates, goal), *pareto(eligible, goal))}
    order = sorted(
        pareto(eligible, goal),
        key=lambda c: (-c.measured.selection.difference(goal.confidence).low, c.name),
    )
    number = look(order) if order else 0
    confidence = look_confidence(goal, number)
    verdicts = judge(order, goal, confidence)
    rows = sorted(
        (_row(c, goal, verdicts.get(c.name), confidence) for c in shown.values()),
        key=lambda row: (_cost(row, goal.cost), row.name),
    )
    chosen = _choose(rows, goal)
    return SearchResult(
        model=bench.model.name,
        goal=goal,
        rows=tuple(rows),
        chosen=chosen,
        nearest=None if chosen else _nearest(candidates, verdicts, goal, confidence),
        dense_parameters=bench.parameters,
        dense_bytes=bench.bytes,
        dense_latency_s=min((c.measured.dense_latency_s for c in candidates), default=None),
        selection_samples=len(bench.selection),
        confirmation_samples=len(bench.confirmation),
        look=number,
        look_confidence=confidence,
        tried=tried,
        known=len(candidates),
        skipped=skipped,
        is_finished=is_finished,
    )


def look_confidence(goal: Goal, number: int) -> float:
    """Return the confidence of the two-sided intervals of a look, counted from 1.

    With a largest drop only their low ends are claims. The k-th look may err with probability
    (1 - confidence) / (k (k + 1)), and all of them together, however many, with 1 - confidence:
    so whoever searches on after a look pays for it. The first look's is the goal's confidence.
    """
    if goal.max_drop is None or number == 0:
        return goal.confidence
    return 1 - 2 * (1 - goal.confidence) / (number * (number + 1))


def holds_drop(measured: Measured, goal: Goal) -> bool:
    """Return whether the low end of the difference, on the selection part, is within the drop."""
    if goal.max_drop is None:
        return True
    return measured.selection.difference(goal.confidence).low >= -goal.max_drop


def meets_latency(measured: Measured, goal: Goal) -> bool:
    """Return whether the median latency is within the limit."""
    return goal.latency_s is None or measured.latency_s <= goal.latency_s


def pareto(candidates: Sequence[Candidate], goal: Goal) -> list[Candidate]:
    """Return those that no other beats on accuracy, by the selection part, and on the cost."""
    places = [
        (-c.measured.selection.difference(goal.confidence).value, _cost(c.measured, goal.cost))
        for c in candidates
    ]
    return [
        candidate
        for candidate, (loss, cost) in zip(candidates, places, strict=True)
        if not any(a <= loss and b <= cost and (a, b) != (loss, cost) for a, b in places)
    ]


def judge(order: Sequence[Candidate], goal: Goal, confidence: float) -> dict[str, Verdict]:
    """Return the verdict on each candidate, put to the confirmation part in this order."""
    if goal.max_drop is None:
        return {candidate.name: "meets" for candidate in order}
    verdicts: dict[str, Verdict] = {}
    failed = False
    for candidate in order:
        low = candidate.measured.confirmation.difference(confidence).low
        if failed:
            verdicts[candidate.name] = "not tested"
        else:
            failed = low < -goal.max_drop
            verdicts[candidate.name] = "not confirmed" if failed else "confirmed"
    return verdicts


def _row(candidate: Candidate, goal: Goal, verdict: Verdict | None, confidence: float) -> Row:
    measured = candidate.measured
    if verdict is None:
        verdict = "too slow" if holds_drop(measured, goal) else "drops too much"
    is_seen = verdict in ("confirmed", "not confirmed", "meets")
    return Row(
        name=candidate.name,
        recipe=candidate.recipe,
        verdict=verdict,
        selection=measured.selection.difference(goal.confidence),
        confirmation=measured.confirmation.difference(confidence) if is_seen else None,
        parameters=measured.parameters,
        bytes=measured.bytes,
        latency_s=measured.latency_s,
        speedup=measured.speedup,
    )


def _choose(rows: Sequence[Row], goal: Goal) -> str | None:
    holding = [row for row in rows if row.verdict in ("confirmed", "meets")]
    if goal.least is None:  # by the selection part, or the confirmed value would be too good
        best = max(holding, key=lambda row: row.selection.value, default=None)
    else:
        best = min(holding, key=lambda row: _cost(row, goal.cost), default=None)
    return best.name if best else None


def _nearest(
    candidates: Sequence[Candidate], verdicts: Mapping[str, Verdict], goal: Goal, confidence: float
) -> Row | None:
    """Return the safest that was tested and failed; else what misses a limit by least."""
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


def _cost(measured: Measured | Row, cost: Cost) -> float:
    return {
        "parameters": float(measured.parameters),
        "bytes": float(measured.bytes),
        "latency": 1 / measured.speedup.value,
    }[cost]
