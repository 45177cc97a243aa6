"""Compares arrangements of a service on one machine: what is computed in which process.

    python -m loadtests.benchmarks.arrangements CATALOG [--markdown]

Each round starts the service once in every arrangement and sends requests to it in closed loops,
with binary tensors, over HTTP. The clients share the machine with the service.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.progress import Progress

from loadtests.benchmarks import options
from loadtests.benchmarks.closed_loops import (
    CLIENTS,
    Points,
    Scenario,
    ThroughputPoint,
    http_scenario,
    measure,
    median_point,
)
from loadtests.benchmarks.machine import describe_machine
from loadtests.client import binary
from loadtests.client.service import connect
from loadtests.trials.grid import Grid, show
from loadtests.trials.options import FOLDER

ARRANGEMENTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "hosts": {},
    "in the gateway": {"hosts": {"in_gateway": "all"}},
}
"""Settings by name; the first is the reference."""

VARIANTS: Final = ("dense", "int8")
"""Variants that requests name, as far as the catalog has them."""

WARM_UP_CLIENTS: Final = 16
WARM_UP_S: Final = 1.0
"""Duration of the load before the first measurement, in seconds."""


@contextmanager
def running(catalog: Path, settings: Mapping[str, Any]) -> Iterator[int]:
    """Serve a catalog on free ports within a `with`; yield the port of HTTP."""
    from serving.cluster.environment import set_environment

    set_environment()  # before ray is imported
    from serving.cluster.start import choose_ports, local_cluster, start_service
    from serving.gateway.settings import Settings

    free = {"http": {"port": 0}, "grpc": {"port": 0}}
    chosen = choose_ports(Settings.model_validate({"catalog": catalog, **free, **settings}))
    with local_cluster():
        yield start_service(chosen).http


def scenarios(port: int) -> list[Scenario]:
    """Return the requests that are measured: of one sample each."""
    service = connect(f"http://127.0.0.1:{port}")
    (request,) = binary.random_requests(service.metadata, 1)
    name = service.metadata["name"]
    pinned = [variant for variant in VARIANTS if variant in service.metadata["versions"]]
    paths = {variant: f"/v2/models/{name}/versions/{variant}/infer" for variant in pinned}
    return [
        http_scenario(name, port, path, request.body, request.headers)
        for name, path in {**paths, "routed, no SLO": service.path}.items()
    ]


def measure_rounds(catalog: Path, rounds: int, seconds: float, progress: Progress) -> Points:
    """Return the medians over the rounds; the names of scenarios begin with the arrangement."""
    task = progress.add_task("starting services", total=rounds * len(ARRANGEMENTS))
    by_case: dict[tuple[str, int], list[ThroughputPoint]] = {}
    described: dict[str, Scenario] = {}
    for _ in range(rounds):
        for arrangement, settings in ARRANGEMENTS.items():
            with running(catalog, settings) as port:
                found = scenarios(port)
                found[-1].run_closed_loop(WARM_UP_CLIENTS, WARM_UP_S)
                for (scenario, clients), point in measure(found, CLIENTS, 1, seconds).items():
                    name = f"{arrangement}: {scenario.name}"
                    described[name] = replace(scenario, name=name)
                    by_case.setdefault((name, clients), []).append(point)
            progress.advance(task)
    return {
        (described[name], clients): median_point(points)
        for (name, clients), points in by_case.items()
    }


def arrangements_grid(points: Points, note: str) -> Grid:
    """Return a table of all points, each with its ratio to the first arrangement."""
    cases = {(scenario.name, clients): point for (scenario, clients), point in points.items()}
    reference = next(iter(ARRANGEMENTS))
    rows = []
    for (name, clients), point in sorted(cases.items(), key=lambda case: _order(*case[0])):
        arrangement, _, request = name.partition(": ")
        compared = cases[f"{reference}: {request}", clients]
        rows.append(
            (
                request,
                str(clients),
                arrangement,
                f"{point.requests_per_s:,.0f}",
                f"{point.p50_ms:.2f}",
                f"{point.p99_ms:.2f}",
                f"{point.requests_per_s / compared.requests_per_s:.2f}",
            )
        )
    columns = ("variant", "clients", "computed by", "requests/s", "p50 ms", "p99 ms", "x hosts")
    return Grid("Arrangements on one machine", columns, rows, note)


def _order(name: str, clients: int) -> tuple[str, int, int]:
    """Sort by variant and number of clients, so that arrangements stand below each other."""
    arrangement, _, request = name.partition(": ")
    return request, clients, list(ARRANGEMENTS).index(arrangement)


@click.command()
@click.argument("catalog", type=FOLDER)
@options.rounds(3)
@options.seconds(1.5)
@options.markdown
def main(catalog: Path, rounds: int, seconds: float, as_markdown: bool) -> None:
    """Measure requests to a catalog's service in each arrangement."""
    before = describe_machine()
    with (
        tempfile.TemporaryDirectory(prefix="paretoserve-arrangements-") as folder,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        # Without the state of the service that may run on this catalog.
        copy = shutil.copytree(
            catalog, Path(folder) / "catalog", ignore=shutil.ignore_patterns(".*")
        )
        points = measure_rounds(copy, rounds, seconds, progress)
    note = f"Medians of {rounds} rounds of {seconds:g} s. {before} before."
    show([arrangements_grid(points, note)], Console(), as_markdown=as_markdown)


if __name__ == "__main__":
    main()
