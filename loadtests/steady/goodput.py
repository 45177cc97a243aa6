"""Draws the goodput curve of a service, as clients see it.

    python -m loadtests.steady.goodput [--catalog DIR] [--policy pareto,fifo] [--out DIR]
    python -m loadtests.steady.goodput --url URL --policy pareto --label before --out before
    python -m loadtests.steady.goodput --compare before --compare after [--out DIR]

Policies and rounds take turns. Each starts a service of its own, unless there is a URL.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
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
from loadtests.steady.curve import (
    CURVE_FILE,
    Curve,
    CurvePlan,
    CurvePoint,
    measure_round,
    read_curve,
)
from loadtests.steady.curve_plot import PLOT_FILE, draw_curves
from loadtests.steady.curve_tables import compared_grids, curve_grids
from loadtests.steady.target import ClientSettings, open_target
from loadtests.trials.files import write_grids
from loadtests.trials.grid import Grid, show
from loadtests.trials.options import FOLDER
from loadtests.trials.plot_style import to_png
from variants.catalog import artifact

POLICIES: Final = "pareto,slack_fit,fifo"
CLIENTS: Final = "1,4,16,64,128,256,512,1024"
MULTIPLES: Final = "0.5,1,2,3,5,10,20"
TABLES_FILE: Final = "goodput.md"


@click.command()
@options.catalog
@click.option("--url", help="Measure the service at this URL; --policy names its policy.")
@options.policies(POLICIES)
@options.numbers("--clients", CLIENTS, "Clients in the closed loop; empty: no closed loop.")
@options.numbers("--offered", MULTIPLES, "Offered rates of the open loop, in capacities.")
@options.deadline
@options.loose_deadline("of the reference")
@benchmark_options.rounds(3)
@options.positive("--seconds", 3.0, "Duration of the measurement of each load, in seconds.")
@options.settle(0.5)
@options.client_options
@click.option("--label", default="", help="Name of this version in comparisons.")
@click.option(
    "--compare",
    type=FOLDER,
    multiple=True,
    help="Measure nothing; compare what --out has written to this folder; repeatable.",
)
@options.out
@benchmark_options.markdown
def main(
    catalog: Path,
    url: str | None,
    policies: str,
    clients: Sequence[float],
    offered: Sequence[float],
    deadline_ms: float,
    loose_deadline_ms: float,
    rounds: int,
    seconds: float,
    settle: float,
    connections: str,
    pool: int,
    obey_retry_after: bool,
    real_time: bool,
    label: str,
    compare: Sequence[Path],
    out: Path | None,
    as_markdown: bool,
) -> None:
    """Measure goodput in a closed loop and in an open loop, with a deadline and with a loose one.

    Goodput is the number of answers within the deadline per second, by the clock of the client.
    """
    if compare:
        curves = [read_curve(folder) for folder in compare]
        if len({curve.label for curve in curves}) < len(curves):
            raise click.UsageError("--compare requires curves with different labels.")
        grids = compared_grids(curves)
        show(grids, Console(), as_markdown=as_markdown)
        if out is not None:
            write_curves(out, curves, grids)
        return
    names = options.policy_names(policies, url)
    if not clients and not offered:
        raise click.UsageError("--clients and --offered are both empty: there is nothing to do.")
    if any(count != int(count) for count in clients):
        raise click.UsageError("--clients requires integers.")
    plan = CurvePlan(
        [int(count) for count in clients], offered, deadline_ms, loose_deadline_ms, seconds, settle
    )
    settings = options.client_settings(connections, pool, obey_retry_after, real_time)
    note = (
        f"{rounds} rounds of {seconds:g} s after {settle:g} s; connections {connections}, at most "
        f"{pool} in the open loop{'; Retry-After is obeyed' if obey_retry_after else ''}. "
        f"{describe_machine()} before."
    )
    points: list[CurvePoint] = []
    for measured in _measure(catalog, url, names, settings, plan, rounds):
        points += measured
        curve = Curve(
            label=label,
            deadline_ms=deadline_ms,
            loose_deadline_ms=loose_deadline_ms,
            note=note,
            points=tuple(points),
        )
        if out is not None:  # after each round, because an interruption must not lose it
            out.mkdir(parents=True, exist_ok=True)
            artifact.write_record(out / CURVE_FILE, curve)
    grids = curve_grids(curve)
    show(grids, Console(), as_markdown=as_markdown)
    if out is not None:
        write_curves(out, [curve], grids)


def _measure(
    catalog: Path,
    url: str | None,
    policies: Sequence[str],
    settings: ClientSettings,
    plan: CurvePlan,
    rounds: int,
) -> Iterator[list[CurvePoint]]:
    """Yield the points of each round of each policy."""
    with (
        start_load_client() as client,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        task = progress.add_task("measuring", total=rounds * len(policies) * plan.loads)
        for number in range(rounds):
            for policy in policies:
                with open_target(catalog, url, policy, settings) as target:
                    on_load = partial(progress.advance, task)
                    points = list(measure_round(client, target, plan, policy, number, on_load))
                yield points


def write_curves(folder: Path, curves: Sequence[Curve], grids: Sequence[Grid]) -> None:
    """Write the tables and the plot of curves to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_grids(folder / TABLES_FILE, grids)
    artifact.write_file(folder / PLOT_FILE, to_png(draw_curves(curves)))
    click.echo(f"written to {folder}", err=True)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
