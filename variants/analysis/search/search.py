"""Which recipes meet a budget: families of them tried from mild to strong, and the best confirmed.

    project, Goal ─▶ for each family: next strength ─▶ candidate ─▶ record   (ledger: resumable)
                  ─▶ Pareto set ─▶ those that hold, safest first ─▶ confirmation ─▶ Found

Decisions are made on the selection part of validation and claims on the confirmation part; test
is not touched. By one seed the same candidates come out, apart from what latency decides.
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

from variants.analysis.search.bench import Bench, open_bench, try_recipe
from variants.analysis.search.goal import Goal
from variants.analysis.search.ledger import CandidateTrial, Ledger, Measured, key_of
from variants.analysis.search.result import (
    Candidate,
    SearchResult,
    conclude,
    holds_drop,
    meets_latency,
)
from variants.analysis.search.space import Family, families
from variants.analysis.search.walk import next_level
from variants.build.check import load_checked_project
from variants.catalog.recipe import Recipe
from variants.compression.techniques import resolve_all

SECONDS_PER_POINT: Final = 0.5
RECOVER_EPOCHS: Final = 2

Clock: TypeAlias = Callable[[], float]
"""Seconds since some fixed moment, never going back."""

Attempt: TypeAlias = Callable[[Bench, Recipe, Callable[[str], None]], Measured]
"""Makes and measures a candidate, and tells each step."""


@dataclass
class _Walk:
    """One family on its way from mild to strong."""

    family: Family
    trials: dict[int, CandidateTrial] = field(default_factory=dict)

    def next(self, goal: Goal) -> int | None:
        held = {level: _goes_on(trial, goal) for level, trial in self.trials.items()}
        return next_level(len(self.family.strengths), held)


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
    attempt: Attempt = try_recipe,
) -> SearchResult:
    """Search the space (by default `families(RECOVER_EPOCHS)`) and return what was found.

    No candidate is begun after the time limit; the one under way is finished. `state` keeps a
    record of every candidate that was, so the same search goes on where it ended or was killed.
    One that failed for a reason not its own, such as memory, has none and is tried again.

    Raises `ValueError` that says what is wrong with the project, or if the state is in use.
    """
    deadline = clock() + time_limit_s
    checked = load_checked_project(project_file)
    ledger = Ledger(state)
    walks, skipped = _open(families(RECOVER_EPOCHS) if space is None else space, goal)
    with ledger.held() as folder:
        bench = open_bench(
            checked,
            folder,
            batch_size=goal.batch_size,
            threads=threads,
            seconds_per_point=seconds_per_point,
            seed=seed,
        )
        scribe = _TrialRunner(bench, ledger, goal, progress, time_limit_s, attempt)
        is_finished = True
        for walk, level in _rounds(walks, goal):
            trial = scribe.recall(walk.family, level)
            if trial is None and clock() >= deadline:
                is_finished = False
                break
            if trial is None:
                trial = scribe.try_out(walk.family, level, time_limit_s - (deadline - clock()))
            walk.trials[level] = trial
        candidates, failed = _collect(walks)
        return conclude(
            goal,
            candidates,
            bench,
            partial(_look, ledger, bench, goal),
            skipped={**skipped, **failed},
            is_finished=is_finished and not scribe.failed,
            tried=scribe.tried,
        )


class _TrialRunner:
    """Finds what was done, does what was not, writes it down, and tells who waits."""

    def __init__(
        self,
        bench: Bench,
        ledger: Ledger,
        goal: Goal,
        progress: Progress,
        time_limit_s: float,
        attempt: Attempt,
    ) -> None:
        self._bench = bench
        self._ledger = ledger
        self._goal = goal
        self._progress = progress
        self._task = progress.add_task("search", total=time_limit_s)
        self._attempt = attempt
        self.tried = 0
        self.failed = 0
        """How many of them have no record."""

    def recall(self, family: Family, level: int) -> CandidateTrial | None:
        return self._ledger.find(key_of(self._bench.subject, family.at(level)))

    def try_out(self, family: Family, level: int, elapsed_s: float) -> CandidateTrial:
        recipe, label = family.at(level), family.label(level)

        def tell(step: str) -> None:
            self._progress.update(
                self._task, description=f"{label}: {step}", completed=elapsed_s, refresh=True
            )

        trial, is_settled = self._make(recipe, tell)
        if is_settled:
            self._ledger.add(key_of(self._bench.subject, recipe), trial)
        else:
            self.failed += 1
        self.tried += 1
        self._progress.console.print(Text(f"{label}: {self._words(trial)}"))
        return trial

    def _make(self, recipe: Recipe, tell: Callable[[str], None]) -> tuple[CandidateTrial, bool]:
        """Return the candidate's record, and whether another try would come to the same."""
        try:
            measured = self._attempt(self._bench, recipe, tell)
        except Exception as error:  # one candidate ends no search, whatever it meets
            problem = (str(error).strip().splitlines() or [type(error).__name__])[0]
            is_settled = _is_of_recipe(error)
            if not is_settled:
                problem = f"failed this time: {type(error).__name__}: {problem}"
            return CandidateTrial(recipe=recipe, measured=None, problem=problem), is_settled
        return CandidateTrial(recipe=recipe, measured=measured), True

    def _words(self, trial: CandidateTrial) -> str:
        if trial.measured is None:
            return f"not made: {trial.problem}"
        found = trial.measured
        difference = found.selection.difference(self._goal.confidence)
        return (
            f"{100 * difference.value:+.2f} [{100 * difference.low:+.2f}, "
            f"{100 * difference.high:+.2f}] points, "
            f"{found.parameters / self._bench.parameters:.0%} of the parameters, "
            f"{found.bytes / self._bench.bytes:.0%} of the bytes, "
            f"{found.speedup.value:.2f}x as fast"
        )


def _is_of_recipe(error: Exception) -> bool:
    # onnxruntime's errors have no base of their own but Exception.
    return isinstance(error, ValueError) or type(error).__module__.startswith("onnxruntime.")


def _open(space: Sequence[Family], goal: Goal) -> tuple[list[_Walk], dict[str, str]]:
    """Return a walk for each family that can lower the cost, and why others have none."""
    walks, skipped = [], {}
    for family in space:
        if goal.cost not in family.lowers:
            skipped[family.name] = f"does not lower {goal.cost}"
            continue
        try:
            resolve_all(family.at(0))
        except ValueError as error:
            skipped[family.name] = str(error)
        else:
            walks.append(_Walk(family))
    return walks, skipped


def _rounds(walks: Sequence[_Walk], goal: Goal) -> Iterator[tuple[_Walk, int]]:
    """Yield what to try next, one of each family in turn, until none has anything left.

    So a short time limit finds the mild candidates of all families, not all of one.
    """
    open_walks = list(walks)
    while open_walks:
        for walk in list(open_walks):
            level = walk.next(goal)
            if level is None:
                open_walks.remove(walk)
            else:
                yield walk, level


def _goes_on(trial: CandidateTrial, goal: Goal) -> bool:
    """Return whether a family's edge lies further on.

    The least of a cost is where the drop still holds; the best accuracy within a latency is where
    the latency does not hold any more, one level before.
    """
    if trial.measured is None:
        return False
    if goal.least is None:
        return not meets_latency(trial.measured, goal)
    return holds_drop(trial.measured, goal)


def _collect(walks: Sequence[_Walk]) -> tuple[list[Candidate], dict[str, str]]:
    candidates, failed = [], {}
    for walk in walks:
        for level, trial in sorted(walk.trials.items()):
            label = walk.family.label(level)
            if trial.measured is None:
                failed[label] = trial.problem or "cannot be made"
            else:
                candidates.append(Candidate(label, trial.recipe, trial.measured))
    return candidates, failed


def _look(ledger: Ledger, bench: Bench, goal: Goal, candidates: Sequence[Candidate]) -> int:
    return ledger.look(goal, [key_of(bench.subject, one.recipe) for one in candidates])
