"""Compares policies on real services: the same open-loop requests, live and simulated.

    python -m loadtests.live [--catalog DIR] [--arrivals trace:path=FILE] [--out DIR]
    python -m loadtests.live --find-rate          highest rate that policy `fastest` sustains
    python -m loadtests.live --kill-every 12      kill a host every 12 s

Policies run one after the other. Each run starts Ray, the gateway and the hosts anew, on free
ports of 127.0.0.1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from loadtests.benchmarks.machine import describe_machine
from loadtests.live.kill_impact import kill_grids
from loadtests.live.policy_run import (
    LiveSettings,
    PolicyRun,
    invalid_reason,
    run_policy,
    warm_up,
)
from loadtests.live.rate import MIN_ATTAINMENT, RatePoint, measure_rising_rates, rates_grid
from loadtests.live.service import run_service
from loadtests.live.tables import live_grid, live_trial, run_differences_grid
from loadtests.replay.live_run import TIMINGS_FILE, describe_client, replay_live
from loadtests.simulator.compare import parse_policies
from loadtests.simulator.trial import trial_title, write_outcomes_by_policy
from loadtests.trials.files import write_grids, write_trial
from loadtests.trials.grid import Grid, show
from loadtests.trials.options import FOLDER, finite
from loadtests.workload.arrivals import Poisson
from loadtests.workload.demand import parse_demand
from loadtests.workload.notation import parse_names
from serving.gateway.settings import Settings
from serving.routing.profile import variant_profiles
from variants.catalog import artifact
from variants.catalog.catalog import Catalog
from variants.catalog.cpus import available_cpus
from variants.catalog.hardware import hardware

POLICIES: Final = ("pareto", "fixed", "fastest", "slack_fit")
TABLES_FILE: Final = "live.md"
POSITIVE: Final = click.FloatRange(0, min_open=True)
DEFAULT_RATE_PER_S: Final = 200.0
DEFAULT_SECONDS: Final = 30.0
DEFAULT_FIND_RATE_SECONDS: Final = 5.0


@click.command()
@click.option(
    "--catalog",
    type=FOLDER,
    default=Path("catalog"),
    show_default=True,
    help="Catalog of the variants.",
)
@click.option("--variants", default="", help="Variants, separated by commas. [default: all]")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    default=POLICIES,
    show_default=True,
    help="Policies, separated by commas; repeatable.",
)
@click.option(
    "--arrivals",
    default="gamma:cv2=4",
    show_default=True,
    help="Arrival process: uniform, poisson, gamma, bursts, acceleration or trace:path=FILE.",
)
@click.option(
    "--rate",
    type=POSITIVE,
    callback=finite,
    default=DEFAULT_RATE_PER_S,
    show_default=True,
    help="Requests per second; with --find-rate, the first rate.",
)
@click.option(
    "--seconds",
    type=POSITIVE,
    callback=finite,
    help=f"Duration of a replay, in seconds. [default: {DEFAULT_SECONDS:g}; with --find-rate "
    f"{DEFAULT_FIND_RATE_SECONDS:g}]",
)
@click.option(
    "--slo",
    "slos",
    multiple=True,
    default=("latency_ms=20",),
    show_default=True,
    help="SLO class, such as latency_ms=20,share=0.3,min_accuracy=0.9; repeatable.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the first run of each policy.",
)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Runs of each policy, each with the next seed; policies alternate.",
)
@click.option(
    "--cores",
    type=click.IntRange(min=1),
    default=lambda: max(1, available_cpus() - 1),
    help="Batches that all hosts run at a time, live and simulated. [default: all CPUs but one]",
)
@click.option(
    "--slots",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Batches that a gateway has in flight to one host at a time.",
)
@click.option(
    "--lag-ms",
    type=POSITIVE,
    callback=finite,
    default=2.0,
    show_default=True,
    help="Maximum 99th percentile of the client's delay in a valid run, in milliseconds.",
)
@click.option(
    "--kill-every",
    type=POSITIVE,
    callback=finite,
    metavar="SECONDS",
    help="Kill a host process at this interval.",
)
@click.option(
    "--find-rate",
    is_flag=True,
    help="Only find the highest rate of Poisson arrivals that policy `fastest` sustains.",
)
@click.option(
    "--step",
    type=click.FloatRange(1, min_open=True),
    callback=finite,
    default=1.1,
    show_default=True,
    help="With --find-rate, the factor from each rate to the next.",
)
@click.option("--out", type=FOLDER, help="Folder for tables, plots, outcomes and batch durations.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
def main(
    catalog: Path,
    variants: str,
    policies: Sequence[str],
    arrivals: str,
    rate: float,
    seconds: float | None,
    slos: Sequence[str],
    seed: int,
    rounds: int,
    cores: int,
    slots: int,
    lag_ms: float,
    kill_every: float | None,
    find_rate: bool,
    step: float,
    out: Path | None,
    as_markdown: bool,
) -> None:
    """Compare policies on real services that receive the same requests.

    The exit status is 1 if a request was lost or failed, or if a run is invalid.
    """
    if find_rate and (out is not None or kill_every is not None):
        raise click.UsageError("--find-rate only prints: omit --out and --kill-every.")
    names = parse_policies(policies)
    selected = tuple(parse_names(variants))
    profiles = variant_profiles(Catalog.load(catalog), hardware(1).key, selected)
    settings = Settings.model_validate(
        {
            "catalog": catalog,
            "variants": selected,
            "http": {"port": 0},
            "grpc": {"port": 0},
            "hosts": {"slots": slots, "cores": cores},
        }
    )
    default_s = DEFAULT_FIND_RATE_SECONDS if find_rate else DEFAULT_SECONDS
    demand = parse_demand(
        arrivals, slos, rate_per_s=rate, seconds=seconds or default_s, profiles=profiles
    )
    live_settings = LiveSettings(settings, profiles, demand, lag_ms / 1e3, kill_every)
    if find_rate:
        show([_find_rate(live_settings, seed, step)], Console(), as_markdown=as_markdown)
        return
    runs: list[PolicyRun] = []
    for number in range(rounds):
        for policy in names:
            runs.append(run_policy(live_settings, policy, seed + number))
            _report(runs[-1])
            if out is not None:
                _write_run(runs[-1], out / f"seed-{seed + number}")
    note = f"{', '.join(profiles)}; cores {cores}, slots {slots}; {describe_machine()} after"
    title = trial_title(demand, runs[0].live.outcomes)
    grids = _grids(runs, f"{title}, live", note)
    show(grids, Console(), as_markdown=as_markdown)
    if out is not None:
        _write_all(runs, grids, title, note, out)
    unserved = sum(run.live.unserved for run in runs)
    invalid = sum(bool(run.invalid_reason) for run in runs)
    if unserved or invalid:
        raise click.ClickException(
            f"{unserved:,} requests failed or were lost; {invalid} of {len(runs)} runs are invalid"
        )


def _grids(runs: Sequence[PolicyRun], title: str, note: str) -> list[Grid]:
    summaries = [run.kill_summary for run in runs if run.kill_summary]
    kills = kill_grids(summaries) if summaries else []
    return [live_grid(runs, title, note), run_differences_grid(runs), *kills]


def _report(run: PolicyRun) -> None:
    attainment = run.live.run.score.attainment
    result = f"{run.policy}, seed {run.seed}: {100 * attainment:.3f} % on time"
    client = describe_client(run.live.client)
    click.echo(f"{result}. {client} {run.invalid_reason}".rstrip(), err=True)
    if run.live.first_failure:
        click.echo(f"First failed request: {run.live.first_failure}", err=True)


def _write_run(run: PolicyRun, folder: Path) -> None:
    """Write the outcomes and batch durations, which cannot be recreated, right after the run."""
    folder.mkdir(parents=True, exist_ok=True)
    write_outcomes_by_policy((run.live.outcomes, *run.simulated.outcomes), folder)
    path = folder / f"{run.policy}-{TIMINGS_FILE}"
    artifact.write_record(path, run.timings)


def _write_all(
    runs: Sequence[PolicyRun], grids: Sequence[Grid], title: str, note: str, folder: Path
) -> None:
    first = [run for run in runs if run.seed == runs[0].seed]
    live = [run.live.outcomes for run in first]
    simulated = [outcomes for run in first for outcomes in run.simulated.outcomes]
    trial = live_trial(runs, title, note)
    write_grids(folder / TABLES_FILE, grids)
    write_trial(folder, trial, (*live, *simulated), runs[0].live.accuracy)
    click.echo(f"written to {folder}", err=True)


def _find_rate(settings: LiveSettings, seed: int, step: float) -> Grid:
    """Measure rising rates, starting at that of the demand, on one service of policy `fastest`."""
    policy = "fastest"
    with run_service(settings.service.model_copy(update={"policy": policy})) as service:

        def measure(rate_per_s: float, number: int) -> RatePoint:
            demand = replace(settings.demand, arrivals=Poisson(), rate_per_s=rate_per_s)
            live = replay_live(
                service.url, demand, policy=policy, seed=seed + number, profiles=settings.profiles
            )
            score = live.run.score
            point = RatePoint(
                rate_per_s=rate_per_s,
                attainment=score.attainment,
                p99_s=score.latency_s.get("p99"),
                client_delay_p99_s=live.client.delay_p99_s,
                is_valid=not invalid_reason(live, settings.max_client_delay_s),
            )
            click.echo(f"{rate_per_s:,.0f}/s: {100 * point.attainment:.3f} % on time", err=True)
            return point

        warm_up(service, settings.demand, settings.profiles, policy, seed)
        points = measure_rising_rates(measure, settings.demand.rate_per_s, step)
    classes = ", ".join(each.name for each in settings.demand.classes)
    note = (
        f"{settings.demand.seconds:g} s of Poisson arrivals per rate; a rate is sustained if "
        f"{100 * MIN_ATTAINMENT:g} % are on time; {describe_machine()} after"
    )
    return rates_grid(points, f"Policy fastest, {classes}", note)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
