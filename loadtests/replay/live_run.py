"""A live trial for a terminal: one demand against a running service, and against its simulation.

URL, Demand ─▶ replay ─▶ Run, accuracies, timings;   Run, simulated Run ─▶ the gap between them
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from loadtests.client.service import connect, probe
from loadtests.replay.batches import reconstruct_batches
from loadtests.replay.client_statistics import ClientStatistics
from loadtests.replay.replay import replay_now
from loadtests.replay.timings import Timings, summarize_timings
from loadtests.simulator.compare import Comparison, compare
from loadtests.simulator.simulate import Fault, SimulatedService
from loadtests.simulator.trial import trial_title, write_outcomes_by_policy
from loadtests.trials.calibration import calibration
from loadtests.trials.conditions import condition_of
from loadtests.trials.files import write_trial, write_whole
from loadtests.trials.grid import Grid
from loadtests.trials.metric import METRICS
from loadtests.trials.outcomes import Outcomes, RequestStatus
from loadtests.trials.runs import Run, Trial
from loadtests.trials.scores import Score, score
from loadtests.trials.tables import written
from loadtests.workload.demand import Demand
from serving.routing.profile import VariantProfile

TIMINGS_FILE: Final = "timings.json"
GAP_METRICS: Final = ("attainment", "mean_accuracy", "p50_s", "p99_s")


@dataclass(frozen=True, slots=True)
class LiveRun:
    """What came of it; `client.check()` tells whether it is the service's doing."""

    run: Run
    outcomes: Outcomes
    accuracy: Mapping[str, float]
    """By variant."""
    client: ClientStatistics
    timings: Timings
    unserved: int
    """Requests that failed or were lost."""
    first_failure: str
    """What the first that failed was told."""
    started_s: float
    """When the workload started, by `time.monotonic()`."""


def fetch_variants(url: str) -> tuple[str, ...]:
    """Return the variants of the service at a URL; raises `ValueError` as `connect` does."""
    return tuple(connect(url.rstrip("/")).metadata["versions"])


def replay_live(
    url: str,
    demand: Demand,
    *,
    policy: str,
    seed: int,
    profiles: Mapping[str, VariantProfile] | None = None,
) -> LiveRun:
    """Replay the requests that a seed draws to a service that has this policy.

    The accuracies are those of `profiles`; without them each variant is asked for its own.

    Raises `ValueError` as `draw`, `replay` and `probe` do.
    """
    accuracy = _accuracy(url, profiles)
    workload = demand.draw(seed)
    replayed = replay_now(url, workload, policy=f"{policy} live", seed=seed)
    outcomes = replace(replayed.outcomes, batches=reconstruct_batches(replayed))
    found = outcomes.batches
    return LiveRun(
        run=Run(
            condition=condition_of(demand),
            seed=seed,
            score=score(outcomes, accuracy),
            calibration=found and calibration(found, outcomes.variants, workload.seconds),
        ),
        outcomes=outcomes,
        accuracy=accuracy,
        client=replayed.client,
        timings=summarize_timings(found, outcomes.variants) if found else Timings(variants={}),
        unserved=sum(
            int((outcomes.status == bad).sum())
            for bad in (RequestStatus.LOST, RequestStatus.FAILED)
        ),
        first_failure=replayed.first_failure,
        started_s=replayed.started_s,
    )


def simulate_same_requests(
    service: SimulatedService,
    demand: Demand,
    *,
    policy: str,
    seed: int,
    faults: Sequence[Fault] = (),
) -> Comparison:
    """Simulate the requests that `replay_live` sends; raises as `compare` does."""
    compared = compare(service, demand, [policy], seed, faults=faults, is_bounded=False)
    name = f"{policy} simulated"
    run = compared.runs[0]
    return replace(
        compared,
        runs=(run.called(name),),
        outcomes=(replace(compared.outcomes[0], policy=name),),
    )


def live_trial(live: LiveRun, simulated: Comparison | None, demand: Demand, url: str) -> Trial:
    """Return both as one trial, the live run first."""
    return Trial(
        title=f"{trial_title(demand, live.outcomes)}, at {url}",
        note=describe_client(live.client),
        runs=(live.run, *(simulated.runs if simulated else ())),
    )


def write_live_trial(
    live: LiveRun, simulated: Comparison | None, trial: Trial, folder: Path
) -> list[Path]:
    """Write tables, plots, outcomes, and what batches took; return the files."""
    outcomes = (live.outcomes, *(simulated.outcomes if simulated else ()))
    written = write_trial(folder, trial, outcomes, live.accuracy)
    path = folder / TIMINGS_FILE
    write_whole(path, live.timings.model_dump_json(indent=1) + "\n")
    return [*written, *write_outcomes_by_policy(outcomes, folder), path]


def _accuracy(url: str, profiles: Mapping[str, VariantProfile] | None) -> dict[str, float]:
    if profiles is not None:
        return {name: profile.accuracy for name, profile in profiles.items()}
    probed = probe(connect(url.rstrip("/")), rounds=1)
    return {name: each.accuracy for name, each in probed.items()}


def describe_client(client: ClientStatistics) -> str:
    """Say in a sentence how well the client kept up."""
    waited = (
        f"{client.waited:,} waited for a connection, {client.waited_max_s * 1e3:.2f} ms at most"
    )
    return (
        f"The client was {client.delay_p50_s * 1e3:.3f} ms late at the median, {client.delay_p99_s * 1e3:.3f} ms at "
        f"the 99th percentile, {client.delay_max_s * 1e3:.2f} ms at most; {client.connections} connections, "
        f"{waited if client.waited else 'nobody waited for one'}; {client.cpu_s:.1f} s of CPU, "
        f"{'with' if client.is_real_time else 'without'} real-time priority."
    )


def gap(live: Score, simulated: Score) -> Grid:
    """Return a table of how far a simulation is from the live run of the same requests."""
    return gap_grid(gap_rows([(live, simulated)]))


def gap_grid(rows: Sequence[Sequence[str]], note: str = "") -> Grid:
    """Return rows of `gap_rows` as a table."""
    columns = ("", *(METRICS[name].title for name in GAP_METRICS))
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
        for metric in map(METRICS.__getitem__, GAP_METRICS):
            values = [pick(metric.get(live), metric.get(simulated)) for live, simulated in pairs]
            cells.append(written(values, metric.scale, metric.digits, sign))
        rows.append((f"{prefix}{what}", *cells))
    return rows


def _minus(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other
