"""Simulates every policy under every condition: attainment, accuracy, regret, goodput.

    python -m loadtests.benchmarks.routing [--catalog DIR] [--out DIR] [--quick] [--processes 2]

The grid varies CV2 of gamma arrivals, load and deadline, with several seeds. Each run is compared
with the clairvoyant bound. With --out, it writes tables and plots, and resumes interrupted runs.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from loadtests.benchmarks import options
from loadtests.simulator.compare import ALL, parse_policies
from loadtests.simulator.parallel import RunStore, SimulationJob, run_jobs
from loadtests.simulator.service import SimulatedService
from loadtests.trials.conditions import FULL, GOODPUT_DEADLINE, QUICK, Table, cases
from loadtests.trials.files import write_grids, write_trial
from loadtests.trials.goodput import goodput_tables
from loadtests.trials.grid import Grid, show
from loadtests.trials.options import FOLDER
from loadtests.trials.runs import Trial
from loadtests.trials.shortfalls import shortfalls
from loadtests.trials.tables import summary
from loadtests.workload.notation import parse_names
from serving.routing.profile import variant_profiles
from variants.catalog.catalog import Catalog
from variants.catalog.hardware import hardware

RUNS_FILE: Final = "runs.jsonl"
TABLES_FILE: Final = "routing.md"
PROGRESS_INTERVAL_S: Final = 10.0
"""Minimum time between two progress messages, in seconds."""

TITLES: Final[dict[Table, str]] = {
    "fastest": "Deadlines as multiples of the p95 latency of the fastest variant",
    "dense": "Deadlines as multiples of the p95 latency of dense",
    "goodput": f"Goodput with a deadline of {GOODPUT_DEADLINE:g} times the median latency of dense",
}

OWN_PACKAGES: Final = ("serving", "variants", "loadtests")


def fingerprint(*parameters: object) -> str:
    """Return a hash of the parameters and of the loaded code of this project."""
    digest = hashlib.sha256(repr(parameters).encode())
    for name, module in sorted(sys.modules.items()):
        if name.split(".")[0] in OWN_PACKAGES and module.__file__:
            digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()


def grids(table: Table, trial: Trial) -> list[Grid]:
    """Return the grids that are printed for a table."""
    if table == "goodput":
        return goodput_tables(trial)
    return [summary(trial), shortfalls(trial)]


def progress_printer(started_s: float) -> Callable[[int, int], None]:
    """Return a callback that prints the progress and the estimated time left to stderr.

    It prints every `PROGRESS_INTERVAL_S`, and when all is done. `started_s` is the start of the
    work as `time.monotonic()`.
    """
    printed_s = started_s

    def print_progress(done: int, total: int) -> None:
        nonlocal printed_s
        now_s = time.monotonic()
        if now_s - printed_s < PROGRESS_INTERVAL_S and done < total:
            return
        printed_s = now_s
        left_s = (now_s - started_s) / done * (total - done)
        click.echo(f"{done:,} of {total:,} done, {left_s / 60:.1f} min left", err=True)

    return print_progress


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
    default=(ALL,),
    show_default=True,
    help="Policies, separated by commas; repeatable.",
)
@click.option(
    "--slo-of",
    "slo_of",
    type=click.Choice(["fastest", "dense"]),
    multiple=True,
    default=("fastest", "dense"),
    show_default=True,
    help="Variant whose latency deadlines are multiples of; repeatable, with a table for each.",
)
@click.option(
    "--goodput/--no-goodput",
    default=True,
    show_default=True,
    help="Whether to simulate the conditions of the goodput table.",
)
@click.option(
    "--requests",
    type=click.IntRange(min=1),
    default=5000,
    show_default=True,
    help="Expected number of requests per run.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Number of seeds per condition.",
)
@click.option(
    "--cores",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Batches that all hosts together run at a time.",
)
@click.option(
    "--slots",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Batches that the hosts of a variant run at a time.",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Number of worker processes.",
)
@click.option(
    "--quick", is_flag=True, help="Use few conditions and at most 2 seeds of 2,000 requests."
)
@click.option(
    "--out",
    type=FOLDER,
    help="Folder for tables, plots and all runs. Completed runs in it are reused.",
)
@options.markdown
def main(
    catalog: Path,
    variants: str,
    policies: Sequence[str],
    slo_of: Sequence[Table],
    goodput: bool,
    requests: int,
    seeds: int,
    cores: int,
    slots: int,
    processes: int,
    quick: bool,
    out: Path | None,
    as_markdown: bool,
) -> None:
    """Compare every policy over a grid of conditions, in simulation."""
    selected = parse_names(variants)
    service = SimulatedService(
        variant_profiles(Catalog.load(catalog), hardware(1).key, selected), cores=cores, slots=slots
    )
    names = parse_policies(policies)
    if quick:
        requests, seeds = min(requests, 2000), min(seeds, 2)
    settings = QUICK if quick else FULL
    tables: list[Table] = list(dict.fromkeys(slo_of))
    if goodput:
        tables.append("goodput")
    jobs = [
        SimulationJob(table, case, seed, has_baselines=table == "goodput")
        for table in tables
        for case in cases(
            table, settings, service.profiles, requests=requests, cores=min(cores, slots)
        )
        for seed in range(seeds)
    ]
    store = RunStore(out and out / RUNS_FILE, fingerprint(service, names, requests))
    started_s = time.monotonic()
    on_done = progress_printer(started_s)
    runs = run_jobs(jobs, service, names, store, processes=processes, on_done=on_done)
    duration_s = time.monotonic() - started_s
    click.echo(f"{len(jobs):,} workloads in {duration_s / 60:.1f} min", err=True)
    note = (
        f"Simulated from {catalog}: {', '.join(service.profiles)}; cores {cores}, slots {slots}, "
        f"{seeds} seeds of about {requests:,} requests each"
    )
    printed: list[Grid] = []
    for table in tables:
        trial = Trial(title=TITLES[table], note=note, runs=runs[table])
        printed += grids(table, trial)
        if out is not None:
            write_trial(out / table, trial)
    if out is not None:
        write_grids(out / TABLES_FILE, printed)
    show(printed, Console(), as_markdown=as_markdown)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
