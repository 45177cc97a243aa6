"""What a search has done, on disk: one JSON file for each candidate, written in one step.

    state/<key>.json      a finished candidate; the key is a hash of all that decides its record
    state/looks.json      how often the confirmation part has been looked at
    state/.work/          artifacts under test; whatever a killed search left there is removed

A search killed at any moment loses the candidate it was at, and nothing else.
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


class Pairs(Record):
    """Samples of one part of the validation split by who has them right."""

    both: int = Field(ge=0)
    candidate: int = Field(ge=0)
    """The candidate alone."""
    dense: int = Field(ge=0)
    """Dense alone."""
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


class Measured(Record):
    """What was measured of a candidate that could be made."""

    selection: Pairs
    confirmation: Pairs
    """Counted with the rest, but looked at only once the search is over."""
    parameters: int = Field(ge=0)
    bytes: int = Field(ge=0)
    """Of the files that its runner reads."""
    latency_s: float = Field(gt=0)
    """Median of a batch."""
    dense_latency_s: float = Field(gt=0)
    """Dense's in the same turns, in the faster of its runtimes."""
    speedup: Interval
    """Dense's median over the candidate's, with its 95 % interval."""


class CandidateTrial(Record):
    """One candidate that was tried."""

    recipe: Recipe
    measured: Measured | None
    problem: str | None = None
    """Why it could not be made."""


class Looks(Record):
    """Every goal and list of candidates that was put to the confirmation part, oldest first."""

    lists: tuple[str, ...] = ()


class Ledger:
    """The records in one folder. One search at a time holds it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def held(self) -> Iterator[Path]:
        """Hold the folder; yields an empty folder to work in, which is gone afterwards.

        Raises `ValueError` if another search holds it. A lock dies with its process.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        work = self._folder / _WORK
        with (self._folder / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"another search is at work in {self._folder}") from None
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            try:
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)

    def find(self, key: str) -> CandidateTrial | None:
        """Return the record of a candidate, or None if it was not tried to the end."""
        path = self._path(key)
        return read_record(CandidateTrial, path) if path.exists() else None

    def add(self, key: str, trial: CandidateTrial) -> None:
        """Write the record of a candidate."""
        artifact.write_record(self._path(key), trial)

    def look(self, goal: Goal, keys: list[str]) -> int:
        """Note that these candidates are put to the confirmation part; return which look it is.

        Counted from 1; putting the same ones again for the same goal, in the same order, is the
        same look.
        """
        path = self._folder / _LOOKS
        looks = read_record(Looks, path) if path.exists() else Looks()
        asked = hashlib.sha256(" ".join((goal.model_dump_json(), *keys)).encode()).hexdigest()
        if asked not in looks.lists:
            looks = Looks(lists=(*looks.lists, asked))
            artifact.write_record(path, looks)
        return looks.lists.index(asked) + 1

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"


def key_of(subject: str, recipe: Recipe) -> str:
    """Return the key of a candidate: `subject` says what it is made from and measured on."""
    steps = [step.model_dump(mode="json") for step in recipe]
    return hashlib.sha256(json.dumps([subject, steps], sort_keys=True).encode()).hexdigest()[:32]
