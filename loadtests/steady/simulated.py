"""Draws the goodput curve of a simulated service, whose gateway takes time.

    python -m loadtests.steady.simulated --catalog DIR --gateway COSTS [--label L] [--out DIR]

Tables, plots and files are those of `loadtests.steady.goodput`, which can compare them:
`python -m loadtests.steady.goodput --compare live --compare simulated`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress

from loadtests.benchmarks import options as benchmark_options
from loadtests.simulator.compare import parse_policies
from loadtests.simulator.gateway_costs import parse_gateway_costs
from loadtests.simulator.service import SimulatedService
from loadtests.steady import options
from loadtests.steady.curve import CURVE_FILE, Curve, CurvePlan, CurvePoint
from loadtests.steady.curve_tables import curve_grids
from loadtests.steady.goodput import CLIENTS, MULTIPLES, POLICIES, write_curves
from loadtests.steady.simulated_curve import simulate_round
from loadtests.trials.grid import show
from loadtests.workload.notation import parse_names
from serving.routing.profile import variant_profiles
from variants.catalog import artifact
from variants.catalog.catalog import Catalog
from variants.catalog.hardware import hardware


@click.command()
@options.catalog
@click.option("--variants", default="", help="Variants, separated by commas. [default: all]")
@click.option(
    "--gateway",
    required=True,
    metavar="COSTS",
    help="CPU time of the gateway, as request_ms=0.2,answer_ms=0.2,refusal_ms=0.2,turns=1, or a "
    "file of `python -m loadtests.steady.calibrate`.",
)
@options.policies(POLICIES)
@options.numbers("--clients", CLIENTS, "Clients in the closed loop; empty: no closed loop.")
@options.numbers("--offered", MULTIPLES, "Offered rates of the open loop, in capacities.")
@options.deadline
@options.loose_deadline("of the reference")
@benchmark_options.rounds(3)
@options.positive("--seconds", 3.0, "Duration of the measurement of each load, in seconds.")
@options.settle(0.5)
@click.option(
    "--cores",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Batches that all hosts together run at a time.",
)
@click.option("--label", default="", help="Name of this version in comparisons.")
@options.out
@benchmark_options.markdown
def main(
    catalog: Path,
    variants: str,
    gateway: str,
    policies: str,
    clients: Sequence[float],
    offered: Sequence[float],
    deadline_ms: float,
    loose_deadline_ms: float,
    rounds: int,
    seconds: float,
    settle: float,
    cores: int,
    label: str,
    out: Path | None,
    as_markdown: bool,
) -> None:
    """Simulate goodput in a closed loop and in an open loop."""
    profiles = variant_profiles(Catalog.load(catalog), hardware(1).key, parse_names(variants))
    costs = parse_gateway_costs(gateway)
    service = SimulatedService(profiles, cores, costs=costs)
    names = parse_policies([policies])
    plan = CurvePlan(
        [int(count) for count in clients], offered, deadline_ms, loose_deadline_ms, seconds, settle
    )
    points: list[CurvePoint] = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("simulating", total=rounds * len(names) * plan.loads)
        for number in range(rounds):
            for policy in names:
                on_load = partial(progress.advance, task)
                points += simulate_round(service, plan, policy, number, on_load)
    curve = Curve(
        label=label,
        deadline_ms=deadline_ms,
        loose_deadline_ms=loose_deadline_ms,
        note=f"Simulated: {rounds} rounds of {seconds:g} s after {settle:g} s; variants "
        f"{', '.join(profiles)}, cores {cores}; gateway: {costs.description}.",
        points=tuple(points),
    )
    grids = curve_grids(curve)
    show(grids, Console(), as_markdown=as_markdown)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        artifact.write_record(out / CURVE_FILE, curve)
        write_curves(out, [curve], grids)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
