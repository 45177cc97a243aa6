"""Replays one demand against a running service and compares the run with its simulation.

URL, Demand ─▶ replay_live ─▶ LiveRun;   LiveRun, simulated Run ─▶ differences of their scores
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from loadtests.client.service import connect, probe
from loadtests.replay.batches import reconstruct_batches
from loadtests.replay.client_statistics import ClientStatistics
from loadtests.replay.replay import run_replay
from loadtests.replay.timings import Timings, summarize_timings
from loadtests.simulator.compare import Comparison, compare
from loadtests.simulator.faults import Fault
from loadtests.simulator.service import SimulatedService
from loadtests.simulator.trial import trial_title, write_outcomes_by_policy
from loadtests.trials.calibration import calibration
from loadtests.trials.conditions import condition_of
from loadtests.trials.files import write_trial
from loadtests.trials.grid import Grid
from loadtests.trials.metric import METRICS
from loadtests.trials.outcomes import Outcomes, RequestStatus
from loadtests.trials.runs import Run, Trial
from loadtests.trials.scores import Score, score
from loadtests.trials.tables import format_mean
from loadtests.workload.demand import Demand
from serving.routing.profile import VariantProfile
from variants.catalog import artifact

TIMINGS_FILE: Final = "timings.json"
"""Name of the file with the measured batch durations."""
COMPARED_METRICS: Final = ("attainment", "mean_accuracy", "p50_s", "p99_s")
"""Metrics in which live runs and simulations are compared."""


@dataclass(frozen=True, slots=True)
class LiveRun:
    """The results of a replay; `client.check()` raises ValueError if the client distorted them."""

    run: Run
    outcomes: Outcomes
    accuracy: Mapping[str, float]
    """Accuracy by variant."""
    client: ClientStatistics
    timings: Timings
    unserved: int
    """Number of requests that failed or were lost."""
    first_failure: str
    """Response to, or reason of, the first failed request; empty if there is none."""
    started_s: float
    """Start of the workload, as `time.monotonic()`."""


def fetch_variants(url: str) -> tuple[str, ...]:
    """Return the variants of the service at a URL; raises ValueError as `connect` does."""
    return tuple(connect(url.rstrip("/")).metadata["versions"])


def replay_live(
    url: str,
    demand: Demand,
    *,
    policy: str,
    seed: int,
    profiles: Mapping[str, VariantProfile] | None = None,
) -> LiveRun:
    """Replay the requests drawn with `seed` against a service that uses `policy`.

    Accuracies are taken from `profiles`; without profiles, from a response of each variant.

    Raises ValueError as `draw`, `replay` and `probe` do.
    """
    accuracy = _accuracies(url, profiles)
    workload = demand.draw(seed)
    replayed = run_replay(url, workload, policy=f"{policy} live", seed=seed)
    outcomes = replace(replayed.outcomes, batches=reconstruct_batches(replayed))
    measured = outcomes.batches
    return LiveRun(
        run=Run(
            condition=condition_of(demand),
            seed=seed,
            score=score(outcomes, accuracy),
            calibration=measured and calibration(measured, outcomes.variants, workload.seconds),
        ),
        outcomes=outcomes,
        accuracy=accuracy,
        client=replayed.client,
        timings=summarize_timings(measured, outcomes.variants)
        if measured
        else Timings(variants={}),
        unserved=sum(
            int((outcomes.status == status).sum())
            for status in (RequestStatus.LOST, RequestStatus.FAILED)
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
    comparison = compare(service, demand, [policy], seed, faults=faults, is_bounded=False)
    name = f"{policy} simulated"
    run = comparison.runs[0]
    return replace(
        comparison,
        runs=(run.with_policy_name(name),),
        outcomes=(replace(comparison.outcomes[0], policy=name),),
    )


def live_trial(live: LiveRun, simulated: Comparison | None, demand: Demand, url: str) -> Trial:
    """Return the live run and, if given, its simulation as one trial."""
    return Trial(
        title=f"{trial_title(demand, live.outcomes)}, at {url}",
        note=describe_client(live.client),
        runs=(live.run, *(simulated.runs if simulated else ())),
    )


def write_live_trial(
    live: LiveRun, simulated: Comparison | None, trial: Trial, folder: Path
) -> list[Path]:
    """Write tables, plots, outcomes and batch durations; return the paths."""
    outcomes = (live.outcomes, *(simulated.outcomes if simulated else ()))
    written = write_trial(folder, trial, outcomes, live.accuracy)
    path = folder / TIMINGS_FILE
    artifact.write_record(path, live.timings)
    return [*written, *write_outcomes_by_policy(outcomes, folder), path]


def _accuracies(url: str, profiles: Mapping[str, VariantProfile] | None) -> dict[str, float]:
    if profiles is not None:
        return {name: profile.accuracy for name, profile in profiles.items()}
    probes = probe(connect(url.rstrip("/")), rounds=1)
    return {name: each.accuracy for name, each in probes.items()}


def describe_client(client: ClientStatistics) -> str:
    """Return the delays and the resources of the client as a sentence."""
    waited = (
        f"{client.waited:,} requests waited for a connection, "
        f"{client.waited_max_s * 1e3:.2f} ms at most"
        if client.waited
        else "no request waited for a connection"
    )
    return (
        f"The client sent requests {client.delay_p50_s * 1e3:.3f} ms late at the median, "
        f"{client.delay_p99_s * 1e3:.3f} ms at the 99th percentile, "
        f"{client.delay_max_s * 1e3:.2f} ms at most; {client.connections} connections, {waited}; "
        f"{client.cpu_s:.1f} s of CPU, "
        f"{'with' if client.is_real_time else 'without'} real-time priority."
    )


def score_differences(live: Score, simulated: Score) -> Grid:
    """Return a table of the differences between a live run and its simulation."""
    return differences_grid(difference_rows([(live, simulated)]))


def differences_grid(rows: Sequence[Sequence[str]], note: str = "") -> Grid:
    """Return a table of the rows of `difference_rows`."""
    columns = ("", *(METRICS[name].title for name in COMPARED_METRICS))
    return Grid("Live runs and simulations", columns, rows, note)


def difference_rows(
    pairs: Sequence[tuple[Score, Score]], prefix: str = ""
) -> list[tuple[str, ...]]:
    """Return three rows: the live scores, the simulated ones, and the differences by pair."""
    rows = []
    for name, pick, sign in (
        ("live", lambda live, _: live, ""),
        ("simulated", lambda _, simulated: simulated, ""),
        ("live minus simulated", _minus, "+"),
    ):
        cells = []
        for metric in map(METRICS.__getitem__, COMPARED_METRICS):
            values = [pick(metric.get(live), metric.get(simulated)) for live, simulated in pairs]
            cells.append(format_mean(values, metric.scale, metric.digits, sign))
        rows.append((f"{prefix}{name}", *cells))
    return rows


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right
