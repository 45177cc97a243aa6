"""Policies on real services, in turns: the same requests, open loop, each beside its simulation.

    python -m loadtests.live [--catalog DIR] [--arrivals trace:path=FILE] [--out DIR]
    python -m loadtests.live --find-rate          how much the fastest variant can hold
    python -m loadtests.live --kill-every 12      a host is killed every 12 s

Each turn starts Ray, the gateway and the hosts anew, on free ports of 127.0.0.1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from loadtests.benchmarks.throughput import machine
from loadtests.live.kill_impact import survival_grids
from loadtests.live.rate import HELD, RatePoint, climb, rates_grid
from loadtests.live.service import running
from loadtests.live.tables import gaps_grid, live_grid, live_trial
from loadtests.live.turn import Plan, Turn, take_turn, warm_up, why_invalid
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
from variants.catalog.hardware import hardware

POLICIES: Final = ("pareto", "fixed", "fastest", "slack_fit")
TABLES: Final = "live.md"
ABOVE_0: Final = click.FloatRange(0, min_open=True)
RATE: Final = 200.0
RATE_SECONDS: Final = 5.0


@click.command()
@click.option("--catalog", type=FOLDER, default=Path("catalog"), show_default=True)
@click.option("--variants", default="", help="Names, separated by commas. [default: all]")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    default=POLICIES,
    show_default=True,
    help="Repeatable, or separated by commas.",
)
@click.option(
    "--arrivals",
    default="gamma:cv2=4",
    show_default=True,
    help="uniform, poisson, gamma, bursts, acceleration, or trace:path=FILE.",
)
@click.option(
    "--rate",
    type=ABOVE_0,
    callback=finite,
    default=RATE,
    show_default=True,
    help="Requests a second; the first.",
)
@click.option(
    "--seconds",
    type=ABOVE_0,
    callback=finite,
    help=f"Of a replay. [default: 30; {RATE_SECONDS:g} to find the rate]",
)
@click.option(
    "--slo",
    "slos",
    multiple=True,
    default=("latency_ms=20",),
    show_default=True,
    help="A class of requests, as latency_ms=20,share=0.3,min_accuracy=0.9; repeatable.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Policies take turns so often, each time with the next seed.",
)
@click.option(
    "--cores",
    type=click.IntRange(min=1),
    default=lambda: max(1, len(os.sched_getaffinity(0)) - 1),
    help="Batches that all hosts run at once, live and simulated. [default: the CPUs but one]",
)
@click.option("--slots", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--lag-ms",
    type=ABOVE_0,
    callback=finite,
    default=2.0,
    show_default=True,
    help="A run is invalid if 1 % of its requests were sent later than this.",
)
@click.option(
    "--kill-every",
    type=ABOVE_0,
    callback=finite,
    metavar="SECONDS",
    help="Kill a host process so often.",
)
@click.option(
    "--find-rate", is_flag=True, help="Only find what policy `fastest` holds, of Poisson arrivals."
)
@click.option(
    "--step",
    type=click.FloatRange(1, min_open=True),
    callback=finite,
    default=1.1,
    show_default=True,
    help="Each rate is so many times the one before.",
)
@click.option("--out", type=FOLDER, help="Folder for tables, plots, outcomes and timings.")
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
    """Compare policies on real services that get the same requests.

    The exit status is 1 if a request was lost or failed, or if a run is invalid.
    """
    if find_rate and (out is not None or kill_every is not None):
        raise click.UsageError("--find-rate prints only: leave out --out and --kill-every.")
    named = parse_policies(policies)
    only = tuple(parse_names(variants))
    profiles = variant_profiles(Catalog.load(catalog), hardware(1).key, only)
    settings = Settings.model_validate(
        {
            "catalog": catalog,
            "variants": only,
            "http": {"port": 0},
            "grpc": {"port": 0},
            "hosts": {"slots": slots, "cores": cores},
        }
    )
    default_s = RATE_SECONDS if find_rate else 30.0
    demand = parse_demand(
        arrivals, slos, rate_per_s=rate, seconds=seconds or default_s, profiles=profiles
    )
    plan = Plan(settings, profiles, demand, lag_ms / 1e3, kill_every)
    if find_rate:
        show([_find_rate(plan, seed, step)], Console(), as_markdown=as_markdown)
        return
    turns: list[Turn] = []
    for number in range(rounds):
        for policy in named:
            turns.append(take_turn(plan, policy, seed + number))
            _tell(turns[-1])
            if out is not None:
                _write_turn(turns[-1], out / f"seed-{seed + number}")
    note = f"{', '.join(profiles)}; cores {cores}, slots {slots}; {machine()} after"
    called = trial_title(demand, turns[0].live.outcomes)
    grids = _grids(turns, f"{called}, live", note)
    show(grids, Console(), as_markdown=as_markdown)
    if out is not None:
        _write_all(turns, grids, called, note, out)
    unserved = sum(turn.live.unserved for turn in turns)
    invalid = sum(bool(turn.invalid) for turn in turns)
    if unserved or invalid:
        raise click.ClickException(
            f"{unserved:,} requests failed or were lost; {invalid} of {len(turns)} runs are invalid"
        )


def _grids(turns: Sequence[Turn], called: str, note: str) -> list[Grid]:
    killed = [turn.survived for turn in turns if turn.survived]
    survival = survival_grids(killed) if killed else []
    return [live_grid(turns, called, note), gaps_grid(turns), *survival]


def _tell(turn: Turn) -> None:
    score = turn.live.run.score
    reported = f"{turn.policy}, seed {turn.seed}: {100 * score.attainment:.3f} % on time"
    click.echo(f"{reported}. {describe_client(turn.live.client)} {turn.invalid}".rstrip(), err=True)
    if turn.live.first_failure:
        click.echo(f"The first that failed was told: {turn.live.first_failure}", err=True)


def _write_turn(turn: Turn, folder: Path) -> None:
    """Write at once what cannot be made again."""
    folder.mkdir(parents=True, exist_ok=True)
    write_outcomes_by_policy((turn.live.outcomes, *turn.simulated.outcomes), folder)
    path = folder / f"{turn.policy}-{TIMINGS_FILE}"
    artifact.write_record(path, turn.timings)


def _write_all(
    turns: Sequence[Turn], grids: Sequence[Grid], called: str, note: str, folder: Path
) -> None:
    first = [turn for turn in turns if turn.seed == turns[0].seed]
    live = [turn.live.outcomes for turn in first]
    simulated = [each for turn in first for each in turn.simulated.outcomes]
    trial = live_trial(turns, called, note)
    write_grids(folder / TABLES, grids)
    write_trial(folder, trial, (*live, *simulated), turns[0].live.accuracy)
    click.echo(f"written to {folder}", err=True)


def _find_rate(plan: Plan, seed: int, step: float) -> Grid:
    """Climb from the demand's rate; the service is that of policy `fastest` all the time."""
    policy = "fastest"
    with running(plan.settings.model_copy(update={"policy": policy})) as service:

        def measure(rate_per_s: float, number: int) -> RatePoint:
            demand = replace(plan.demand, arrivals=Poisson(), rate_per_s=rate_per_s)
            live = replay_live(
                service.url, demand, policy=policy, seed=seed + number, profiles=plan.profiles
            )
            score = live.run.score
            point = RatePoint(
                rate_per_s=rate_per_s,
                attainment=score.attainment,
                p99_s=score.latency_s.get("p99"),
                lag_s=live.client.delay_p99_s,
                is_valid=not why_invalid(live, plan.lag_s),
            )
            click.echo(f"{rate_per_s:,.0f}/s: {100 * point.attainment:.3f} % on time", err=True)
            return point

        warm_up(service, plan.demand, plan.profiles, policy, seed)
        points = climb(measure, plan.demand.rate_per_s, step)
    asked = ", ".join(each.name for each in plan.demand.classes)
    note = f"{plan.demand.seconds:g} s of Poisson arrivals each; held is {100 * HELD:g} % on time"
    return rates_grid(points, f"Policy fastest, {asked}", f"{note}; {machine()} after")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
