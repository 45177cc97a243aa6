"""Verbs that try policies: simulate on a virtual clock, replay against a running service."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loadtests.trials.options import FILE, FOLDER
from paretoserve.commands.options import CATALOG, DEFAULT_CATALOG
from paretoserve.commands.trial_options import (
    CLIENTS,
    DEFAULT_LOAD,
    DEMAND,
    GATEWAY,
    MACHINE,
    MARKDOWN,
    add_options,
    count_option,
    positive_option,
)
from paretoserve.terminal import console, print_lines, progress_bars

if TYPE_CHECKING:
    from serving.routing.profile import VariantProfile

REQUESTS = 5000
"""Default length of a simulation."""

CLOSED_LOOP_SECONDS = 5.0
"""Default length of a simulated closed loop."""

SECONDS = 30.0
"""Default length of a replay."""


@click.command()
@CATALOG
@click.option("--variants", default="", help="Names, comma-separated. [default: all]")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="NAME",
    help="Policies to compare. Repeatable, or comma-separated. [default: all]",
)
@add_options(*DEMAND)
@add_options(*CLIENTS)
@count_option("--seeds", 3, "Number of repetitions, each with its own seed.")
@add_options(*MACHINE)
@GATEWAY
@click.option(
    "--kill",
    "kills",
    multiple=True,
    metavar="VARIANT@AT+FOR",
    help="Take a variant down AT seconds after the start, for FOR seconds. Repeatable.",
)
@click.option(
    "--slow",
    "slows",
    multiple=True,
    metavar="FACTOR@AT",
    help="Let batches take FACTOR times as long from AT seconds on. Repeatable.",
)
@click.option(
    "--bound/--no-bound",
    default=True,
    show_default=True,
    help="Compute the clairvoyant bound and each policy's regret.",
)
@click.option("--out", type=FOLDER, help="Folder for tables, plots and outcomes.")
@MARKDOWN
def simulate(
    catalog: Path | None,
    variants: str,
    policies: Sequence[str],
    arrivals: str,
    load: float | None,
    rate: float | None,
    seconds: float | None,
    requests: int | None,
    slos: Sequence[str],
    clients: int | None,
    think_ms: float,
    retry_ms: float,
    attempts: int,
    seeds: int,
    cores: int,
    slots: int,
    gateways: int,
    max_batch: int,
    link_ms: float,
    accuracy_margin: float,
    threads: int,
    gateway: str,
    kills: Sequence[str],
    slows: Sequence[str],
    bound: bool,
    out: Path | None,
    as_markdown: bool,
) -> None:
    """Compare policies on the same requests, or with the same clients, on a virtual clock.

    The simulation runs the router's own code.
    """
    from loadtests.simulator.clients import ClosedLoop, Retries
    from loadtests.simulator.compare import Load, parse_policies
    from loadtests.simulator.faults import Fault, parse_host_failure, parse_slowdown
    from loadtests.simulator.gateway_costs import parse_gateway_costs
    from loadtests.simulator.service import SimulatedService
    from loadtests.simulator.trial import simulate_trial, write_simulated
    from loadtests.trials.grid import show
    from loadtests.trials.overview import overview
    from loadtests.workload.demand import parse_demand
    from loadtests.workload.mix import parse_mix
    from loadtests.workload.notation import parse_names

    policy_names = parse_policies(policies)
    profiles = _profiles(
        catalog or DEFAULT_CATALOG, threads, parse_names(variants), accuracy_margin
    )
    service = SimulatedService(
        profiles,
        cores,
        slots,
        max_batch,
        link_s=link_ms / 1e3,
        gateways=gateways,
        costs=parse_gateway_costs(gateway),
    )
    faults: list[Fault] = [
        *(parse_host_failure(text, profiles) for text in kills),
        *(parse_slowdown(text) for text in slows),
    ]
    offered: Load
    if clients is None:
        offered = parse_demand(
            arrivals,
            slos,
            load=DEFAULT_LOAD if load is None and rate is None else load,
            rate_per_s=rate,
            seconds=seconds,
            requests=REQUESTS if requests is None and seconds is None else requests,
            profiles=profiles,
            cores=min(cores, slots),
        )
    else:
        if not load is rate is requests is None:
            raise click.UsageError("--clients replaces --load, --rate and --requests.")
        offered = ClosedLoop(
            clients,
            parse_mix(slos, profiles),
            seconds or CLOSED_LOOP_SECONDS,
            think_s=think_ms / 1e3,
            retry_s=retry_ms / 1e3,
        )
    note = (
        f"{', '.join(profiles)}; cores {cores}, slots {slots}, batches of at most {max_batch}",
        *(f"kill {text}" for text in kills),
        *(f"slow {text}" for text in slows),
        *([f"gateway {gateway}"] if gateway else []),
    )
    _make_folder(out)
    with progress_bars() as progress:
        task = progress.add_task("simulating", total=seeds)
        simulated = simulate_trial(
            service,
            offered,
            policy_names,
            seeds,
            faults=faults,
            is_bounded=bound,
            retries=Retries(attempts, retry_ms / 1e3),
            note="; ".join(note),
            on_done=lambda done: progress.update(task, completed=done),
        )
    show(overview(simulated.trial), console, as_markdown=as_markdown)
    print_lines((simulated.speed,))
    if out is not None:
        print_lines(map(str, write_simulated(simulated, service, out)))


@click.command()
@click.argument("url")
@click.option(
    "--catalog",
    type=FOLDER,
    help="The service's catalog. Needed for --load, latency_x and dense_x.",
)
@click.option("--policy", default="pareto", show_default=True, help="The service's policy.")
@add_options(*DEMAND)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of the requests.",
)
@positive_option(
    "--lag-ms",
    default=2.0,
    show_default=True,
    help="Largest 99th percentile of the client's own delay for the result to count.",
)
@click.option(
    "--compare-simulation",
    is_flag=True,
    help="Simulate the same requests, and print the difference.",
)
@click.option(
    "--timings",
    type=FILE,
    help="timings.json of an earlier replay, for the simulation to use.",
)
@add_options(*MACHINE)
@click.option("--out", type=FOLDER, help="Folder for tables, plots, outcomes and timings.")
@MARKDOWN
def replay(
    url: str,
    catalog: Path | None,
    policy: str,
    arrivals: str,
    load: float | None,
    rate: float | None,
    seconds: float | None,
    requests: int | None,
    slos: Sequence[str],
    seed: int,
    lag_ms: float,
    compare_simulation: bool,
    timings: Path | None,
    cores: int,
    slots: int,
    gateways: int,
    max_batch: int,
    link_ms: float,
    accuracy_margin: float,
    threads: int,
    out: Path | None,
    as_markdown: bool,
) -> None:
    """Replay requests against the service at URL (open loop).

    Requests are sent at scheduled times, whether or not earlier ones have been answered.
    Latency is measured from the scheduled time of a request. The exit status is 1 if a request
    failed or got no answer, or if the client itself was too late for the result to count.
    """
    from loadtests.replay.live_run import (
        fetch_variants,
        live_trial,
        replay_live,
        score_differences,
        simulate_same_requests,
        write_live_trial,
    )
    from loadtests.replay.timings import Timings, correct_profiles
    from loadtests.simulator.compare import check_policy
    from loadtests.simulator.service import SimulatedService
    from loadtests.trials.grid import show
    from loadtests.trials.overview import overview
    from loadtests.workload.demand import parse_demand
    from variants.catalog.record import read_record

    check_policy(policy)
    if compare_simulation and catalog is None:
        raise click.UsageError("--compare-simulation needs the service's catalog: give --catalog.")
    if timings is not None and not compare_simulation:
        raise click.UsageError("--timings is used by --compare-simulation: give that option too.")
    earlier = read_record(Timings, timings) if timings else None
    profiles = None
    if catalog:
        profiles = _profiles(catalog, threads, fetch_variants(url), accuracy_margin)
    demand = parse_demand(
        arrivals,
        slos,
        load=DEFAULT_LOAD if load is None and rate is None else load,
        rate_per_s=rate,
        seconds=SECONDS if requests is None and seconds is None else seconds,
        requests=requests,
        profiles=profiles,
        cores=min(cores, slots),
    )
    _make_folder(out)
    live = replay_live(url, demand, policy=policy, seed=seed, profiles=profiles)
    try:
        live.client.check(lag_ms / 1e3)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    simulated = None
    if compare_simulation and profiles:
        corrected = correct_profiles(profiles, earlier) if earlier else profiles
        service = SimulatedService(
            corrected, cores, slots, max_batch, link_s=link_ms / 1e3, gateways=gateways
        )
        simulated = simulate_same_requests(service, demand, policy=policy, seed=seed)
    trial = live_trial(live, simulated, demand, url)
    grids = overview(trial)
    if simulated is not None:
        grids.append(score_differences(live.run.score, simulated.runs[0].score))
    show(grids, console, as_markdown=as_markdown)
    if out is not None:
        print_lines(map(str, write_live_trial(live, simulated, trial, out)))
    if live.unserved:
        cause = f"; the first failure: {live.first_failure}" if live.first_failure else ""
        raise click.ClickException(f"{live.unserved:,} requests failed or were lost{cause}")


def _make_folder(out: Path | None) -> None:
    """Create the folder before the trial starts, so that an error does not cost its results."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)


def _profiles(
    catalog: Path, threads: int, only: Sequence[str], accuracy_margin: float
) -> dict[str, VariantProfile]:
    from serving.routing.profile import variant_profiles
    from variants.catalog.catalog import Catalog
    from variants.catalog.hardware import hardware

    return variant_profiles(Catalog.load(catalog), hardware(threads).key, only, accuracy_margin)
