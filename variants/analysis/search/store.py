"""The records of a search on disk: one JSON file for each candidate, written atomically.

    state/<key>.json      a finished candidate; the key is a hash of everything it depends on
    state/looks.json      the looks at the confirmation part
    state/.work/          artifacts being measured; leftovers of a killed search are removed

A search that is killed loses only the candidate in progress. A *look*, a term of sequential
analysis, is one test of a list of candidates on the confirmation part.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import Field

from variants.analysis.search.goal import Goal
from variants.catalog import artifact
from variants.catalog.catalog import Interval
from variants.catalog.recipe import Recipe
from variants.catalog.record import Record, read_record
from variants.measurement.evaluation import newcombe_interval, z_score

_LOOKS: Final = "looks.json"
_WORK: Final = ".work"
_LOCK: Final = ".lock"


class PairCounts(Record):
    """Sample counts of one part of the validation split, by which model predicts correctly."""

    both: int = Field(ge=0)
    candidate: int = Field(ge=0)
    """Only the candidate is correct."""
    dense: int = Field(ge=0)
    """Only dense is correct."""
    neither: int = Field(ge=0)

    def difference(self, confidence: float) -> Interval:
        """Return the candidate's accuracy minus dense's, as a share, with Newcombe's interval."""
        return newcombe_interval(
            both=self.both,
            first=self.candidate,
            second=self.dense,
            neither=self.neither,
            z=z_score(confidence),
        )


class Measurement(Record):
    """The measurements of a candidate that could be built."""

    selection: PairCounts
    confirmation: PairCounts
    """Counted with the rest, but used only after the search is over."""
    parameters: int = Field(ge=0)
    bytes: int = Field(ge=0)
    """Size of the files that its runner reads."""
    latency_s: float = Field(gt=0)
    """Median latency of a batch."""
    dense_latency_s: float = Field(gt=0)
    """The same of dense, in the faster of its runtimes, measured in alternation."""
    speedup: Interval
    """Dense's median over the candidate's, with its 95 % interval."""


class CandidateTrial(Record):
    """The outcome of one candidate."""

    recipe: Recipe
    measured: Measurement | None
    problem: str | None = None
    """The reason if it could not be built."""


class LookLog(Record):
    """The looks at the confirmation part, oldest first."""

    lists: tuple[str, ...] = ()
    """A hash of the goal and the candidates of each look."""


class TrialStore:
    """The records in one folder. Only one search at a time can use it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def lock(self) -> Iterator[Path]:
        """Lock the folder; yields an empty work folder, which is removed afterwards.

        Raises `ValueError` if another search has the lock. A lock ends with its process.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        work = self._folder / _WORK
        with (self._folder / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"another search is using {self._folder}") from None
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            try:
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)

    def find(self, key: str) -> CandidateTrial | None:
        """Return the record of a candidate, or None if it was not finished."""
        path = self._path(key)
        return read_record(CandidateTrial, path) if path.exists() else None

    def add(self, key: str, trial: CandidateTrial) -> None:
        """Write the record of a candidate."""
        artifact.write_record(self._path(key), trial)

    def add_look(self, goal: Goal, keys: list[str]) -> int:
        """Record a look at the confirmation part with these candidates; return its number.

        Numbers start at 1. The same candidates in the same order for the same goal are the same
        look.
        """
        path = self._folder / _LOOKS
        log = read_record(LookLog, path) if path.exists() else LookLog()
        look = hashlib.sha256(" ".join((goal.model_dump_json(), *keys)).encode()).hexdigest()
        if look not in log.lists:
            log = LookLog(lists=(*log.lists, look))
            artifact.write_record(path, log)
        return log.lists.index(look) + 1

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"


def trial_key(conditions: str, recipe: Recipe) -> str:
    """Return the key of a candidate, by its recipe and `SearchContext.conditions`."""
    steps = [step.model_dump(mode="json") for step in recipe]
    return hashlib.sha256(json.dumps([conditions, steps], sort_keys=True).encode()).hexdigest()[:32]
