"""Requests per second and latency at 1, 16 and 64 clients, and what each part of a request costs.

    python -m loadtests.benchmarks.throughput [--markdown]

Builds the variants of `throughput.yaml`, serves them on a free port, and drives the gateway with
binary tensors of 3.1 kB. All set-ups take turns, round by round, in one run: on a machine that
clients, gateway and hosts share, only their ratios say much.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Final

import click
from rich.console import Console
from rich.progress import Progress

from loadtests.benchmarks import costs
from loadtests.benchmarks import listener_alone as alone
from loadtests.client import binary
from loadtests.client.http import build_post_request, run_closed_loop
from loadtests.client.service import connect
from loadtests.trials.grid import Grid, show
from serving.gateway.description import Ports
from variants.catalog.hardware import hardware

PROJECT: Final = Path(__file__).with_name("throughput.yaml")
SECONDS_PER_POINT: Final = 0.1
CLIENTS: Final = (1, 16, 64)
ALONE: Final = "uvicorn alone, no model"
PINNED: Final = "pinned, no SLO"

COST_ROUNDS: Final = 7
COST_SECONDS: Final = 0.1
DECISIONS: Final = 20_000


@dataclass(frozen=True)
class Setup:
    """One way to be asked: a port, and the bytes that a client sends over and over."""

    name: str
    port: int
    request: bytes


@dataclass(frozen=True, slots=True)
class ThroughputPoint:
    """One set-up at one number of clients."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float


Points = Mapping[tuple[str, int], ThroughputPoint]


def setups(port: int, alone_port: int) -> list[Setup]:
    """Return the ways to be measured; every one but the first is answered by the dense variant."""
    service = connect(f"http://127.0.0.1:{port}")
    (plain,) = binary.random_requests(service.metadata, 1)
    slo = {"slo_latency_ms": 1000, "min_accuracy": 0.5}
    (with_parameters,) = binary.random_requests(service.metadata, 1, slo)
    slo_headers = {"x-slo-latency-ms": "1000", "x-slo-min-accuracy": "0.5"}
    pinned = f"/v2/models/{service.metadata['name']}/versions/dense/infer"
    return [
        Setup(ALONE, alone_port, build_post_request("/", plain.body, plain.headers)),
        Setup(PINNED, port, build_post_request(pinned, plain.body, plain.headers)),
        Setup("routed, no SLO", port, build_post_request(service.path, plain.body, plain.headers)),
        Setup(
            "routed, SLO in headers",
            port,
            build_post_request(service.path, plain.body, {**plain.headers, **slo_headers}),
        ),
        Setup(
            "routed, SLO in parameters",
            port,
            build_post_request(service.path, with_parameters.body, with_parameters.headers),
        ),
    ]


def measure(
    setups: Sequence[Setup],
    clients: Sequence[int],
    rounds: int,
    seconds: float,
    on_run: Callable[[], None] = lambda: None,
) -> Points:
    """Return the medians over rounds; raises `RuntimeError` if any request failed."""
    seen: dict[tuple[str, int], list[ThroughputPoint]] = {}
    for _, count, setup in product(range(rounds), clients, setups):
        outcome = run_closed_loop(setup.port, setup.request, count, seconds)
        if outcome.failures:
            raise RuntimeError(
                f"{setup.name}: {outcome.failures} requests failed: {outcome.first_failure!r}"
            )
        point = ThroughputPoint(
            outcome.requests_per_s, outcome.quantile_ms(0.5), outcome.quantile_ms(0.99)
        )
        seen.setdefault((setup.name, count), []).append(point)
        on_run()
    return {key: middle(points) for key, points in seen.items()}


def middle(points: Sequence[ThroughputPoint]) -> ThroughputPoint:
    """Return the median of each number on its own."""
    return ThroughputPoint(
        median(point.requests_per_s for point in points),
        median(point.p50_ms for point in points),
        median(point.p99_ms for point in points),
    )


def throughput_grid(points: Points, note: str) -> Grid:
    """Show all points, each with its share of what the pinned variant reaches."""
    rows = [
        (
            name,
            str(count),
            f"{point.requests_per_s:,.0f}",
            f"{point.p50_ms:.2f}",
            f"{point.p99_ms:.2f}",
            f"{point.requests_per_s / points[PINNED, count].requests_per_s:.2f}",
        )
        for (name, count), point in points.items()
    ]
    columns = ("set-up", "clients", "requests/s", "p50 ms", "p99 ms", f"x {PINNED}")
    return Grid("Requests per second", columns, rows, note)


@contextmanager
def running_service(progress: Progress) -> Iterator[Ports]:
    """Build the variants, and serve them on free ports, which this gives."""
    from serving.cluster.environment import set_environment

    set_environment()
    from serving.cluster.start import cpus_needed, local_cluster, start_service
    from serving.gateway.settings import Settings

    with tempfile.TemporaryDirectory(prefix="paretoserve-throughput-") as folder:
        catalog = build_catalog(Path(folder), progress)
        free = {"http": {"port": 0}, "grpc": {"port": 0}}
        settings = Settings.model_validate({"catalog": catalog, **free})
        with local_cluster(cpus_needed(settings, 2)):
            yield start_service(settings)


def build_catalog(folder: Path, progress: Progress) -> Path:
    """Build the project in a folder; return the catalog. Its most accurate variant is dense."""
    from variants.build.build import build
    from variants.measurement.report_card import measure

    lightly = partial(measure, seconds_per_point=SECONDS_PER_POINT)
    catalog = build(PROJECT, folder / "catalog", progress=progress, measure=lightly)
    accuracies = {
        name: variant.report_cards[0].accuracy.value for name, variant in catalog.variants.items()
    }
    if max(accuracies.values()) in [a for name, a in accuracies.items() if name != "dense"]:
        raise RuntimeError(f"routed requests would not be answered by dense: {accuracies}")
    return folder / "catalog"


def machine() -> str:
    """Say what was measured on, and how busy it was."""
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    return f"{hardware(1).processor}, {os.cpu_count()} cores, load average now {load}"


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--seconds", type=float, default=2.0, show_default=True, help="Of each run.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option(
    "--only", type=click.Choice(["service", "costs"]), help="Measure only this. [default: both]"
)
def main(rounds: int, seconds: float, as_markdown: bool, only: str | None) -> None:
    """Measure the service, and what each part of a request's way costs."""
    before = machine()
    grids = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        if only != "costs":
            with running_service(progress) as ports, alone.running() as alone_port:
                ways = setups(ports.http, alone_port)
                task = progress.add_task("driving", total=rounds * len(CLIENTS) * len(ways))
                points = measure(ways, CLIENTS, rounds, seconds, partial(progress.advance, task))
            note = f"Medians of {rounds} rounds of {seconds:g} s. {before} before."
            grids.append(throughput_grid(points, note))
        if only != "service":
            task = progress.add_task("timing", total=COST_ROUNDS * costs.count_parts())
            parts = costs.measure(COST_ROUNDS, COST_SECONDS, partial(progress.advance, task))
            grids += [costs.costs_grid(parts), costs.decisions_grid(DECISIONS)]
    show(grids, Console(), as_markdown=as_markdown)
    Console(stderr=True).print(f"{machine()} after", highlight=False)


if __name__ == "__main__":
    main()
