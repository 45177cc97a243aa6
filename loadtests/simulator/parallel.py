"""Simulates many conditions in several processes, and stores their runs so that it can be resumed.

cases x seeds, minus stored jobs ─▶ worker processes ─▶ Runs, stored one job per line
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
from loadtests.simulator.service import SimulatedService
from loadtests.trials.conditions import Case
from loadtests.trials.goodput import BASELINES
from loadtests.trials.runs import Run
from variants.catalog import artifact
from variants.catalog.recipe import DENSE

THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Environment variables that are 1 in worker processes, because each has one core."""


@dataclass(frozen=True, slots=True)
class SimulationJob:
    """One case with one seed."""

    table: str
    case: Case
    seed: int
    has_baselines: bool = False
    """Whether `goodput.BASELINES` are simulated too."""

    @property
    def key(self) -> str:
        """Identifies the job in a `RunStore`."""
        return f"{self.table}, {self.case.condition.label}, seed {self.seed}"


class RunStore:
    """The runs of completed jobs, in a file with one line per job, or in memory only."""

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        """Read the runs stored with this fingerprint; discard those with another one."""
        self._path = path
        self.runs: dict[str, tuple[Run, ...]] = {}
        if path is None:
            return
        head = json.dumps({"fingerprint": fingerprint})
        lines = path.read_text().split("\n") if path.exists() else []
        if lines[:1] == [head]:
            for line in lines[1:-1]:  # the last one is empty, or was written incompletely
                done = json.loads(line)
                self.runs[done["job"]] = tuple(map(Run.model_validate, done["runs"]))
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [head, *(_to_line(key, runs) for key, runs in self.runs.items())]
        artifact.write_file(path, "".join(f"{line}\n" for line in kept).encode())

    def add(self, key: str, runs: Sequence[Run]) -> None:
        """Store the runs of a job."""
        self.runs[key] = tuple(runs)
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(_to_line(key, runs) + "\n")


def run_jobs(
    jobs: Sequence[SimulationJob],
    service: SimulatedService,
    policies: Sequence[str],
    store: RunStore,
    *,
    processes: int,
    on_done: Callable[[int, int], None] = lambda done, total: None,
) -> Mapping[str, tuple[Run, ...]]:
    """Simulate every policy in each job that is not in the store; return the runs by table.

    The order of the runs is that of the jobs, whatever the number of processes. `on_done` receives
    the number of simulated jobs and the number of jobs to simulate. Raises as `compare` does.
    """
    missing = [job for job in jobs if job.key not in store.runs]
    with _mapper(processes, len(missing)) as mapper:
        results = mapper(partial(_simulate, service, tuple(policies)), missing)
        for number, (key, runs) in enumerate(results, start=1):
            store.add(key, runs)
            on_done(number, len(missing))
    by_table: dict[str, tuple[Run, ...]] = {}
    for job in jobs:
        by_table[job.table] = (*by_table.get(job.table, ()), *store.runs[job.key])
    return by_table


_Result = tuple[str, tuple[Run, ...]]
_Mapper = Callable[[Callable[[SimulationJob], _Result], Sequence[SimulationJob]], Iterable[_Result]]


@contextmanager
def _mapper(processes: int, jobs: int) -> Iterator[_Mapper]:
    """Yield a function that maps jobs to results, in worker processes if there are several."""
    if processes == 1 or jobs < 2:
        yield map
        return
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))  # workers read them when they start
    try:
        with multiprocessing.get_context("spawn").Pool(min(processes, jobs)) as pool:
            yield pool.imap_unordered
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _simulate(service: SimulatedService, policies: Sequence[str], job: SimulationJob) -> _Result:
    runs = list(compare(service, job.case.demand, policies, job.seed).runs)
    if job.has_baselines:
        dense_only = replace(service, profiles={DENSE: service.profiles[DENSE]})
        for name, policy in BASELINES.items():
            comparison = compare(dense_only, job.case.demand, [policy], job.seed, is_bounded=False)
            runs += [run.with_policy_name(name) for run in comparison.runs]
    return job.key, tuple(_to_stored(run, job) for run in runs)


def _to_stored(run: Run, job: SimulationJob) -> Run:
    """Set the condition of the job, and remove the calibration by window."""
    overall = run.calibration and run.calibration.model_copy(update={"windows": ()})
    return run.model_copy(update={"condition": job.case.condition, "calibration": overall})


def _to_line(key: str, runs: Sequence[Run]) -> str:
    return json.dumps({"job": key, "runs": [run.model_dump(mode="json") for run in runs]})
