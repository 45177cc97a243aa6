"""Verbs that try policies: simulate, on a virtual clock; replay, against a running service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from loadtests.trials.options import FILE, FOLDER, finite
from paretoserve.commands.options import (
    CATALOG,
    DEFAULT_CATALOG,
    THREADS,
    console,
    print_lines,
    progress_bars,
)

if TYPE_CHECKING:
    from serving.routing.profile import VariantProfile

LOAD = 0.95
REQUESTS = 5000
SECONDS = 30.0

_Verb = TypeVar("_Verb", bound=Callable[..., None])


def _above_0(name: str, **settings: object) -> Callable[[_Verb], _Verb]:
    return click.option(
        name,
        type=click.FloatRange(0, min_open=True),
        callback=finite,
        **settings,  # type: ignore[arg-type]
    )


def _count(name: str, default: int, told: str | None = None) -> Callable[[_Verb], _Verb]:
    least_1 = click.IntRange(min=1)
    return click.option(name, type=least_1, default=default, show_default=True, help=told)


_DEMAND = (
    click.option(
        "--arrivals",
        default="gamma:cv2=4",
        show_default=True,
        help="uniform, poisson, gamma, bursts, acceleration, or trace:path=FILE.",
    ),
    _above_0("--load", help=f"Samples, in multiples of what dense can do. [default: {LOAD}]"),
    _above_0("--rate", metavar="PER_S", help="Requests a second, instead of a load."),
    _above_0("--seconds", help="How long requests arrive for."),
    click.option("--requests", type=click.IntRange(min=1), help="About how many, instead."),
    click.option(
        "--slo",
        "slos",
        multiple=True,
        metavar="TEXT",
        default=("dense_x=2",),
        show_default=True,
        help="A class of requests, as latency_ms=20,share=0.3,min_accuracy=0.9; repeatable.",
    ),
)
_MACHINE = (
    _count("--cores", 1, "Batches that run at once without slowing each other."),
    _count("--slots", 1, "Batches that a variant's hosts take at a time."),
    _count("--gateways", 1, "Each with a queue of its own."),
    _count("--max-batch", 64),
    click.option(
        "--link-ms",
        type=click.FloatRange(0),
        callback=finite,
        default=0.0,
        show_default=True,
        help="The way to a host and back, for every batch; it keeps its core meanwhile.",
    ),
    THREADS,
)
_MARKDOWN = click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")


def _with(*options: Callable[[_Verb], _Verb]) -> Callable[[_Verb], _Verb]:
    def decorate(verb: _Verb) -> _Verb:
        for option in reversed(options):
            verb = option(verb)
        return verb

    return decorate


@click.command()
@CATALOG
@click.option("--variants", default="", help="Names, separated by commas. [default: all]")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    metavar="NAME",
    help="Repeatable, or separated by commas. [default: all]",
)
@_with(*_DEMAND)
@_count("--seeds", 3)
@_with(*_MACHINE)
@click.option(
    "--kill", "kills", multiple=True, metavar="VARIANT@AT+FOR", help="Seconds; repeatable."
)
@click.option("--slow", "slows", multiple=True, metavar="FACTOR@AT", help="Repeatable.")
@click.option(
    "--bound/--no-bound", default=True, show_default=True, help="Regret, by the clairvoyant bound."
)
@click.option("--out", type=FOLDER, help="Folder for tables, plots and outcomes.")
@_MARKDOWN
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
    seeds: int,
    cores: int,
    slots: int,
    gateways: int,
    max_batch: int,
    link_ms: float,
    threads: int,
    kills: Sequence[str],
    slows: Sequence[str],
    bound: bool,
    out: Path | None,
    as_markdown: bool,
) -> None:
    """Compare policies on the same requests, with the router's own code on a virtual clock."""
    from loadtests.simulator.compare import parse_policies
    from loadtests.simulator.faults import parse_host_failure, parse_slowdown
    from loadtests.simulator.simulate import Fault, SimulatedService
    from loadtests.simulator.trial import simulate_trial, write_simulated
    from loadtests.trials.grid import show
    from loadtests.trials.overview import overview
    from loadtests.workload.demand import parse_demand
    from loadtests.workload.notation import parse_names

    named = parse_policies(policies)
    only = parse_names(variants)
    profiles = _profiles(catalog or DEFAULT_CATALOG, threads, only)
    service = SimulatedService(
        profiles, cores, slots, max_batch, link_s=link_ms / 1e3, gateways=gateways
    )
    faults: list[Fault] = [
        *(parse_host_failure(text, profiles) for text in kills),
        *(parse_slowdown(text) for text in slows),
    ]
    demand = parse_demand(
        arrivals,
        slos,
        load=LOAD if load is None and rate is None else load,
        rate_per_s=rate,
        seconds=seconds,
        requests=REQUESTS if requests is None and seconds is None else requests,
        profiles=profiles,
        cores=min(cores, slots),
    )
    note = (
        f"{', '.join(profiles)}; cores {cores}, slots {slots}, batches of {max_batch} at most",
        *(f"kill {text}" for text in kills),
        *(f"slow {text}" for text in slows),
    )
    _make(out)
    with progress_bars() as progress:
        task = progress.add_task("simulating", total=seeds)
        simulated = simulate_trial(
            service,
            demand,
            named,
            seeds,
            faults=faults,
            is_bounded=bound,
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
    "--catalog", type=FOLDER, help="What the service has: for --load, latency_x, dense_x."
)
@click.option("--policy", default="pareto", show_default=True, help="The one that the service has.")
@_with(*_DEMAND)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@_above_0("--lag-ms", default=2.0, show_default=True, help="How late 1 % of requests may be sent.")
@click.option("--compare-simulation", is_flag=True, help="Simulate the same, and show the gap.")
@click.option("--timings", type=FILE, help="Of an earlier replay: what the simulation goes by.")
@_with(*_MACHINE)
@click.option("--out", type=FOLDER, help="Folder for tables, plots, outcomes and timings.")
@_MARKDOWN
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
    threads: int,
    out: Path | None,
    as_markdown: bool,
) -> None:
    """Send requests to the service at URL at their times, whether or not it keeps up.

    Latency counts from the time that a request was meant for. The exit status is 1 if a request
    failed or was never answered, or if the client itself was too late for the result to count.
    """
    from loadtests.replay.live_run import (
        fetch_variants,
        gap,
        live_trial,
        replay_live,
        simulate_same_requests,
        write_live_trial,
    )
    from loadtests.replay.timings import Timings, correct_profiles
    from loadtests.simulator.compare import check_policy
    from loadtests.simulator.simulate import SimulatedService
    from loadtests.trials.grid import show
    from loadtests.trials.overview import overview
    from loadtests.workload.demand import parse_demand
    from variants.catalog.record import read_record

    check_policy(policy)
    if compare_simulation and catalog is None:
        raise click.UsageError("--compare-simulation needs what the service has: give --catalog.")
    if timings is not None and not compare_simulation:
        raise click.UsageError("--timings are for --compare-simulation: give that, too.")
    measured = read_record(Timings, timings) if timings else None
    profiles = _profiles(catalog, threads, fetch_variants(url)) if catalog else None
    demand = parse_demand(
        arrivals,
        slos,
        load=LOAD if load is None and rate is None else load,
        rate_per_s=rate,
        seconds=SECONDS if requests is None and seconds is None else seconds,
        requests=requests,
        profiles=profiles,
        cores=min(cores, slots),
    )
    _make(out)
    live = replay_live(url, demand, policy=policy, seed=seed, profiles=profiles)
    try:
        live.client.check(lag_ms / 1e3)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    simulated = None
    if compare_simulation and profiles:
        known = correct_profiles(profiles, measured) if measured else profiles
        service = SimulatedService(
            known, cores, slots, max_batch, link_s=link_ms / 1e3, gateways=gateways
        )
        simulated = simulate_same_requests(service, demand, policy=policy, seed=seed)
    trial = live_trial(live, simulated, demand, url)
    shown = overview(trial)
    if simulated is not None:
        shown.append(gap(live.run.score, simulated.runs[0].score))
    show(shown, console, as_markdown=as_markdown)
    if out is not None:
        print_lines(map(str, write_live_trial(live, simulated, trial, out)))
    if live.unserved:
        told = f"; the first was told: {live.first_failure}" if live.first_failure else ""
        raise click.ClickException(f"{live.unserved:,} requests failed or were lost{told}")


def _make(out: Path | None) -> None:
    """Make the folder before the work, which would be lost if it cannot be made."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)


def _profiles(catalog: Path, threads: int, only: Sequence[str]) -> dict[str, VariantProfile]:
    from serving.routing.profile import variant_profiles
    from variants.catalog.catalog import Catalog
    from variants.catalog.hardware import hardware

    return variant_profiles(Catalog.load(catalog), hardware(threads).key, only)
