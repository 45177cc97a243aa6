"""Measures how fast a service recovers from disturbances.

    python -m loadtests.steady.disturb [--catalog DIR] [--only host-killed,burst] [--out DIR]
    python -m loadtests.steady.disturb --url URL --policy pareto --host-pid PID

The benchmark starts the service itself unless there is a URL, and runs on the same machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import Progress

from loadtests.benchmarks import options as benchmark_options
from loadtests.benchmarks.machine import describe_machine
from loadtests.steady import options
from loadtests.steady.client_process import start_load_client
from loadtests.steady.disturbances import DISTURBANCES
from loadtests.steady.recovery import WINDOW_S
from loadtests.steady.recovery_run import (
    DisturbancePlan,
    DisturbedRun,
    DisturbedRuns,
    SteadyLoad,
    measure_disturbances,
)
from loadtests.steady.recovery_tables import recovery_grids
from loadtests.steady.target import Target, open_target
from loadtests.trials.files import write_grids
from loadtests.trials.grid import show
from loadtests.workload.notation import parse_names
from variants.catalog import artifact

RUNS_FILE: Final = "disturbances.json"
TABLES_FILE: Final = "disturbances.md"


@click.command()
@options.catalog
@click.option("--url", help="Disturb the service at this URL; --policy names its policy.")
@click.option(
    "--host-pid",
    "host_pids",
    type=click.IntRange(min=1),
    multiple=True,
    help="With --url, a host process that may be stopped and killed; repeatable.",
)
@options.policies("pareto")
@click.option(
    "--only", default="", help=f"Disturbances, of {', '.join(DISTURBANCES)}. [default: all]"
)
@click.option(
    "--load",
    "loads",
    type=click.Choice([load.value for load in SteadyLoad]),
    multiple=True,
    default=[load.value for load in SteadyLoad],
    show_default=True,
    help="Steady load; repeatable.",
)
@options.deadline
@options.loose_deadline("for the capacity")
@benchmark_options.rounds(5)
@options.settle(1.0)
@options.positive("--before", 3.0, "Time from which the goodput before is taken, in seconds.")
@options.positive("--observe", 6.0, "Time after the disturbance that is observed, in seconds.")
@options.client_options
@options.out
@benchmark_options.markdown
def main(
    catalog: Path,
    url: str | None,
    host_pids: Sequence[int],
    policies: str,
    only: str,
    loads: Sequence[str],
    deadline_ms: float,
    loose_deadline_ms: float,
    rounds: int,
    settle: float,
    before: float,
    observe: float,
    connections: str,
    pool: int,
    obey_retry_after: bool,
    real_time: bool,
    out: Path | None,
    as_markdown: bool,
) -> None:
    """Measure the time to recover, and the answers that are lost, for each disturbance."""
    names = options.policy_names(policies, url)
    if observe < WINDOW_S:
        raise click.UsageError(f"--observe must be at least {WINDOW_S:g} s.")
    plan = DisturbancePlan(
        _select(only, has_hosts=url is None or bool(host_pids)),
        [SteadyLoad(load) for load in loads],
        deadline_ms,
        loose_deadline_ms,
        settle,
        before,
        observe,
    )
    settings = options.client_settings(connections, pool, obey_retry_after, real_time)
    note = f"{rounds} rounds; connections {connections}. {describe_machine()} before."
    runs: list[DisturbedRun] = []
    with (
        start_load_client() as client,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        total = rounds * len(names) * len(plan.disturbances) * len(plan.loads)
        task = progress.add_task("disturbing", total=total)
        for number in range(rounds):
            for policy in names:
                with open_target(catalog, url, policy, settings) as target:
                    hosts = _hosts_of(target, host_pids)
                    on_run = partial(progress.advance, task)
                    runs += measure_disturbances(
                        client, target, plan, policy, number, hosts, on_run
                    )
    result = DisturbedRuns(deadline_ms=deadline_ms, observed_s=observe, note=note, runs=tuple(runs))
    grids = recovery_grids(result)
    show(grids, Console(), as_markdown=as_markdown)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        artifact.write_record(out / RUNS_FILE, result)
        write_grids(out / TABLES_FILE, grids)
        click.echo(f"written to {out}", err=True)


def _select(only: str, *, has_hosts: bool) -> list[str]:
    """Return the names of the disturbances; without hosts, those that need none."""
    chosen = parse_names(only)
    if unknown := [name for name in chosen if name not in DISTURBANCES]:
        raise click.UsageError(
            f"--only: no disturbance {unknown[0]!r}; there are {', '.join(DISTURBANCES)}."
        )
    if has_hosts:
        return chosen or list(DISTURBANCES)
    if needing := [name for name in chosen if DISTURBANCES[name].needs_host]:
        raise click.UsageError(f"{needing[0]} requires --host-pid with --url.")
    return chosen or [name for name, each in DISTURBANCES.items() if not each.needs_host]


def _hosts_of(target: Target, host_pids: Sequence[int]) -> Callable[[], Sequence[int]]:
    if target.service is None:
        return lambda: host_pids
    service = target.service
    return lambda: [pid for pids in service.list_hosts().values() for pid in pids]


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
