"""Measures requests per second and latency at 1, 16 and 64 clients, and the cost of each part.

    python -m loadtests.benchmarks.throughput [--markdown]

Builds the variants of `throughput.yaml`, serves them on a free port, and sends binary tensors of
3.1 kB to the gateway. The listener alone, without a model, is measured beside it.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import click
from rich.console import Console
from rich.progress import Progress

from loadtests.benchmarks import costs, options
from loadtests.benchmarks.bare_listener import run_bare_listener
from loadtests.benchmarks.closed_loops import CLIENTS, Points, Scenario, http_scenario, measure
from loadtests.benchmarks.decisions import decisions_grid
from loadtests.benchmarks.machine import describe_machine
from loadtests.benchmarks.service import run_benchmark_service
from loadtests.client import binary
from loadtests.client.service import connect
from loadtests.trials.grid import Grid, show

BARE_LISTENER: Final = "listener alone, no model"
PINNED: Final = "pinned, no SLO"

COST_ROUNDS: Final = 7
"""Number of times that each part of a request is timed."""
COST_SECONDS: Final = 0.1
"""Duration of each of these timings, in seconds."""
DECISIONS: Final = 20_000
"""Number of decisions that are timed for each length of the queue."""


def scenarios(port: int, bare_listener_port: int) -> list[Scenario]:
    """Return the measured scenarios. Dense answers all of them, except the bare listener's."""
    service = connect(f"http://127.0.0.1:{port}")
    (plain,) = binary.random_requests(service.metadata, 1)
    slo = {"slo_latency_ms": 60_000, "min_accuracy": 0.5}
    (with_parameters,) = binary.random_requests(service.metadata, 1, slo)
    slo_headers = {"x-slo-latency-ms": "60000", "x-slo-min-accuracy": "0.5"}
    pinned = f"/v2/models/{service.metadata['name']}/versions/dense/infer"
    return [
        http_scenario(BARE_LISTENER, bare_listener_port, "/", plain.body, plain.headers),
        http_scenario(PINNED, port, pinned, plain.body, plain.headers),
        http_scenario("routed, no SLO", port, service.path, plain.body, plain.headers),
        http_scenario(
            "routed, SLO in headers",
            port,
            service.path,
            plain.body,
            {**plain.headers, **slo_headers},
        ),
        http_scenario(
            "routed, SLO in parameters",
            port,
            service.path,
            with_parameters.body,
            with_parameters.headers,
        ),
    ]


def throughput_grid(points: Points, note: str) -> Grid:
    """Return a table of all points, each with its ratio to the pinned variant."""
    pinned = {
        count: point.requests_per_s
        for (scenario, count), point in points.items()
        if scenario.name == PINNED
    }
    rows = [
        (
            scenario.name,
            str(count),
            f"{point.requests_per_s:,.0f}",
            f"{point.p50_ms:.2f}",
            f"{point.p99_ms:.2f}",
            f"{point.requests_per_s / pinned[count]:.2f}",
        )
        for (scenario, count), point in points.items()
    ]
    columns = ("scenario", "clients", "requests/s", "p50 ms", "p99 ms", f"x {PINNED}")
    return Grid("Requests per second", columns, rows, note)


@click.command()
@options.rounds(5)
@options.seconds(2.0)
@options.markdown
@click.option(
    "--only",
    type=click.Choice(["service", "costs"]),
    help="Measure only this part. [default: both]",
)
def main(rounds: int, seconds: float, as_markdown: bool, only: str | None) -> None:
    """Measure the throughput of the service and the cost of each part of a request."""
    before = describe_machine()
    grids = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        if only != "costs":
            with (
                run_benchmark_service(progress) as ports,
                run_bare_listener() as bare_listener,
            ):
                measured = scenarios(ports.http, bare_listener.port)
                total = rounds * len(CLIENTS) * len(measured)
                task = progress.add_task("sending requests", total=total)
                on_run = partial(progress.advance, task)
                points = measure(measured, CLIENTS, rounds, seconds, on_run)
            note = f"Medians of {rounds} rounds of {seconds:g} s. {before} before."
            grids.append(throughput_grid(points, note))
        if only != "service":
            task = progress.add_task("timing parts", total=COST_ROUNDS * costs.count_parts())
            by_part = costs.measure(COST_ROUNDS, COST_SECONDS, partial(progress.advance, task))
            grids += [costs.costs_grid(by_part), decisions_grid(DECISIONS)]
    show(grids, Console(), as_markdown=as_markdown)
    Console(stderr=True).print(f"{describe_machine()} after", highlight=False)


if __name__ == "__main__":
    main()
