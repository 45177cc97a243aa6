"""Every policy under every condition, simulated: attainment, accuracy, regret, goodput.

    python -m loadtests.benchmarks.routing [--catalog DIR] [--out DIR] [--quick] [--processes 2]

Gamma arrivals by CV2, load and deadline, several seeds, each run held against the clairvoyant
bound. With --out it writes tables and plots, and goes on there where it was cut off.
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

from loadtests.simulator.compare import ALL, parse_policies
from loadtests.simulator.parallel import RunStore, SimulationJob, run_jobs
from loadtests.simulator.simulate import SimulatedService
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

KEPT: Final = "runs.jsonl"
TABLES: Final = "routing.md"
TELL_S: Final = 10.0

TITLES: Final[dict[Table, str]] = {
    "fastest": "Deadlines in p95 latencies of the fastest variant",
    "dense": "Deadlines in p95 latencies of dense",
    "goodput": f"Goodput, deadline {GOODPUT_DEADLINE:g} median latencies of dense",
}

OURS: Final = ("serving", "variants", "loadtests")


def fingerprint(*asked: object) -> str:
    """Return a text that changes with what is asked for, and with our code that is loaded."""
    digest = hashlib.sha256(repr(asked).encode())
    for name, module in sorted(sys.modules.items()):
        if name.split(".")[0] in OURS and module.__file__:
            digest.update(Path(module.__file__).read_bytes())
    return digest.hexdigest()


def grids(table: Table, trial: Trial) -> list[Grid]:
    """Return what is to be seen of a table at once."""
    if table == "goodput":
        return goodput_tables(trial)
    return [summary(trial), shortfalls(trial)]


def teller(since_s: float) -> Callable[[int, int], None]:
    """Return what says on stderr, now and then, how far it is and how long the rest will take."""
    told_s = since_s

    def tell(done: int, total: int) -> None:
        nonlocal told_s
        now_s = time.monotonic()
        if now_s - told_s < TELL_S and done < total:
            return
        told_s = now_s
        left_s = (now_s - since_s) / done * (total - done)
        click.echo(f"{done:,} of {total:,} done, {left_s / 60:.1f} min left", err=True)

    return tell


@click.command()
@click.option(
    "--catalog",
    type=FOLDER,
    default=Path("catalog"),
    show_default=True,
)
@click.option("--variants", default="", help="Names, separated by commas. [default: all]")
@click.option(
    "--policy", "policies", multiple=True, default=(ALL,), help="Names; may be given repeatedly."
)
@click.option(
    "--slo-of",
    "slo_of",
    type=click.Choice(["fastest", "dense"]),
    multiple=True,
    default=("fastest", "dense"),
    show_default=True,
    help="The variant that deadlines are multiples of: a table for each.",
)
@click.option("--goodput/--no-goodput", default=True, show_default=True)
@click.option("--requests", type=click.IntRange(min=1), default=5000, show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--cores", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--slots", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--processes", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--quick", is_flag=True, help="Few conditions, 2 seeds of 2,000 requests at most.")
@click.option(
    "--out",
    type=FOLDER,
    help="Folder for tables, plots and all runs.",
)
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
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
    machine = hardware(1)
    only = parse_names(variants)
    service = SimulatedService(
        variant_profiles(Catalog.load(catalog), machine.key, only), cores=cores, slots=slots
    )
    named = parse_policies(policies)
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
    kept = RunStore(out and out / KEPT, fingerprint(service, named, requests))
    started_s = time.monotonic()
    runs = run_jobs(jobs, service, named, kept, processes=processes, on_done=teller(started_s))
    took_s = time.monotonic() - started_s
    click.echo(f"{len(jobs):,} workloads in {took_s / 60:.1f} min", err=True)
    note = (
        f"Simulated from {catalog}: {', '.join(service.profiles)}; cores {cores}, slots {slots}, "
        f"{seeds} seeds of about {requests:,} requests each"
    )
    shown: list[Grid] = []
    for table in tables:
        trial = Trial(title=TITLES[table], note=note, runs=runs[table])
        shown += grids(table, trial)
        if out is not None:
            write_trial(out / table, trial)
    if out is not None:
        write_grids(out / TABLES, shown)
    show(shown, Console(), as_markdown=as_markdown)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
