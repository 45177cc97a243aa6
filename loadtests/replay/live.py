"""A live trial for a terminal: one demand against a running service, and against its simulation.

URL, Demand ─▶ replay ─▶ Run, accuracies, timings;   Run, simulated Run ─▶ the gap between them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from loadtests.client.service import connect, probe
from loadtests.replay.batches import batches
from loadtests.replay.lag import Lag
from loadtests.replay.replay import replay_now
from loadtests.replay.timings import Timings, timings
from loadtests.simulator.compare import Compared, compare
from loadtests.simulator.simulate import Fault, Service
from loadtests.simulator.trial import title, write_each
from loadtests.trials.calibration import calibration
from loadtests.trials.conditions import condition_of
from loadtests.trials.files import write_trial, write_whole
from loadtests.trials.grid import Grid
from loadtests.trials.metric import METRICS
from loadtests.trials.outcomes import Outcomes, Status
from loadtests.trials.runs import Run, Trial
from loadtests.trials.scores import Score, score
from loadtests.trials.tables import written
from loadtests.workload.demand import Demand
from serving.routing.profile import VariantProfile

TIMINGS: Final = "timings.json"
GAP: Final = ("attainment", "mean_accuracy", "p50_s", "p99_s")


@dataclass(frozen=True, slots=True)
class Live:
    """What came of it; `lag.check()` tells whether it is the service's doing."""

    run: Run
    outcomes: Outcomes
    accuracy: Mapping[str, float]
    """By variant."""
    lag: Lag
    timings: Timings
    unserved: int
    """Requests that failed or were lost."""
    first_failure: str
    """What the first that failed was told."""
    started_s: float
    """When the workload started, by `time.monotonic()`."""


def served(url: str) -> tuple[str, ...]:
    """Return the variants of the service at a URL; raises `ValueError` as `connect` does."""
    return tuple(connect(url.rstrip("/")).metadata["versions"])


def replay_live(
    url: str,
    demand: Demand,
    *,
    policy: str,
    seed: int,
    profiles: Mapping[str, VariantProfile] | None = None,
) -> Live:
    """Replay the requests that a seed draws to a service that has this policy.

    The accuracies are those of `profiles`; without them each variant is asked for its own.

    Raises `ValueError` as `draw`, `replay` and `probe` do.
    """
    accuracy = _accuracy(url, profiles)
    workload = demand.draw(seed)
    replayed = replay_now(url, workload, policy=f"{policy} live", seed=seed)
    outcomes = replace(replayed.outcomes, batches=batches(replayed))
    found = outcomes.batches
    return Live(
        run=Run(
            condition=condition_of(demand),
            seed=seed,
            score=score(outcomes, accuracy),
            calibration=found and calibration(found, outcomes.variants, workload.seconds),
        ),
        outcomes=outcomes,
        accuracy=accuracy,
        lag=replayed.lag,
        timings=timings(found, outcomes.variants) if found else Timings(variants={}),
        unserved=sum(int((outcomes.status == bad).sum()) for bad in (Status.LOST, Status.FAILED)),
        first_failure=replayed.first_failure,
        started_s=replayed.started_s,
    )


def simulate_same(
    service: Service,
    demand: Demand,
    *,
    policy: str,
    seed: int,
    faults: Sequence[Fault] = (),
) -> Compared:
    """Simulate the requests that `replay_live` sends; raises as `compare` does."""
    compared = compare(service, demand, [policy], seed, faults=faults, is_bounded=False)
    name = f"{policy} simulated"
    run = compared.runs[0]
    return replace(
        compared,
        runs=(run.called(name),),
        outcomes=(replace(compared.outcomes[0], policy=name),),
    )


def live_trial(live: Live, simulated: Compared | None, demand: Demand, url: str) -> Trial:
    """Return both as one trial, the live run first."""
    return Trial(
        title=f"{title(demand, live.outcomes)}, at {url}",
        note=describe_lag(live.lag),
        runs=(live.run, *(simulated.runs if simulated else ())),
    )


def write_live(live: Live, simulated: Compared | None, trial: Trial, folder: Path) -> list[Path]:
    """Write tables, plots, outcomes, and what batches took; return the files."""
    outcomes = (live.outcomes, *(simulated.outcomes if simulated else ()))
    written = write_trial(folder, trial, outcomes, live.accuracy)
    path = folder / TIMINGS
    write_whole(path, live.timings.model_dump_json(indent=1) + "\n")
    return [*written, *write_each(outcomes, folder), path]


def _accuracy(url: str, profiles: Mapping[str, VariantProfile] | None) -> dict[str, float]:
    if profiles is not None:
        return {name: profile.accuracy for name, profile in profiles.items()}
    probed = probe(connect(url.rstrip("/")), rounds=1)
    return {name: each.accuracy for name, each in probed.items()}


def describe_lag(lag: Lag) -> str:
    """Say in a sentence how well the client kept up."""
    waited = f"{lag.waited:,} waited for a connection, {lag.waited_max_s * 1e3:.2f} ms at most"
    return (
        f"The client was {lag.p50_s * 1e3:.3f} ms late at the median, {lag.p99_s * 1e3:.3f} ms at "
        f"the 99th percentile, {lag.max_s * 1e3:.2f} ms at most; {lag.connections} connections, "
        f"{waited if lag.waited else 'nobody waited for one'}; {lag.cpu_s:.1f} s of CPU, "
        f"{'with' if lag.is_urgent else 'without'} real-time priority."
    )


def gap(live: Score, simulated: Score) -> Grid:
    """Return a table of how far a simulation is from the live run of the same requests."""
    return gap_grid(gap_rows([(live, simulated)]))


def gap_grid(rows: Sequence[Sequence[str]], note: str = "") -> Grid:
    """Return rows of `gap_rows` as a table."""
    columns = ("", *(METRICS[name].title for name in GAP))
    return Grid("Simulation and reality", columns, rows, note)


def gap_rows(pairs: Sequence[tuple[Score, Score]], prefix: str = "") -> list[tuple[str, ...]]:
    """Return what was live, what simulated, and the difference, taken pair by pair."""
    rows = []
    for what, pick, sign in (
        ("live", lambda live, _: live, ""),
        ("simulated", lambda _, simulated: simulated, ""),
        ("live minus simulated", _minus, "+"),
    ):
        cells = []
        for metric in map(METRICS.__getitem__, GAP):
            values = [pick(metric.get(live), metric.get(simulated)) for live, simulated in pairs]
            cells.append(written(values, metric.scale, metric.digits, sign))
        rows.append((f"{prefix}{what}", *cells))
    return rows


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other
