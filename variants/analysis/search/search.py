"""Search for recipes that meet a goal: try families from mild to strong and confirm the best.

    project, Goal ─▶ for each family: next strength ─▶ candidate ─▶ record   (store: resumable)
                  ─▶ Pareto set ─▶ tests on the confirmation part ─▶ SearchResult

Decisions use the selection part of the validation split and claims the confirmation part. The test
split is not used. One seed gives the same candidates, except where latency decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

from rich.progress import Progress
from rich.text import Text

from variants.analysis.search.context import SearchContext, measure_recipe, prepare_context
from variants.analysis.search.goal import Goal
from variants.analysis.search.levels import next_level
from variants.analysis.search.result import (
    Candidate,
    SearchResult,
    conclude,
    meets_latency,
    meets_max_drop,
)
from variants.analysis.search.space import Family, families
from variants.analysis.search.store import CandidateTrial, Measurement, TrialStore, trial_key
from variants.build.check import load_checked_project
from variants.catalog.recipe import Recipe
from variants.compression.techniques import resolve_all

SECONDS_PER_POINT: Final = 0.5
"""Time to spend on the latency of a candidate, and of dense in each runtime."""
RECOVER_EPOCHS: Final = 2
"""Training epochs of each recovery step in the default space."""

Clock: TypeAlias = Callable[[], float]
"""A monotonic clock, in seconds."""

MeasureRecipe: TypeAlias = Callable[[SearchContext, Recipe, Callable[[str], None]], Measurement]
"""Builds and measures a candidate; calls its last argument with the name of each step."""


@dataclass
class _FamilySearch:
    """The search within one family, with the outcome of each level tried."""

    family: Family
    trials: dict[int, CandidateTrial] = field(default_factory=dict)

    def next_level(self, goal: Goal) -> int | None:
        passed = {level: _should_continue(trial, goal) for level, trial in self.trials.items()}
        return next_level(len(self.family.strengths), passed)


def search(
    project_file: Path,
    goal: Goal,
    state: Path,
    progress: Progress,
    *,
    time_limit_s: float,
    space: Sequence[Family] | None = None,
    threads: int = 1,
    seconds_per_point: float = SECONDS_PER_POINT,
    seed: int = 0,
    clock: Clock = time.monotonic,
    measure: MeasureRecipe = measure_recipe,
) -> SearchResult:
    """Search the space, by default `families(RECOVER_EPOCHS)`, and return the result.

    No candidate is started after the time limit; the one in progress is finished. The folder
    `state` keeps a record of every finished candidate, so the same search continues where it ended
    or was killed. A candidate that failed for an outside reason, such as a lack of memory, has no
    record and is tried again.

    Raises `ValueError` if the project cannot be built or another search uses the state.
    """
    deadline = clock() + time_limit_s
    checked = load_checked_project(project_file)
    store = TrialStore(state)
    family_searches, skipped = _start_families(
        families(RECOVER_EPOCHS) if space is None else space, goal
    )
    with store.lock() as folder:
        context = prepare_context(
            checked,
            folder,
            batch_size=goal.batch_size,
            threads=threads,
            seconds_per_point=seconds_per_point,
            seed=seed,
        )
        runner = _TrialRunner(context, store, goal, progress, time_limit_s, measure)
        is_finished = True
        for family_search, level in _round_robin(family_searches, goal):
            trial = runner.find(family_search.family, level)
            if trial is None and clock() >= deadline:
                is_finished = False
                break
            if trial is None:
                trial = runner.run(family_search.family, level, time_limit_s - (deadline - clock()))
            family_search.trials[level] = trial
        candidates, failed = _collect(family_searches)
        return conclude(
            goal,
            candidates,
            context,
            partial(_register_look, store, context, goal),
            skipped={**skipped, **failed},
            is_finished=is_finished and not runner.failed,
            tried=runner.tried,
        )


class _TrialRunner:
    """Finds the records of candidates, runs new ones, stores them, and reports progress."""

    def __init__(
        self,
        context: SearchContext,
        store: TrialStore,
        goal: Goal,
        progress: Progress,
        time_limit_s: float,
        measure: MeasureRecipe,
    ) -> None:
        self._context = context
        self._store = store
        self._goal = goal
        self._progress = progress
        self._task = progress.add_task("search", total=time_limit_s)
        self._measure = measure
        self.tried = 0
        """Candidates built and measured so far. Those that failed are listed with the skipped."""
        self.failed = 0
        """Candidates run without a record, because the failure may not recur."""

    def find(self, family: Family, level: int) -> CandidateTrial | None:
        return self._store.find(trial_key(self._context.conditions, family.at(level)))

    def run(self, family: Family, level: int, elapsed_s: float) -> CandidateTrial:
        recipe, label = family.at(level), family.label(level)

        def report_step(step: str) -> None:
            self._progress.update(
                self._task, description=f"{label}: {step}", completed=elapsed_s, refresh=True
            )

        trial, is_final = self._try(recipe, report_step)
        if is_final:
            self._store.add(trial_key(self._context.conditions, recipe), trial)
        else:
            self.failed += 1
        if trial.measured is not None:
            self.tried += 1
        self._progress.console.print(Text(f"{label}: {self._describe(trial)}"))
        return trial

    def _try(
        self, recipe: Recipe, report_step: Callable[[str], None]
    ) -> tuple[CandidateTrial, bool]:
        """Return the candidate's record, and whether another try would have the same outcome."""
        try:
            measured = self._measure(self._context, recipe, report_step)
        except Exception as error:  # no failure of a candidate ends the search
            problem = (str(error).strip().splitlines() or [type(error).__name__])[0]
            is_final = _is_caused_by_recipe(error)
            if not is_final:
                problem = f"failed this time: {type(error).__name__}: {problem}"
            return CandidateTrial(recipe=recipe, measured=None, problem=problem), is_final
        return CandidateTrial(recipe=recipe, measured=measured), True

    def _describe(self, trial: CandidateTrial) -> str:
        if trial.measured is None:
            return f"not built: {trial.problem}"
        measured = trial.measured
        difference = measured.selection.difference(self._goal.confidence)
        return (
            f"{100 * difference.value:+.2f} [{100 * difference.low:+.2f}, "
            f"{100 * difference.high:+.2f}] points, "
            f"{measured.parameters / self._context.parameters:.0%} of the parameters, "
            f"{measured.bytes / self._context.bytes:.0%} of the bytes, "
            f"{measured.speedup.value:.2f}x as fast"
        )


def _is_caused_by_recipe(error: Exception) -> bool:
    # The only common base of onnxruntime's errors is Exception.
    return isinstance(error, ValueError) or type(error).__module__.startswith("onnxruntime.")


def _start_families(
    space: Sequence[Family], goal: Goal
) -> tuple[list[_FamilySearch], dict[str, str]]:
    """Return a search for each family that can lower the cost, and why others are skipped."""
    family_searches, skipped = [], {}
    for family in space:
        if goal.cost not in family.lowers:
            skipped[family.name] = f"does not lower {goal.cost}"
            continue
        try:
            resolve_all(family.at(0))
        except ValueError as error:
            skipped[family.name] = str(error)
        else:
            family_searches.append(_FamilySearch(family))
    return family_searches, skipped


def _round_robin(
    family_searches: Sequence[_FamilySearch], goal: Goal
) -> Iterator[tuple[_FamilySearch, int]]:
    """Yield the next level to try of each family in turn, until every family's edge is known.

    So a short time limit covers the mild candidates of all families, not all those of one.
    """
    pending = list(family_searches)
    while pending:
        for family_search in list(pending):
            level = family_search.next_level(goal)
            if level is None:
                pending.remove(family_search)
            else:
                yield family_search, level


def _should_continue(trial: CandidateTrial, goal: Goal) -> bool:
    """Return whether the family's best level may be a stronger one.

    The least cost is at the strongest level that keeps the drop; the best accuracy within a latency
    is at the mildest level that keeps the latency.
    """
    if trial.measured is None:
        return False
    if goal.least is None:
        return not meets_latency(trial.measured, goal)
    return meets_max_drop(trial.measured, goal)


def _collect(family_searches: Sequence[_FamilySearch]) -> tuple[list[Candidate], dict[str, str]]:
    candidates, failed = [], {}
    for family_search in family_searches:
        for level, trial in sorted(family_search.trials.items()):
            label = family_search.family.label(level)
            if trial.measured is None:
                failed[label] = trial.problem or "cannot be built"
            else:
                candidates.append(Candidate(label, trial.recipe, trial.measured))
    return candidates, failed


def _register_look(
    store: TrialStore, context: SearchContext, goal: Goal, candidates: Sequence[Candidate]
) -> int:
    return store.add_look(goal, [trial_key(context.conditions, each.recipe) for each in candidates])
