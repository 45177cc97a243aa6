"""Many conditions in several processes, kept as they are done: what was cut off can go on.

cases x seeds, what is kept already ─▶ workers ─▶ Runs, kept line by line
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from loadtests.simulator.compare import compare
from loadtests.simulator.simulate import SimulatedService
from loadtests.trials.conditions import Case
from loadtests.trials.goodput import BASELINES
from loadtests.trials.runs import Run
from variants.catalog.recipe import DENSE

THREADS: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Set to 1 in workers: each has one core."""


@dataclass(frozen=True, slots=True)
class SimulationJob:
    """One case with one seed."""

    table: str
    case: Case
    seed: int
    is_against_dense: bool = False
    """Whether `goodput.BASELINES` are tried, too."""

    @property
    def key(self) -> str:
        """What tells it from the others."""
        return f"{self.table}, {self.case.condition.label}, seed {self.seed}"


class RunStore:
    """The runs of jobs that are done, in a file of one line each, or in memory only."""

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        """Read what was kept under the same fingerprint; what was under another is dropped."""
        self._path = path
        self.runs: dict[str, tuple[Run, ...]] = {}
        if path is None:
            return
        head = json.dumps({"fingerprint": fingerprint})
        lines = path.read_text().split("\n") if path.exists() else []
        if lines[:1] == [head]:
            for line in lines[1:-1]:  # the last is empty, or was being written
                done = json.loads(line)
                self.runs[done["job"]] = tuple(map(Run.model_validate, done["runs"]))
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = [head, *(_line(key, runs) for key, runs in self.runs.items())]
        draft = path.with_name(f".{path.name}")
        draft.write_text("".join(f"{line}\n" for line in whole))
        draft.rename(path)

    def add(self, key: str, runs: Sequence[Run]) -> None:
        """Keep the runs of a job."""
        self.runs[key] = tuple(runs)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(_line(key, runs) + "\n")


def run_all(
    jobs: Sequence[SimulationJob],
    service: SimulatedService,
    policies: Sequence[str],
    kept: RunStore,
    *,
    processes: int,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> Mapping[str, tuple[Run, ...]]:
    """Simulate every policy in each job that is not kept; return the runs by table.

    They are in the order of the jobs, whatever the processes. `on_done` is told how many jobs of
    how many were simulated so far. Raises as `compare` does.
    """
    missing = [job for job in jobs if job.key not in kept.runs]
    with _mapping(processes, len(missing)) as mapped:
        done = mapped(partial(_simulate, service, tuple(policies)), missing)
        for number, (key, runs) in enumerate(done, start=1):
            kept.add(key, runs)
            on_done(number, len(missing))
    by_table: dict[str, tuple[Run, ...]] = {}
    for job in jobs:
        by_table[job.table] = (*by_table.get(job.table, ()), *kept.runs[job.key])
    return by_table


_Done = tuple[str, tuple[Run, ...]]
_Map = Callable[[Callable[[SimulationJob], _Done], Sequence[SimulationJob]], Iterable[_Done]]


@contextmanager
def _mapping(processes: int, jobs: int) -> Iterator[_Map]:
    if processes == 1 or jobs < 2:
        yield map
        return
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))  # workers inherit it, and read it as they start
    try:
        with multiprocessing.get_context("spawn").Pool(min(processes, jobs)) as pool:
            yield pool.imap_unordered
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _simulate(service: SimulatedService, policies: Sequence[str], job: SimulationJob) -> _Done:
    found = list(compare(service, job.case.demand, policies, job.seed).runs)
    if job.is_against_dense:
        alone = replace(service, profiles={DENSE: service.profiles[DENSE]})
        for name, policy in BASELINES.items():
            compared = compare(alone, job.case.demand, [policy], job.seed, is_bounded=False)
            found += [run.called(name) for run in compared.runs]
    return job.key, tuple(_slim(run, job) for run in found)


def _slim(run: Run, job: SimulationJob) -> Run:
    """Give a run its condition, and leave out how predictions held over time."""
    held = run.calibration and run.calibration.model_copy(update={"windows": ()})
    return run.model_copy(update={"condition": job.case.condition, "calibration": held})


def _line(key: str, runs: Sequence[Run]) -> str:
    return json.dumps({"job": key, "runs": [run.model_dump(mode="json") for run in runs]})
